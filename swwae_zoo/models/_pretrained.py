"""Where the weights of `timm.create_model(..., pretrained=True)` come from, for our models.

timm reads config.json and weights apart from each other, and checks neither sums nor what the configuration asks for.
So a model's function calls `resolve` first: whether a folder, the package or the Hub is the source, the model is built
once, within bounds, and filled from one checked safetensors file, with the configuration of the same commit.  What
timm alone handles (checkpoint_path, a file or url in a pretrained_cfg) is left to it: it reads pickles with
weights_only=True.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import safetensors
import torch
from timm.models import create_model, get_pretrained_cfg, load_pretrained
from timm.models._builder import resolve_pretrained_cfg
from timm.models._factory import parse_model_name
from timm.models._hub import load_model_config_from_path
from timm.models._pretrained import PretrainedCfg
from torch import Tensor, nn

from swwae_zoo.hub.building import MAX_PARAMS, bounded, check_model
from swwae_zoo.hub.config import ModelConfig, check_model_config, read_model_config
from swwae_zoo.hub.errors import HubError, Missing
from swwae_zoo.hub.fetch import Located, fetch_file, locate, snapshots
from swwae_zoo.hub.remote import CONFIG, WEIGHTS, split_revision
from swwae_zoo.hub.verify import check_tensors
from swwae_zoo.models._base import SWWAE
from swwae_zoo.models._data_config import contrast_of
from swwae_zoo.utils.checksums import check_sealed
from swwae_zoo.utils.text import printable

__all__ = [
    "ORGANISATION",
    "PACKAGED",
    "PUBLISHED",
    "Backbone",
    "SavedModel",
    "place_of_weights",
    "resolve",
    "source_of_backbone",
    "verify_saved",
    "with_weights",
]

ORGANISATION = "swwae-zoo"  # whose repositories on the Hub hold the zoo; SWWAE_HUB_ORG names another
PUBLISHED: frozenset[str] = frozenset()  # models and model.tags that lie there; SWWAE_HUB_ORG says that all do
PACKAGED = Path(__file__).resolve().parent.parent / "weights"  # MODEL.TAG/: shipped with the package, no network needed
NO_ARGUMENT = frozenset(  # of what timm passes on: not part of the model's architecture
    (
        "cache_dir", "device", "dtype", "feature_cls", "features_only", "out_indices", "pretrained_cfg",
        "pretrained_cfg_overlay", "pretrained_model_args",
    )
)  # fmt: skip
SOURCES = ("url", "file", "state_dict", "hf_hub_id", "hf_hub_filename", "source")


def hub_id(name: str) -> str | None:
    """The repository of a model or model.tag; None where it has none."""
    other = os.environ.get("SWWAE_HUB_ORG")
    if other:
        return f"{other}/{name}"
    return f"{ORGANISATION}/{name}" if name in PUBLISHED else None


def packaged_tags(model: str) -> dict[str, Path]:
    """Tag -> folder of the weights of ``model`` that the package holds."""
    folders = (path for path in sorted(PACKAGED.glob(f"{model}.*")) if (path / WEIGHTS).is_file())
    return {path.name.partition(".")[2]: path for path in folders}


def place_of_weights(name: str) -> Path | str:
    """Where the weights of a registered name lie: in a folder of the package, or in a repository ORG/NAME.

    Args:
        name: of one of our models, with or without a tag.

    Raises:
        ValueError: no such tag, or no weights.
    """
    variant, _, tag = name.partition(".")
    try:
        known = _resolved_cfg(variant, tag or None, {})
    except RuntimeError:
        known = PretrainedCfg()
    if known.file and PACKAGED in Path(known.file).parents:
        return Path(known.file).parent
    if known.hf_hub_id:
        return known.hf_hub_id
    tags = ", ".join(f"{variant}.{each}" for each in packaged_tags(variant))
    if tag and tags:
        raise HubError(f"{printable(name, 100)}: there are no such weights, expected {tags}")
    raise HubError(f"{printable(name, 100)} comes without weights: {how_to_train(variant)}")


def with_weights(cfgs: Mapping[str, Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
    """Default cfgs with the sources of their weights: the Hub, and a tag for each folder in the package.

    With SWWAE_HUB_ORG the bare name means that organisation's weights; else the first tag in the package, if any.
    """
    found: dict[str, Mapping[str, Any]] = {}
    for model, cfg in cfgs.items():
        id = hub_id(model)
        found[model] = {**cfg, "hf_hub_id": id} if id else cfg
        for tag, folder in packaged_tags(model).items():
            found[f"{model}.{tag}"] = {**cfg, **_packaged_cfg(folder), "file": str(folder / WEIGHTS)}
        for name in PUBLISHED:
            if name.startswith(f"{model}.") and name not in found:
                found[name] = {**cfg, "hf_hub_id": hub_id(name)}
    return found


def _packaged_cfg(folder: Path) -> dict[str, Any]:
    said = json.loads((folder / CONFIG).read_text(encoding="utf-8"))["pretrained_cfg"]
    return {
        key: tuple(value) if isinstance(value, list) else value  # JSON has no tuples, timm's cfgs do
        for key, value in said.items()
        if key not in ("architecture", "tag", "custom_load")
    }


class SavedModel(NamedTuple):
    """A saved model that timm was asked for, before it is built; built and filled once, within bounds.

    config: what its checked config.json says.
    where: whose that is, for errors.
    changed: arguments that the caller gave otherwise than they were saved.
    limit: parameters that it may have.
    fetch: the model and whether it was changed -> the checked file; None: no weights are wanted.
    """

    config: ModelConfig
    where: str
    changed: frozenset[str]
    limit: int
    fetch: Callable[[nn.Module, bool], Path] | None

    def bounds(self) -> AbstractContextManager[None]:
        """Within it the model is to be built, without drawing weights that are overwritten anyway."""
        is_whole = not self.changed
        return bounded(self.where, self.limit, skip_init=is_whole and self.fetch is not None, blame_config=is_whole)

    def fill(self, model: SWWAE, filter_fn: Callable[..., Any], cfg: Mapping[str, Any]) -> str | None:
        """Checks the model that was built, and loads the weights into it.

        Args:
            model: the one built within `bounds`.
            filter_fn: fits saved tensors to it.
            cfg: its pretrained_cfg, which names the classifier and the first convolution.

        Returns:
            The file they came from; None where none were wanted.
        """
        check_model(model, self.config, self.where, self.changed)
        if self.fetch is None:
            return None
        named = cfg.get("classifier") or ()
        classifiers = (named,) if isinstance(named, str) else tuple(named)

        def fit(state_dict: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
            fitted = filter_fn(state_dict, model)
            for name in model.state_dict():  # where the number of classes differs, timm would leave them random
                if name not in fitted and name.rpartition(".")[0] not in classifiers:
                    raise HubError(
                        f"{self.where}: model.safetensors lacks {name!r}, which the model has with the arguments given "
                        "here: leave them as they were saved"
                    )
            return fitted

        file = str(self.fetch(model, bool(self.changed)))
        source = {**{key: value for key, value in cfg.items() if key not in SOURCES}, "file": file}
        load_pretrained(
            model, pretrained_cfg=source, num_classes=model.num_classes, in_chans=model.in_chans, filter_fn=fit
        )
        return file


def resolve(
    variant: str, pretrained: bool, defaults: Mapping[str, Any], kwargs: Mapping[str, Any]
) -> tuple[dict[str, Any], SavedModel | None]:
    """Arguments for timm's builder, and the saved model that is to be loaded; None where timm loads, or nothing is.

    Args:
        variant: the registered model.
        pretrained: whether weights are wanted.
        defaults: the variant's own arguments; what was saved with weights goes before them, what the caller gave
            before both.
        kwargs: what timm called the model's function with.

    Raises:
        RuntimeError: pretrained, but no weights exist.
        HubError: (a ValueError) they can't be had, or are not what they should be.
    """
    given = dict(kwargs)
    cfg, overlay = given.get("pretrained_cfg"), dict(given.get("pretrained_cfg_overlay") or {})
    source = cfg.get("source") if isinstance(cfg, dict) else None
    if source in ("hf-hub", "local-dir"):
        saved = _given_by_place(variant, pretrained, source, given)
    else:
        known = _resolved_cfg(variant, cfg, overlay)
        if not pretrained and known.notes:  # they tell of weights that are not loaded
            given["pretrained_cfg_overlay"] = {"notes": None, **overlay}
        contrast_of({"notes": known.notes}, variant)
        if not pretrained:
            return {**defaults, **given}, None
        is_timms = known.url and not (known.file or known.hf_hub_id)
        if known.state_dict or is_timms or (known.file and PACKAGED not in Path(known.file).parents):
            return {**defaults, **given}, None
        if known.file:
            saved = _in_folder(Path(known.file).parent, pretrained=True)
        elif known.hf_hub_id:
            saved = _by_name(variant, known.hf_hub_id, given.get("cache_dir"))
        else:
            raise RuntimeError(f"{variant} comes without weights: {how_to_train(variant)}")
    contrast_of(saved.config.pretrained_cfg, saved.where)
    saved = saved._replace(changed=_changed(given, saved.config.model_args))
    given = {**saved.config.model_args, **given, "pretrained_model_args": dict(saved.config.model_args)}
    given["pretrained_cfg"] = dict(saved.config.pretrained_cfg)
    given["pretrained_cfg_overlay"] = {key: value for key, value in overlay.items() if key not in SOURCES}
    return {**defaults, **given}, saved


def _changed(given: Mapping[str, Any], saved: Mapping[str, Any]) -> frozenset[str]:
    return frozenset(
        key for key, value in given.items() if key not in NO_ARGUMENT and not (key in saved and saved[key] == value)
    )


def _given_by_place(variant: str, pretrained: bool, source: str, given: Mapping[str, Any]) -> SavedModel:
    """What timm has read from config.json of a folder or a repository, checked."""
    cfg, local = given["pretrained_cfg"], source == "local-dir"
    place = cfg["file"] if local else cfg["hf_hub_id"]
    if local and pretrained:
        return _in_folder(Path(place), pretrained)
    if pretrained:
        return _from_hub(variant, place, given)
    plain = {key: value for key, value in cfg.items() if key not in SOURCES}
    args = given.get("pretrained_model_args") or {}
    check = {"architecture": variant, "model_args": args, "pretrained_cfg": json.loads(json.dumps(plain))}
    limit = _limit_of(Path(place)) if local else MAX_PARAMS
    where = printable(place)
    return SavedModel(check_model_config(check, where, local), where, frozenset(), limit, None)


def how_to_train(variant: str) -> str:
    return (
        f"`swwae train --model {variant}` trains them by its recipe, and "
        "timm.create_model('local-dir:RUN/best', pretrained=True) loads them"
    )


def _resolved_cfg(variant: str, cfg: Any, overlay: dict[str, Any]) -> Any:
    """timm's own choice of a cfg; with SWWAE_HUB_ORG, a tag that is not registered is that organisation's."""
    if isinstance(cfg, str) and os.environ.get("SWWAE_HUB_ORG"):
        name = f"{variant}.{cfg}"
        try:
            get_pretrained_cfg(name, allow_unregistered=False)
        except RuntimeError:
            known = get_pretrained_cfg(variant) or PretrainedCfg()
            cfg = replace(known, hf_hub_id=hub_id(name), file=None, tag=cfg)
    if cfg is not None and not isinstance(cfg, (str, dict)):
        return replace(cfg, **overlay)
    return resolve_pretrained_cfg(variant, cfg, overlay)


def _in_folder(folder: Path, pretrained: bool) -> SavedModel:
    """A folder of the user's or of the package: safetensors or nothing."""
    where = printable(folder)
    if pretrained and not (folder / WEIGHTS).is_file():
        raise HubError(f"{where} has no {WEIGHTS}: nothing else is loaded from a folder of ours, pickles least of all")
    config = read_model_config(folder / CONFIG, where, local=True)

    def fetch(model: nn.Module, changed: bool) -> Path:
        check_tensors(folder / WEIGHTS, model, where, exact=not changed)
        check_sealed(folder / WEIGHTS, (folder / CONFIG).read_bytes())
        return folder / WEIGHTS

    return SavedModel(config, where, frozenset(), _limit_of(folder), fetch)


