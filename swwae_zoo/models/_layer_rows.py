"""One row of what a model is made of."""

from __future__ import annotations

from typing import NamedTuple

from torch import nn

__all__ = ["Row", "count_params"]


class Row(NamedTuple):
    """One layer.

    part: encoder, head or decoder.
    name: the module's path; for a pool or unpool the stage's with ".pool" or ".unpool" behind it.
    layer: what it is, e.g. "conv 5x5".
    shape: of its output, without the batch: (C, H, W) or (N,).
    params: parameters of its own.
    flops: for one image.
    switch: where its switch goes to or comes from; "" for layers that have none.
    """

    part: str
    name: str
    layer: str
    shape: tuple[int, ...]
    params: int
    flops: int
    switch: str = ""


def count_params(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
