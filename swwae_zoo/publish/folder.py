"""The folder that goes to the Hub, or into the package: weights, config.json, card, pictures; no pickle."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import safetensors
import safetensors.torch
import timm
import torch
from huggingface_hub import ModelCard
from torch import nn

from swwae_zoo.hub.building import MAX_PARAMS
from swwae_zoo.hub.config import read_model_config
from swwae_zoo.hub.errors import HubError
from swwae_zoo.hub.remote import CONFIG, WEIGHTS
from swwae_zoo.hub.verify import Sums, sums_of
from swwae_zoo.models._data_config import contrast_of, set_contrast
from swwae_zoo.publish.card import make_card
from swwae_zoo.publish.trained import TrainedRun
from swwae_zoo.training.places import Place
from swwae_zoo.utils.checksums import check_sealed, save_sealed
from swwae_zoo.utils.text import printable

__all__ = ["CARD", "PICTURES", "Built", "build_folder"]

CARD, PICTURES = "README.md", ("reconstructions.png", "curves.png")
MAX_CARD = 2**20  # bytes, as a pull takes at most


class Built(NamedTuple):
    """sums: of the files in ``folder``, by name. architecture: the registered model's name."""

    folder: Path
    sums: dict[str, Sums]
    architecture: str


def build_folder(
    source: TrainedRun | Place,
    folder: Path,
    load_as: str,
    license: str | None = None,
    pictures: Sequence[str] = PICTURES,
) -> Built:
    """Writes the folder, the same bytes for the same source, and loads it back: bit-equal, or nothing leaves this
    machine.

    Args:
        source: a run, or a folder with a model; the card of such a folder is kept.
        folder: an empty one.
        load_as: for the card: what `swwae_zoo.load` and timm.create_model are given to load it.
        license: of the weights, by the Hub's name for it; None: nothing is said of one.
        pictures: of the run, taken along where they are there.

    Raises:
        ValueError: the weights can't be loaded, or don't come back as they are; the folder's card is none.
    """
    saved, home = source.folder, source.home if isinstance(source, TrainedRun) else source.folder
    config = read_model_config(saved / CONFIG, local=isinstance(source, Place))
    check_sealed(saved / WEIGHTS, (saved / CONFIG).read_bytes())
    _copy_model(saved, source.config.contrast if isinstance(source, TrainedRun) else None, license, folder)
    with ThreadPoolExecutor(1) as other:
        weights = other.submit(sums_of, folder / WEIGHTS)  # takes as long as loading
        model = _load_back(folder, saved / WEIGHTS)
    params = sum(parameter.numel() for parameter in model.parameters())
    if params > MAX_PARAMS:
        raise HubError(f"{saved} holds {params:,} parameters, expected at most {MAX_PARAMS:,}: a pull would refuse it")
    is_shown = isinstance(source, Place) or source.is_last  # the reconstructions are the last model's
    shown = [name for name in pictures if (home / name).is_file() and (is_shown or name != PICTURES[0])]
    for name in shown:
        shutil.copyfile(home / name, folder / name)
    if isinstance(source, Place) and (saved / CARD).is_file():
        _copy_card(saved / CARD, license, folder / CARD)
    else:
        run = source if isinstance(source, TrainedRun) else None
        make_card(run, model, load_as, shown, license).save(folder / CARD)
    sums = {name: sums_of(folder / name) for name in (CARD, CONFIG, *shown)}
    return Built(
        folder, {CARD: sums[CARD], CONFIG: sums[CONFIG], WEIGHTS: weights.result(), **sums}, config.architecture
    )


def _copy_card(card: Path, license: str | None, to: Path) -> None:
    """The card that a folder has already, with another licence if one is given.

    Raises:
        ValueError: it is too large, or its head is no YAML.
    """
    if card.stat().st_size > MAX_CARD:
        raise HubError(f"{printable(card)} has {card.stat().st_size:,} bytes, expected at most {MAX_CARD:,}")
    if license is None:
        shutil.copyfile(card, to)
        return
    try:
        kept = ModelCard(card.read_text(encoding="utf-8"), ignore_metadata_errors=True)
    except Exception as error:  # of the YAML reader, or of the text's encoding
        raise HubError(
            f"{printable(card)} can't be read as a model card ({printable(error, 100)}): repair it, or remove it"
        ) from error
    kept.data["license"] = license
    kept.save(to)


def _copy_model(saved: Path, contrast: str | None, license: str | None, folder: Path) -> None:
    """The weights and config.json, the bytes that were evaluated, but for what config.json says of the licence.

    Runs of earlier versions did not note the contrast normalisation there, and claimed a licence: that is mended, and
    the checksum of config.json in the weights with it.

    Args:
        contrast: of the run's recipe; None: not a run's.
    """
    content = json.loads((saved / CONFIG).read_text(encoding="utf-8"))
    cfg = content["pretrained_cfg"]
    before = json.dumps(cfg)
    if contrast is not None:
        if contrast_of(cfg, str(saved)) != contrast:
            set_contrast(cfg, contrast)
        cfg.pop("tag", None)  # of the weights that a model's name stands for, not of these
        if "backbone" not in content.get("model_args", {}):  # a backbone's own stays
            cfg.pop("license", None)
    if license is not None:
        cfg["license"] = license
    if json.dumps(cfg) == before:
        shutil.copyfile(saved / CONFIG, folder / CONFIG)
        shutil.copyfile(saved / WEIGHTS, folder / WEIGHTS)
        return
    config = json.dumps(content, indent=2).encode() + b"\n"
    (folder / CONFIG).write_bytes(config)
    save_sealed(safetensors.torch.load_file(saved / WEIGHTS), folder / WEIGHTS, config)


def _load_back(folder: Path, saved: Path) -> nn.Module:
    """What `timm.create_model` makes of the folder, checked as any is, and every tensor compared with the run's."""
    model = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    state = model.state_dict()
    with safetensors.safe_open(saved, framework="pt") as file:
        same = set(file.keys()) == state.keys() and all(
            torch.equal(state[name], file.get_tensor(name))
            for name in file.keys()  # noqa: SIM118  not iterable itself
        )
    if not same:
        raise HubError(f"{saved}: the weights don't come back as they were saved; nothing was sent")
    return model
