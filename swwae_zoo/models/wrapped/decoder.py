"""The mirrored decoder of a ladder: from the top map and the switches back to the image, one rung for each step down.

    step m of the backbone   level m   (B, C_m, H, W)  ->  level m+1 (B, C', h, w)
    rung m of the decoder    level m+1 (B, C', h, w)   ->  convs -> C_m  [compared with the what]  -> unpool -> level m

A step that was taken straight from the image has no where: its rung makes the pixels of each window as channels and lays
them out.  Sizes are those that the run recorded, never a factor times another.
"""

from __future__ import annotations

from typing import NamedTuple

import torch.nn.functional as F
from timm.models import checkpoint
from torch import Tensor, nn

from swwae_zoo.layers.conv_norm import ConvFact, ConvNorm
from swwae_zoo.layers.pooling import switch_unpool2d
from swwae_zoo.models._base import Decoding
from swwae_zoo.models.wrapped.capture import Frame, fit

__all__ = ["LadderDecoder", "LadderEncoding", "Rung", "RungFacts"]


class LadderEncoding(NamedTuple):
    """What a wrapped backbone hands over, each field shallow to deep; the last entry of each is the top map's.

    whats: pooled values of step m, (B, C_m, h_m, w_m); of a step without a where the map behind it.
    switches: where of step m, uint8 (B, C_m, h_m, w_m), or None.
    sizes: (H, W) that the rung of step m returns to; the image's for step 0.
    features: what the head starts from.
    frames: geometry of step m's pool, or None.
    """

    whats: tuple[Tensor, ...]
    switches: tuple[Tensor | None, ...]
    sizes: tuple[tuple[int, int], ...]
    features: Tensor
    frames: tuple[Frame | None, ...]


class RungFacts(NamedTuple):
    """in_chs: of level m+1. out_chs: of the what. depth: convolutions. stride: of the step. has_where, is_rectified: of the what."""

    in_chs: int
    out_chs: int
    depth: int
    stride: tuple[int, int]
    has_where: bool
    is_rectified: bool


class Rung(nn.Module):
    """Convolutions of level m+1 down to the width below, then up to level m.

    Args:
        facts: see `RungFacts`.
        batch_norm: behind every convolution, but not in front of the image.
    """

    def __init__(self, facts: RungFacts, batch_norm: bool, device=None, dtype=None):
        super().__init__()
        dd = {"device": device, "dtype": dtype}
        self.facts = facts
        height, width = facts.stride
        out = facts.out_chs if facts.has_where else facts.out_chs * height * width
        same = (ConvNorm(ConvFact(facts.in_chs, facts.in_chs, 3), batch_norm, **dd) for _ in range(facts.depth - 1))
        self.convs = nn.ModuleList(
            [*same, ConvNorm(ConvFact(facts.in_chs, out, 3), batch_norm and facts.has_where, **dd)]
        )

    def forward(
        self, x: Tensor, where: Tensor | None, frame: Frame | None, size: tuple[int, int]
    ) -> tuple[Tensor, Tensor]:
        """(B, in_chs, h, w) -> what's counterpart (B, out_chs, h, w), and (B, out_chs, *size)."""
        if where is not None:
            x = _bridge(x, (where.shape[2], where.shape[3]))
        for conv in self.convs[:-1]:
            x = F.relu(conv(x))
        x = self.convs[-1](x)
        if where is None or frame is None:
            return x, fit(_lay_out(x, self.facts.stride), size, "replicate")
        what = F.relu(x) if self.facts.is_rectified else x
        kernel, stride, padding, pooled = frame
        return what, switch_unpool2d(F.relu(x), where, kernel, stride, padding, output_size=pooled)


def _bridge(x: Tensor, size: tuple[int, int]) -> Tensor:
    """Fits a map to the size behind a step: a margin of unpadded convolutions by zeros, an interpolation by another."""
    if any(2 * max(a, b) > 3 * min(a, b) for a, b in zip(x.shape[2:], size, strict=False)):
        return F.interpolate(x, size)
    return fit(x, size)


def _lay_out(x: Tensor, stride: tuple[int, int]) -> Tensor:
    """(B, C * sh * sw, h, w) -> (B, C, h * sh, w * sw)."""
    sh, sw = stride
    b, c, h, w = x.shape
    return x.view(b, c // (sh * sw), sh, sw, h, w).permute(0, 1, 4, 2, 5, 3).reshape(b, c // (sh * sw), h * sh, w * sw)


class LadderDecoder(nn.Module):
    """The rungs, and behind a where at the image's own size the convolutions that end in the image.

    Args:
        rungs: facts of the rungs, shallow to deep.
        in_chans: channels of the image.
        image_depth: convolutions at the image's size, where the lowest rung unpools to it.
        batch_norm: behind every convolution but the last.
    """

    def __init__(
        self,
        rungs: list[RungFacts],
        in_chans: int,
        image_depth: int = 1,
        batch_norm: bool = False,
        device=None,
        dtype=None,
    ):
        super().__init__()
        dd = {"device": device, "dtype": dtype}
        self.rungs = nn.ModuleList(Rung(facts, batch_norm, **dd) for facts in rungs)
        self.output: nn.ModuleList | None = None
        if rungs[0].has_where:
            chs = rungs[0].out_chs
            same = (ConvNorm(ConvFact(chs, chs, 3), batch_norm, **dd) for _ in range(image_depth - 1))
            self.output = nn.ModuleList([*same, ConvNorm(ConvFact(chs, in_chans, 3), False, **dd)])

    def forward(self, encoding: LadderEncoding, checkpointing: bool = False) -> Decoding:
        """Top map and switches -> reconstruction and middles.

        Args:
            checkpointing: keep no activation inside a rung for backward, compute it again there.
        """
        x = encoding.whats[-1]
        middles = []
        for m in reversed(range(len(self.rungs))):
            rung, where = self.rungs[m], encoding.switches[m]
            taken = (x, where, encoding.frames[m], encoding.sizes[m])
            decoded, x = checkpoint(rung, *taken) if checkpointing else rung(*taken)
            if where is not None:
                middles.append((encoding.whats[m], decoded))
        if self.output is not None:
            x = fit(x, encoding.sizes[0], "replicate")
            for conv in self.output[:-1]:
                x = F.relu(conv(x))
            x = self.output[-1](x)
        return Decoding(x, tuple(reversed(middles)))
