"""Stages: the notation of a net as the facts that encoder, head and decoder are built from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from swwae_zoo.layers.conv_norm import ConvFact
from swwae_zoo.models import _notation as paper

__all__ = ["Stage", "feature_sizes", "stages_from_notation", "total_reduction"]


class Stage(NamedTuple):
    """One resolution level of the encoder: its convolutions, then a pool of ``pool_size`` (None: no pool)."""

    convs: tuple[ConvFact, ...]
    pool_size: int | None


def stages_from_notation(notation: str, in_chans: int) -> tuple[tuple[Stage, ...], tuple[int, ...]]:
    """The stages and the widths of the fully connected layers of a net in the paper's notation.

    ``"(16)5c-(32)3c-2p-10fc"`` with one input channel gives
    ``((Stage(((1, 16, 5), (16, 32, 3)), 2),), (10,))``.

    Raises:
        ValueError: the notation is wrong (the message points at the character), or two pools follow each other.
    """
    stages: list[Stage] = []
    convs: list[ConvFact] = []
    linears: list[int] = []
    chs = in_chans
    for layer in paper.parse(notation):
        if isinstance(layer, paper.Conv):
            convs.append(ConvFact(chs, layer.maps, layer.kernel))
            chs = layer.maps
        elif isinstance(layer, paper.Pool):
            if not convs:
                raise ValueError(f"{notation!r}: two pools follow each other; put a convolution between them")
            stages.append(Stage(tuple(convs), layer.kernel))
            convs = []
        else:
            linears.append(layer.features)
    if convs:  # convolutions after the last pool are a stage that keeps its resolution
        stages.append(Stage(tuple(convs), None))
    return tuple(stages), tuple(linears)


def total_reduction(stages: Sequence[Stage]) -> int:
    """Product of the pool sizes: the reduction of the top what, and the side of the smallest image."""
    product = 1
    for stage in stages:
        product *= stage.pool_size or 1
    return product


def feature_sizes(stages: Sequence[Stage], img_size: tuple[int, int]) -> list[tuple[int, int]]:
    """(h, w) after each stage for images of ``img_size``; rows and columns that don't fill a window are dropped.

    Raises:
        ValueError: a pool's window is larger than the map it meets.
    """
    sizes, (h, w) = [], img_size
    for m, stage in enumerate(stages):
        k = stage.pool_size or 1
        if min(h, w) < k:
            smallest = total_reduction(stages)
            raise ValueError(
                f"images of {img_size[0]}x{img_size[1]} are too small: stage {m} pools {k}x{k} windows, but its map "
                f"is {h}x{w}; this net takes images from {smallest}x{smallest} up"
            )
        h, w = h // k, w // k
        sizes.append((h, w))
    return sizes
