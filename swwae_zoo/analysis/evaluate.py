"""Error and reconstruction loss of a trained model on a data set, as its training measured them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from swwae_zoo.analysis.load import Trained
from swwae_zoo.data import Images, NoSuchSplit, images_on, load_images, make_splits
from swwae_zoo.training.build import request_of
from swwae_zoo.training.classes import labels_for
from swwae_zoo.training.evaluate import classification_error, mean_reconstruction_loss
from swwae_zoo.utils.text import printable

__all__ = ["evaluate", "images_of"]


def evaluate(
    trained: Trained, data: str | None = None, split: str = "test", data_dir: str | None = None, amp: str | None = None
) -> dict[str, Any]:
    """Error and reconstruction loss on a whole split: of a run's test images, those that its result.json states.

    Args:
        trained: from `load`.
        data: a data set; by default the one that a run was trained on.
        split: "test", "train" or "val"; without ``data``, "val" are the images that training held out.
        data_dir: where data sets lie; the run's by default.
        amp: mixed precision, "auto", "off", "bf16" or "fp16"; by default as in training.

    Returns:
        "error" (%, None where the classifier was not trained), "reconstruction" (L_L2rec; None where the decoder was
        not), and what was measured.

    Raises:
        ValueError: no such images, images without labels, or of classes that the model was not trained for.
    """
    images, name = images_of(trained, data, split, data_dir), data or (trained.config.data if trained.config else "")
    autocast, model = trained.autocast(amp), trained.model

    def prepare(batch: Tensor) -> Tensor:
        return trained.input(trained.prepare(batch))

    return {
        "model": trained.name,
        "data": name,
        "split": split,
        "images": images.count,
        "amp": {torch.bfloat16: "bf16", torch.float16: "fp16"}.get(autocast.dtype, "off"),  # type: ignore[arg-type]
        "error": classification_error(model, images, prepare, autocast) if trained.classifies else None,
        "reconstruction": mean_reconstruction_loss(model, images, prepare, autocast) if trained.reconstructs else None,
    }


def images_of(trained: Trained, data: str | None = None, split: str = "test", data_dir: str | None = None) -> Images:
    """Labelled images of one split, on the model's device, their labels counted as the model counts its classes.

    Args, Raises: as for `evaluate`.
    """
    config = trained.config
    if split not in ("test", "train", "val"):
        raise ValueError(f"split: got {printable(split, 50)!r}, expected one of test, train, val")
    if data is None and config is None:
        raise ValueError(
            f"{printable(trained.name)} does not say what it was trained on, as a run does: give --data, such as "
            "folder:PATH"
        )
    if data is None and split == "val":
        images = _held_out(trained, data_dir)
    else:
        try:
            images = load_images(
                data or (config.data if config else ""),
                split,
                data_dir=data_dir or (config.data_dir if config else "") or None,
                img_size=trained.transform.stored_size,
                in_chans=trained.model.in_chans,
                bad_images=config.bad_images if config else "refuse",
            )
        except NoSuchSplit as error:
            if data is None and split == "test" and config and config.num_val:
                raise NoSuchSplit(f"{error}; --split val takes the images that training held out") from error
            raise
    labels = images.labels
    if labels is None or len(labels) == 0:
        raise ValueError(f"{printable(images.name)} has no labelled images in its {split} split: there is no error")
    names = images.class_names
    return images_on(images.labelled(labels_for(trained.model, labels, names, images.name), names), trained.device)


def _held_out(trained: Trained, data_dir: str | None) -> Images:
    """The validation images of a run: its own draw, by its seed.

    Raises:
        ValueError: it held out none.
    """
    config, model = trained.config, trained.model
    assert config is not None
    request = request_of(config, (model.in_chans, *model.img_size))
    val = make_splits(replace(request, data_dir=data_dir or request.data_dir, unlabeled="none", exclude="")).val
    if val is None:
        raise ValueError(f"{printable(trained.name)} held out no validation images (num_val = 0): measure --split test")
    return val
