"""Where the weights of `timm.create_model(..., pretrained=True)` come from, for our models.

timm reads config.json and weights apart from each other, and checks neither sums nor what the configuration asks for.
So a model's function calls `resolve` first: whether a folder, the package or the Hub is the source, the weights then come
from one checked safetensors file, and the configuration from the same commit.  What timm alone handles (checkpoint_path,
a file or an address in a pretrained_cfg) is left to it: it reads pickles with weights_only=True.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from timm.models import get_pretrained_cfg
from timm.models._builder import resolve_pretrained_cfg
from timm.models._factory import parse_model_name
from timm.models._hub import load_model_config_from_path

from swwae_zoo.hub.config import ModelConfig, build_empty, check_model_config, read_model_config
from swwae_zoo.hub.errors import HubError, Missing
from swwae_zoo.hub.fetch import Snapshot, fetch, fetch_file, snapshots
from swwae_zoo.hub.remote import CONFIG, WEIGHTS, split_revision
from swwae_zoo.hub.verify import check_tensors

__all__ = ["ORGANISATION", "PACKAGED", "PUBLISHED", "Backbone", "resolve", "source_of_backbone", "with_weights"]

ORGANISATION = "swwae-zoo"  # whose repositories on the Hub hold the zoo; SWWAE_HUB_ORG names another
PUBLISHED: frozenset[str] = frozenset()  # models and model.tags that lie there; SWWAE_HUB_ORG says that all do
PACKAGED = Path(__file__).resolve().parent.parent / "weights"  # MODEL.TAG/: shipped with the package, no network needed
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


def resolve(variant: str, pretrained: bool, defaults: Mapping[str, Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments for timm's builder, in which the only source of weights is a checked local file.

    Args:
        variant: the registered model.
        pretrained: whether weights are wanted.
        defaults: the variant's own arguments; what was saved with weights goes before them, what the caller gave before both.
        kwargs: what timm called the model's function with.

    Raises:
        RuntimeError: pretrained, but no weights exist.
        HubError: (a ValueError) they can't be had, or are not what they should be.
    """
    given = dict(kwargs)
    cfg, overlay = given.get("pretrained_cfg"), dict(given.get("pretrained_cfg_overlay") or {})
    source = cfg.get("source") if isinstance(cfg, dict) else None
    if source in ("hf-hub", "local-dir"):
        saved_args = given.get("pretrained_model_args") or {}
        place = cfg["hf_hub_id"] if source == "hf-hub" else cfg["file"]
        if not pretrained:  # only its configuration was asked for
            plain = {key: value for key, value in cfg.items() if key not in SOURCES}
            check = {"architecture": variant, "model_args": saved_args, "pretrained_cfg": json.loads(json.dumps(plain))}
            build_empty(check_model_config(check, place), place)
            return {**defaults, **given}
        folder, config = _from_hub(variant, place, given) if source == "hf-hub" else _from_folder(Path(place))
    else:
        known = _resolved_cfg(variant, cfg, overlay)
        if not pretrained and known.notes:  # they tell of weights that are not loaded
            given["pretrained_cfg_overlay"] = {"notes": None, **overlay}
        if not pretrained:
            return {**defaults, **given}
        is_timms = known.url and not (known.file or known.hf_hub_id)
        if known.state_dict or is_timms or (known.file and PACKAGED not in Path(known.file).parents):
            return {**defaults, **given}
        if known.file:
            folder, config = _from_folder(Path(known.file).parent)
        elif known.hf_hub_id:
            folder, config = _by_name(variant, known.hf_hub_id, given.get("cache_dir"))
        else:
            raise RuntimeError(f"{variant} comes without weights: {how_to_train(variant)}")
        given["pretrained_model_args"] = dict(config.model_args)
        given = {**config.model_args, **given}
    given["pretrained_cfg"] = {**config.pretrained_cfg, "file": str(folder / WEIGHTS)}
    given["pretrained_cfg_overlay"] = {key: value for key, value in overlay.items() if key not in SOURCES}
    return {**defaults, **given}


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
            cfg = replace(get_pretrained_cfg(variant), hf_hub_id=hub_id(name), file=None, tag=cfg)
    if cfg is not None and not isinstance(cfg, (str, dict)):
        return replace(cfg, **overlay)
    return resolve_pretrained_cfg(variant, cfg, overlay)


def _from_folder(folder: Path) -> tuple[Path, ModelConfig]:
    """A folder of the user's or of the package: safetensors or nothing."""
    if not (folder / WEIGHTS).is_file():
        raise HubError(f"{folder} has no {WEIGHTS}: nothing else is loaded from a folder, pickles least of all")
    config = read_model_config(folder / CONFIG, str(folder))
    check_tensors(folder / WEIGHTS, build_empty(config, str(folder)), str(folder))
    return folder, config


def _by_name(variant: str, id: str, cache_dir: str | None) -> tuple[Path, ModelConfig]:
    try:
        snapshot = fetch(*split_revision(id), cache_dir=cache_dir)
    except Missing as error:
        raise Missing(f"{error}; or {how_to_train(variant)}") from error
    _check_variant(snapshot, variant, id)
    return snapshot.folder, snapshot.config


def _from_hub(variant: str, id: str, given: dict[str, Any]) -> tuple[Path, ModelConfig]:
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

    snapshot = fetch(repo, revision, cache_dir=cache_dir)
    for before in () if is_what_timm_read(snapshot.folder) else snapshots(repo, cache_dir, is_what_timm_read):
        snapshot = fetch(repo, before, cache_dir=cache_dir)
        if is_what_timm_read(snapshot.folder):  # by now its bytes are checked
            break
    if not is_what_timm_read(snapshot.folder):
        raise HubError(f"{repo} changed while it was read: load it again")
    _check_variant(snapshot, variant, id)
    return snapshot.folder, snapshot.config


def _check_variant(snapshot: Snapshot, variant: str, id: str) -> None:
    if snapshot.config.architecture != variant:
        raise HubError(
            f"{id} holds a {snapshot.config.architecture}, expected a {variant}: timm.create_model('hf-hub:{id}', pretrained=True) "
            "takes what is there"
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
    file = cfg.hf_hub_filename if str(cfg.hf_hub_filename).endswith(".safetensors") else WEIGHTS
    return Backbone(name, _from_file(fetch_file(*split_revision(cfg.hf_hub_id), file, cache_dir).path))


def _from_file(file: Path) -> dict[str, Any]:
    return {"file": str(file), "source": None, "state_dict": None, "hf_hub_filename": None}
