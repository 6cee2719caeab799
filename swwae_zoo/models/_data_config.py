"""How a trained net wants its images: what its pretrained_cfg, and so its config.json, says of its training data.

timm's `create_transform(**resolve_model_data_config(model))` is right wherever timm has a word for what training did
(`swwae_zoo.data.Preprocess`); what it has no word for stands among the notes, and `swwae_zoo.preprocess_of` does it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from swwae_zoo.data.transforms import CONTRASTS, MIN_PADDABLE
from swwae_zoo.hub.errors import HubError

__all__ = ["contrast_of", "describe_training_data", "set_contrast", "stored_size"]

CONTRAST_NOTE = "contrast="
CONTRAST_REMARK = "don't normalise each image's contrast"
PADDING_REMARK = "pad otherwise than with zeros all around"


def contrast_of(cfg: Mapping[str, Any], where: str = "pretrained_cfg") -> str:
    """How each image's contrast was normalised in training: "none" or "image".

    Args:
        cfg: a model's pretrained_cfg.
        where: whose it is, for the error.

    Raises:
        HubError: (a ValueError) it was normalised in a way that this version does not know.
    """
    notes = cfg.get("notes") or ()
    for note in [notes] if isinstance(notes, str) else notes:
        if note.startswith(CONTRAST_NOTE):
            contrast = note.removeprefix(CONTRAST_NOTE)
            if contrast not in CONTRASTS:
                raise HubError(f"{where}: notes contrast={contrast[:50]!r}, expected one of {', '.join(CONTRASTS)}")
            return contrast
    return "none"


def describe_training_data(
    model: nn.Module,
    *,
    contrast: str = "none",
    label_names: Sequence[str] = (),
    image_size: Sequence[int] | None = None,
) -> None:
    """Writes into ``model.pretrained_cfg`` how training fitted, and normalised, its images, and its classes' names.

    A trainer calls it once, before it reads mean and std, and before the model is saved or copied for an average.

    Args:
        model: one of ours.
        contrast: of the recipe, "none" or "image".
        label_names: name of each class, in the order of the logits; empty: they are not known.
        image_size: (H, W) of the images as the data set stores them; None: as the model takes them.
    """
    net: Any = model
    cfg: dict[str, Any] = net.pretrained_cfg
    size: tuple[int, int] = tuple(getattr(net, "img_size", cfg["input_size"][1:]))
    cfg["input_size"] = (net.in_chans, *size)
    for key in ("mean", "std"):
        values = tuple(cfg[key])
        cfg[key] = values if len(values) == net.in_chans else (sum(values) / len(values),) * net.in_chans
    cfg["interpolation"], remarks = "bilinear", [] if contrast == "none" else [CONTRAST_REMARK]
    stored = size if image_size is None else tuple(image_size)
    if stored == size:
        cfg["crop_mode"], cfg["crop_pct"] = "center", 1.0
    elif all(MIN_PADDABLE * want <= have <= want for have, want in zip(stored, size, strict=True)):
        cfg["crop_mode"], cfg["crop_pct"] = "border", _border(stored, size)
        odd = any((want - have) % 2 for have, want in zip(stored, size, strict=True))
        if any(cfg["mean"]) or odd:
            remarks.append(PADDING_REMARK)
    else:
        cfg["crop_mode"], cfg["crop_pct"] = "squash", 1.0
    set_contrast(cfg, contrast)
    cfg["num_classes"] = net.num_classes  # timm drops the names where this differs
    for key in ("description", "label_names", "label_descriptions", "tag"):  # of the weights that its name stands for
        cfg.pop(key, None)
    if hasattr(net, "notation"):  # of the weights in the package; a backbone's own stays
        cfg.pop("license", None)
    if remarks:
        cfg["description"] = f"Preprocessing: timm's transforms {' and '.join(remarks)}; use swwae_zoo.preprocess_of."
    if 0 < len(label_names) <= net.num_classes:
        cfg["label_names"] = tuple(label_names)


def set_contrast(cfg: dict[str, Any], contrast: str) -> None:
    """Notes the contrast normalisation, "none" or "image", among what else the notes say."""
    notes = cfg.get("notes") or ()
    others = [n for n in ([notes] if isinstance(notes, str) else notes) if not n.startswith(CONTRAST_NOTE)]
    cfg["notes"] = [*([CONTRAST_NOTE + contrast] if contrast != "none" else []), *others]


def stored_size(cfg: Mapping[str, Any], size: tuple[int, int]) -> tuple[int, int]:
    """(H, W) of the images that the net was trained on, as they were before they were fitted to its input.

    Where they were resized nothing says from what: then the input's own size.

    Args:
        cfg: a model's pretrained_cfg.
        size: (H, W) of its input.
    """
    if cfg.get("crop_mode") != "border":
        return size
    return (math.floor(size[0] / cfg["crop_pct"]), math.floor(size[1] / cfg["crop_pct"]))


def _border(stored: tuple[int, ...], size: tuple[int, int]) -> float:
    """crop_pct with which timm's border mode pads images of ``stored`` (H, W) to ``size`` without resizing them.

    It resizes the image to fit into floor(size / crop_pct), its longer side first, which has to change nothing.
    """
    pct = min(want / have for have, want in zip(stored, size, strict=True))
    side = 0 if pct == size[0] / stored[0] else 1
    while math.floor(size[side] / pct) < stored[side]:  # 9 / (9 / 7) is 6.999...
        pct = math.nextafter(pct, 0.0)
    return pct
