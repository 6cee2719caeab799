"""Weights in places that are not ours: a file the caller names, a timm backbone's own repository.  No pickle among them.

timm takes a pickle wherever it finds no safetensors file, and whenever it is given one.  Here it is given one checked
safetensors file, or nothing.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import safetensors
from timm.models import create_model, get_pretrained_cfg
from timm.models._factory import parse_model_name

from swwae_zoo.hub.errors import HubError
from swwae_zoo.hub.fetch import fetch_file
from swwae_zoo.hub.remote import CONFIG, WEIGHTS, split_revision

__all__ = ["Source", "checkpoint_of_caller", "refuse_pickle", "refuse_pickle_in", "source_of_backbone"]


def refuse_pickle(file: str | Path) -> None:
    """Sees that a file named by the caller is one of safetensors.

    Raises:
        HubError: (a ValueError) it is none, by name or by content; the line says how to make one of it.
        FileNotFoundError: it is not there.
    """
    path = Path(file)
    if not path.is_file():
        raise FileNotFoundError(2, "no such file", str(path))
    if path.suffix != ".safetensors":
        raise HubError(f"{path} is no .safetensors file, and pickles are not read: {how_to_convert(path)}")
    try:
        with safetensors.safe_open(path, framework="pt"):
            pass
    except (safetensors.SafetensorError, OSError) as error:
        raise HubError(
            f"{path} is not a safetensors file, whatever its name ({' '.join(str(error).split()):.100}); pickles are not read"
        ) from error


def refuse_pickle_in(cfg: Mapping[str, Any]) -> None:
    """Sees that the weights that a cfg of timm's names, other than those of the Hub, are safetensors.

    Raises:
        HubError: they are none.
        FileNotFoundError: they are not there.
    """
    if cfg.get("state_dict"):
        return
    if cfg.get("file"):
        refuse_pickle(cfg["file"])
    elif cfg.get("url") and not cfg.get("hf_hub_id"):
        raise HubError(
            f"timm would read {cfg['url']} as a pickle, and pickles are not read: fetch the file, {how_to_convert('FILE.pth')}, "
            "and give pretrained_cfg_overlay=dict(file='FILE.safetensors')"
        )


def how_to_convert(file: str | Path) -> str:
    return (
        "convert it once, if you trust it: safetensors.torch.save_file({name: tensor.contiguous() for name, tensor in "
        f"timm.models.load_state_dict({str(file)!r}).items()}}, {str(Path(file).with_suffix('.safetensors'))!r})"
    )


def checkpoint_of_caller() -> str | Path | None:
    """The checkpoint_path given to the `timm.create_model` that we are called from.

    timm loads that file when our function is done, tells us nothing of it, and would take a pickle.
    """
    frame = inspect.currentframe()
    while frame is not None and frame.f_code is not create_model.__code__:
        frame = frame.f_back
    return frame.f_locals.get("checkpoint_path") if frame is not None else None


class Source(NamedTuple):
    """name: what `timm.create_model` is given. overlay: for its pretrained_cfg_overlay; empty where no weights are wanted."""

    name: str
    overlay: dict[str, Any]


def source_of_backbone(name: str, pretrained: bool, cache_dir: str | Path | None = None) -> Source:
    """Where a timm backbone's configuration and weights come from: one commit, one safetensors file.

    Args:
        name: of timm, with a tag, or "hf-hub:ORG/NAME[@REVISION]", or "local-dir:FOLDER".

    Raises:
        HubError: they can't be had, or only as a pickle.
    """
    kind, place = parse_model_name(name)
    if kind == "hf-hub":
        repo, revision = split_revision(place)
        commit = fetch_file(repo, revision, CONFIG, cache_dir).commit
        name = f"hf-hub:{repo}@{commit}"  # timm would ask again for each file, and a push could come between
        return Source(name, _from(fetch_file(repo, commit, WEIGHTS, cache_dir).path) if pretrained else {})
    if not pretrained:
        return Source(name, {})
    if kind == "local-dir":
        found = sorted(Path(place).glob("*.safetensors"), key=lambda path: (path.name != WEIGHTS, path.name))
        if not found:
            raise HubError(
                f"{place} has no .safetensors file: nothing else is loaded from a folder, pickles least of all"
            )
        refuse_pickle(found[0])
        return Source(name, _from(found[0]))
    cfg = get_pretrained_cfg(name, allow_unregistered=True)
    if cfg is None or cfg.file or cfg.state_dict or not (cfg.hf_hub_id or cfg.url):
        return Source(name, {})  # timm says what is wrong with it
    if not cfg.hf_hub_id:
        raise HubError(
            f"backbone: timm has the weights of {name} only as a pickle, {cfg.url}, and pickles are not read: fetch it, "
            f"{how_to_convert(str(cfg.url).rpartition('/')[2])}, and give backbone_checkpoint=FILE"
        )
    file = cfg.hf_hub_filename if str(cfg.hf_hub_filename).endswith(".safetensors") else WEIGHTS
    return Source(name, _from(fetch_file(*split_revision(cfg.hf_hub_id), file, cache_dir).path))


def _from(file: Path) -> dict[str, Any]:
    return {"file": str(file), "source": None, "state_dict": None, "hf_hub_filename": None}