def _limit_of(folder: Path) -> int:
    """Parameters that a model in a folder may have: as many as its weights have bytes, if those are more."""
    weights = folder / WEIGHTS
    return max(MAX_PARAMS, weights.stat().st_size if weights.is_file() else 0)


def _by_name(variant: str, id: str, cache_dir: str | None) -> SavedModel:
    try:
        found = locate(*split_revision(id), cache_dir=cache_dir)
    except Missing as error:
        raise Missing(f"{error}; or {how_to_train(variant)}") from error
    return _saved_at(found, variant, id)


def _from_hub(variant: str, id: str, given: Mapping[str, Any]) -> SavedModel:
    """The commit of which timm has read config.json, or a later one that says the same.

    timm reads it before the model's function is called, so another push may have come between.
    """
    repo, revision = split_revision(id)
    cache_dir = given.get("cache_dir")

    def is_what_timm_read(folder: Path) -> bool:
        cfg, name, args = load_model_config_from_path(folder)
        read = {key: value for key, value in given["pretrained_cfg"].items() if key not in SOURCES}
        return (name, args) == (variant, given.get("pretrained_model_args") or {}) and read == {
            key: value for key, value in cfg.items() if key not in SOURCES
        }

    found = locate(repo, revision, cache_dir=cache_dir)
    for before in () if is_what_timm_read(found.folder) else snapshots(repo, cache_dir, is_what_timm_read):
        found = locate(repo, before, cache_dir=cache_dir)
        if is_what_timm_read(found.folder):  # by now its bytes are checked
            break
    if not is_what_timm_read(found.folder):
        raise HubError(f"{repo} changed while it was read: load it again")
    return _saved_at(found, variant, id)


