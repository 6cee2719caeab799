"""One layer in the summary of a model."""

from __future__ import annotations

from typing import NamedTuple

from torch import nn

__all__ = ["LayerSummary", "count_params"]


class LayerSummary(NamedTuple):
    """One layer.

    part: encoder, head or decoder.
    name: the module's path; for a pool or unpool the stage's path and ".pool" or ".unpool".
    layer: its kind, e.g. "conv 5x5".
    shape: of its output, without the batch: (C, H, W) or (N,).
    params: its own parameters.
    flops: for one image.
    switch: where its switch goes to or comes from; "" for layers without one.
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
