"""The folder that goes to the Hub, or into the package: weights, config.json, card, picture; no pickle."""

from __future__ import annotations

import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import safetensors
import safetensors.torch
import timm
import torch
from torch import nn

from swwae_zoo.hub.building import MAX_PARAMS
from swwae_zoo.hub.config import read_model_config
from swwae_zoo.hub.errors import HubError
from swwae_zoo.hub.remote import CONFIG, WEIGHTS
from swwae_zoo.hub.verify import Sums, sums_of
from swwae_zoo.models._data_config import contrast_of, set_contrast
from swwae_zoo.publish.card import make_card
from swwae_zoo.publish.trained import Trained
from swwae_zoo.utils.checksums import check_sealed, save_sealed

__all__ = ["CARD", "PICTURE", "Built", "build_folder"]

CARD, PICTURE = "README.md", "reconstructions.png"


class Built(NamedTuple):
    """sums: of the files in ``folder``, by name. architecture: the registered model's name."""

    folder: Path
    sums: dict[str, Sums]
    architecture: str


def build_folder(trained: Trained, folder: Path, load_as: str) -> Built:
    """Writes the folder, the same bytes for the same run, and loads it back: bit-equal, or nothing leaves this machine.

    Args:
        trained: the run.
        folder: an empty one.
        load_as: for the card: what timm.create_model is given to load it.

    Raises:
        ValueError: the run's weights can't be loaded, or don't come back as they are.
    """
    config = read_model_config(trained.folder / CONFIG)
    check_sealed(trained.folder / WEIGHTS, (trained.folder / CONFIG).read_bytes())
    _copy_model(trained.folder, trained.config.contrast, folder)
    with ThreadPoolExecutor(1) as other:
        weights = other.submit(sums_of, folder / WEIGHTS)  # takes as long as loading
        model = _load_back(folder, trained.folder / WEIGHTS)
    params = sum(parameter.numel() for parameter in model.parameters())
    if params > MAX_PARAMS:
        raise HubError(
            f"{trained.folder} holds {params:,} parameters, expected at most {MAX_PARAMS:,}: a pull would refuse it"
        )
    has_picture = (trained.home / PICTURE).is_file() and trained.is_last  # it shows the last model
    if has_picture:
        shutil.copyfile(trained.home / PICTURE, folder / PICTURE)
    make_card(trained, model, load_as, has_picture).save(folder / CARD)
    picture = {PICTURE: sums_of(folder / PICTURE)} if has_picture else {}
    sums = {CARD: sums_of(folder / CARD), CONFIG: sums_of(folder / CONFIG), WEIGHTS: weights.result(), **picture}
    return Built(folder, sums, config.architecture)


def _copy_model(saved: Path, contrast: str, folder: Path) -> None:
    """The run's weights and config.json, the bytes that were evaluated.

    Runs of earlier versions did not note the contrast normalisation in config.json: it is added, and the checksum of
    config.json in the weights with it.
    """
    content = json.loads((saved / CONFIG).read_text(encoding="utf-8"))
    cfg = content["pretrained_cfg"]
    if contrast_of(cfg, str(saved)) == contrast and "tag" not in cfg:
        shutil.copyfile(saved / CONFIG, folder / CONFIG)
        shutil.copyfile(saved / WEIGHTS, folder / WEIGHTS)
        return
    set_contrast(cfg, contrast)
    cfg.pop("tag", None)  # of the weights that a model's name stands for, not of these
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
