"""A trained model and the recipe it was trained by, read back from a run directory: to measure it, to see with it."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import safetensors
import timm
import torch
from PIL import Image, ImageOps
from torch import Tensor

from swwae_zoo.analysis.classes import labels_for
from swwae_zoo.config import RunConfig, read_recipe
from swwae_zoo.data import Preprocess, images_on, load_images
from swwae_zoo.data.readers.pictures import check_range, open_picture
from swwae_zoo.hub.config import read_model_config
from swwae_zoo.models._base import SWWAE
from swwae_zoo.training.evaluate import classification_error, mean_reconstruction_loss
from swwae_zoo.training.trainer import lambdas_of
from swwae_zoo.utils.files import user_path
from swwae_zoo.utils.precision import Autocast
from swwae_zoo.utils.text import printable

__all__ = ["Saved", "evaluate_saved", "load_saved", "read_pictures"]

WEIGHTS = ("best", "last")


class Saved(NamedTuple):
    """folder: of the weights. model: in eval mode. prepare: uint8 images -> the model's input, as in training."""

    folder: Path
    model: SWWAE
    config: RunConfig
    prepare: Preprocess
    device: torch.device


def recipe_of(home: Path) -> RunConfig:
    """The recipe in a run directory.

    Raises:
        ValueError: config.toml is missing or is no recipe; one line.
    """
    path = home / "config.toml"
    if not path.is_file():
        raise ValueError(
            f"{printable(home)} holds no run: expected the folder that `swwae train` wrote, with config.toml in it"
        )
    return read_recipe(path)


def load_saved(run: str | Path, weights: str = "best", device: torch.device | None = None) -> Saved:
    """Reads a run directory, or its best/ or last/ itself.

    Args:
        run: what `swwae train --out` was given, or one of its folders.
        weights: "best" or "last"; not looked at where ``run`` is one of the two already.
        device: where to; CPU by default.

    Raises:
        ValueError: no run there, several runs there, no such weights yet, or weights that can't be read or that
            belong to another architecture.
    """
    run, device = user_path(run), device or torch.device("cpu")
    if weights not in WEIGHTS:
        raise ValueError(f"weights: got {weights!r}, expected one of {', '.join(WEIGHTS)}")
    is_folder = run.name in WEIGHTS and (run.parent / "config.toml").is_file()
    home, folder = (run.parent, run) if is_folder else (run, run / weights)
    config = recipe_of(home)
    rounds = sorted(path.parent.name for path in home.glob("seed*/config.toml"))
    if rounds:
        raise ValueError(
            f"{home} holds {len(rounds)} runs: choose one of {', '.join(str(home / name) for name in rounds)}"
        )
    for name in ("config.json", "model.safetensors"):
        if not (folder / name).is_file():
            raise ValueError(
                f"{folder}: has no {name}; the run has not come to its first checkpoint, or give another --weights"
            )
    try:
        read_model_config(folder / "config.json", local=True)  # timm would stumble over another JSON
        model = timm.create_model(f"local-dir:{folder}", pretrained=True)
    except (RuntimeError, ValueError, TypeError, KeyError, safetensors.SafetensorError) as error:
        line = printable(" ".join(str(error).split()), 300)
        raise ValueError(
            f"{printable(folder)}/model.safetensors can't be loaded into the model of its config.json: {line}"
        ) from error
    if not isinstance(model, SWWAE):
        raise ValueError(f"{folder}: got a {type(model).__name__}, expected a SWWAE")
    cfg = model.pretrained_cfg
    prepare = Preprocess(model.img_size, mean=cfg["mean"], std=cfg["std"], contrast=config.contrast)
    return Saved(folder, model.eval().to(device), config, prepare, device)


def evaluate_saved(
    saved: Saved, data: str | None = None, split: str = "test", data_dir: str | None = None, amp: str = "off"
) -> dict[str, Any]:
    """Error and reconstruction loss on a whole split.

    Args:
        data: a data set; the one trained on by default.
        split: "test" or "train".
        data_dir: where data sets lie; the run's by default.
        amp: mixed precision, "off", "bf16" or "fp16".

    Returns:
        "error" (%), "reconstruction" (L_L2rec; None where the decoder was not trained), and what was measured.

    Raises:
        ValueError: images without labels, or of classes that the model was not trained for.
    """
    model, config = saved.model, saved.config
    data = data or config.data
    image_set = load_images(
        data,
        split,
        data_dir=data_dir or config.data_dir or None,
        img_size=model.img_size,
        in_chans=model.in_chans,
        bad_images=config.bad_images,
    )
    labels = image_set.labels
    if labels is None or len(labels) == 0:
        raise ValueError(f"{printable(data)} has no labelled images in its {split} split: there is no error to measure")
    image_set = copy.copy(image_set)
    image_set.labels = labels_for(model, labels, image_set.class_names, data)
    images = images_on(image_set, saved.device)
    autocast = Autocast(amp, saved.device)
    return {
        "run": str(saved.folder),
        "model": config.model,
        "data": data,
        "split": split,
        "images": images.count,
        "error": classification_error(model, images, saved.prepare, autocast),
        "reconstruction": mean_reconstruction_loss(model, images, saved.prepare, autocast)
        if lambdas_of(config).runs_decoder
        else None,
    }


def read_pictures(saved: Saved, files: Sequence[str | Path]) -> Tensor:
    """Image files as the model's input, (B, C, H, W): cropped to its shape at the centre, then sized as in training.

    Raises:
        ValueError: a file that is no readable image; its name is in the message.
    """
    height, width = saved.prepare.img_size
    batch = []
    for file in files:
        try:
            image, used = open_picture(user_path(file), saved.model.in_chans == 1)
            check_range(used, "read")
        except ValueError as error:
            raise ValueError(f"{printable(file)}: {error}") from error
        scale = min(image.width / width, image.height / height)
        box = (
            (width, height)
            if saved.config.data.startswith("folder:")
            else (round(width * scale), round(height * scale))
        )
        pixels = np.array(ImageOps.fit(image, (max(1, box[0]), max(1, box[1])), Image.Resampling.BILINEAR))
        batch.append(
            saved.prepare(torch.from_numpy(pixels).reshape(1, box[1], box[0], -1).permute(0, 3, 1, 2).to(saved.device))
        )
    return torch.cat(batch)