def _saved_at(found: Located, variant: str, id: str) -> SavedModel:
    if found.config.architecture != variant:
        raise HubError(
            f"{id} holds a {found.config.architecture}, expected a {variant}: "
            f"timm.create_model('hf-hub:{id}', pretrained=True) takes what is there"
        )
    return SavedModel(found.config, found.where, frozenset(), MAX_PARAMS, found.weights_for)


def verify_saved(folder: str | Path, model: nn.Module | None = None) -> None:
    """Loads a saved model back, as timm's local-dir: does, so that a trained run can't turn out unreadable at its end.

    Args:
        folder: holds config.json and model.safetensors, as a run's last/ or best/.
        model: what was saved; each tensor is compared with it.

    Raises:
        ValueError: it can't be loaded, or comes back otherwise; one line.
    """
    folder = Path(folder)
    try:
        read_model_config(folder / CONFIG, local=True)
        again = create_model(f"local-dir:{folder}", pretrained=True)
    except (OSError, RuntimeError, TypeError, ValueError, LookupError, safetensors.SafetensorError) as error:
        line = printable(" ".join(str(error).split()), 300)
        raise ValueError(
            f"{printable(folder)} was saved but can't be loaded back, so the trained weights would be of no use: {line}"
        ) from error
    if model is None:
        return
    state = again.state_dict()
    for name, tensor in model.state_dict().items():
        if name not in state or not torch.equal(state[name], tensor.detach().cpu()):
            raise ValueError(
                f"{printable(folder)} was saved but comes back with another {name}: the file system may be damaged"
            )


