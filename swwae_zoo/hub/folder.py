"""The folder that goes to the Hub, or into the package: weights, config.json, card, picture; no pickle."""
from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import NamedTuple

import safetensors.torch
import timm
import torch
from timm.models._hub import save_config_for_hf
from torch import nn

from .card import make_card
from .errors import HubError
from .model_config import CONTRAST_NOTE, read_model_config
from .remote import CONFIG, WEIGHTS
from .trained import Trained

__all__ = ["CARD", "PICTURE", "Built", "build_folder"]

CARD, PICTURE = "README.md", "reconstructions.png"


class Built(NamedTuple):
    """files: names in ``folder``. architecture: the registered model's name."""

    folder: Path
    files: tuple[str, ...]
    architecture: str


def build_folder(trained: Trained, folder: Path, load_as: str) -> Built:
    """Writes the folder, the same bytes for the same run, and loads it back: bit-equal, or nothing leaves this machine.

    Args:
        trained: the run.
        folder: an empty one.
        load_as: for the card: what timm.create_model is given to load it.

    Raises:
        ValueError: the run's weights can't be loaded, or don't come back as they went.
    """
    from ..saved import load_saved

    saved = load_saved(trained.folder)
    model = saved.model
    tensors = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    safetensors.torch.save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
    _write_config(model, trained.config.contrast, folder / CONFIG)
    has_picture = (trained.home / PICTURE).is_file() and trained.is_last  # it shows the last model
    if has_picture:
        shutil.copyfile(trained.home / PICTURE, folder / PICTURE)
    make_card(trained, model, load_as, has_picture).save(folder / CARD)
    _load_back(folder, model)
    return Built(folder, (CARD, CONFIG, WEIGHTS, *((PICTURE,) if has_picture else ())), read_model_config(folder / CONFIG).architecture)


def _write_config(model: nn.Module, contrast: str, path: Path) -> None:
    """timm's config.json, with the contrast normalisation among its notes: timm knows no other place."""
    notes = [CONTRAST_NOTE + contrast] if contrast != "none" else []
    save_config_for_hf(model, path, model_config={"pretrained_cfg": {"notes": notes}})
    content = json.loads(path.read_text(encoding="utf-8"))
    content["pretrained_cfg"].pop("tag", None)  # of the weights that a model's name stands for, not of these
    path.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")


@torch.inference_mode()
def _load_back(folder: Path, model: nn.Module) -> None:
    again = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    state, expected = again.state_dict(), model.state_dict()
    chans, height, width = model.pretrained_cfg["input_size"]
    x = torch.rand(2, model.in_chans if hasattr(model, "in_chans") else chans, height, width, generator=torch.Generator().manual_seed(0))
    if state.keys() != expected.keys() or not all(torch.equal(state[key], expected[key]) for key in expected) \
            or not torch.equal(again(x), model(x)):
        raise HubError(f"{folder}: the weights don't come back as they were saved; nothing was sent")
