"""How a loaded model wants its images."""

from __future__ import annotations

from typing import Any

from torch import nn

from swwae_zoo.data import Preprocess
from swwae_zoo.models._data_config import contrast_of

__all__ = ["preprocess_of"]


def preprocess_of(model: nn.Module) -> Preprocess:
    """uint8 images -> the input a model was trained on, contrast normalisation included, which timm's transforms lack.

    Args:
        model: one of ours, made by `timm.create_model`.
    """
    net: Any = model
    cfg: dict[str, Any] = net.pretrained_cfg
    size: tuple[int, int] = tuple(getattr(net, "img_size", cfg["input_size"][1:]))
    return Preprocess(size, mean=cfg["mean"], std=cfg["std"], contrast=contrast_of(cfg))