# --- timm's own backbones -------------------------------------------------------------------------------


class Backbone(NamedTuple):
    """name: what `timm.create_model` is given. overlay: its pretrained_cfg_overlay; empty: timm loads as it does."""

    name: str
    overlay: dict[str, Any]


def source_of_backbone(name: str, pretrained: bool, cache_dir: str | Path | None = None) -> Backbone:
    """Fetches the weights of a timm backbone that lies on the Hub: one safetensors file, of one commit, checked.

    Args:
        name: of timm, with a tag, or "hf-hub:ORG/NAME[@REVISION]", or "local-dir:FOLDER".

    Raises:
        HubError: they can't be had, or the repository has no safetensors file.
    """
    kind, place = parse_model_name(name)
    if kind == "hf-hub":
        repo, revision = split_revision(place)
        commit = fetch_file(repo, revision, CONFIG, cache_dir).commit
        name = f"hf-hub:{repo}@{commit}"  # timm would ask again for each file, and a push could come between
        return Backbone(name, _from_file(fetch_file(repo, commit, WEIGHTS, cache_dir).path) if pretrained else {})
    cfg = get_pretrained_cfg(name, allow_unregistered=True) if pretrained and kind is None else None
    if cfg is None or cfg.file or cfg.state_dict or not cfg.hf_hub_id:
        return Backbone(name, {})
    given = cfg.hf_hub_filename or ""
    file = given if given.endswith(".safetensors") else WEIGHTS
    return Backbone(name, _from_file(fetch_file(*split_revision(cfg.hf_hub_id), file, cache_dir).path))


def _from_file(file: Path) -> dict[str, Any]:
    return {"file": str(file), "source": None, "state_dict": None, "hf_hub_filename": None}
