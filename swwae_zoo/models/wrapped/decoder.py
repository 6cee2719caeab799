"""The mirrored decoder of a backbone: from the top map and the switches back to the image.

It has a stage for each downsampling step:

    step m of the backbone   level m   (B, C_m, H, W)  ->  level m+1 (B, C', h, w)
    stage m of the decoder   level m+1 (B, C', h, w)   ->  convs -> C_m  [compared with the what]  -> unpool -> level m

A step straight from the image has no where: its stage computes the pixels of each window as channels and
rearranges them (pixel shuffle).  Sizes are those that the run recorded, never a factor times another.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch.nn.functional as F
from timm.models import checkpoint
from torch import Tensor, nn

from swwae_zoo.layers.conv_norm import ConvFact, ConvNorm
from swwae_zoo.models._base import Decoding
from swwae_zoo.models.wrapped.capture import PoolGeometry, fit

__all__ = ["WrappedDecoder", "WrappedEncoding", "WrappedDecoderStage", "DecoderStageFacts"]


class WrappedEncoding(NamedTuple):
    """Output of a wrapped encoder, each field shallow to deep; the last entry of each is the top map's.

    whats: pooled values of step m, (B, C_m, h_m, w_m); of a step without a where its output map.
    switches: where of step m, uint8 (B, C_m, h_m, w_m), or None.
    sizes: (H, W) that decoder stage m returns to; the image's for step 0.
    features: input of the head.
    geometries: of step m's pool, or None.
    """

    whats: tuple[Tensor, ...]
    switches: tuple[Tensor | None, ...]
    sizes: tuple[tuple[int, int], ...]
    features: Tensor
    geometries: tuple[PoolGeometry | None, ...]


class DecoderStageFacts(NamedTuple):
    """What decoder stage m is built from.

    in_chs: channels of level m+1.
    out_chs: channels of the what.
    depth: number of convolutions.
    stride: of the step.
    has_where: whether the step has one.
    is_rectified: whether the what is the output of a ReLU.
    """

    in_chs: int
    out_chs: int
    depth: int
    stride: tuple[int, int]
    has_where: bool
    is_rectified: bool


class WrappedDecoderStage(nn.Module):
    """Convolutions of level m+1 to the channels of the what, then unpooling to level m.

    Args:
        facts: see `DecoderStageFacts`.
        batch_norm: batch norm after every convolution but one that gives the image.
    """

    def __init__(self, facts: DecoderStageFacts, batch_norm: bool, device=None, dtype=None):
        super().__init__()
        dd: dict[str, Any] = {"device": device, "dtype": dtype}
        self.facts = facts
        height, width = facts.stride
        out = facts.out_chs if facts.has_where else facts.out_chs * height * width
        same = (ConvNorm(ConvFact(facts.in_chs, facts.in_chs, 3), batch_norm, **dd) for _ in range(facts.depth - 1))
        self.convs: Any = nn.ModuleList(
            [*same, ConvNorm(ConvFact(facts.in_chs, out, 3), batch_norm and facts.has_where, **dd)]
        )

    def forward(
        self, x: Tensor, where: Tensor | None, geometry: PoolGeometry | None, size: tuple[int, int]
    ) -> tuple[Tensor, Tensor]:
        """(B, in_chs, h, w) -> the middle (B, out_chs, h, w), and level m (B, out_chs, *size)."""
        if where is not None:
            x = _bridge(x, (where.shape[2], where.shape[3]))
        for conv in self.convs[:-1]:
            x = F.relu(conv(x))
        x = self.convs[-1](x)
        if where is None or geometry is None:
            return x, fit(_lay_out(x, self.facts.stride), size, "replicate")
        what = F.relu(x) if self.facts.is_rectified else x
        return what, geometry.unpool(F.relu(x), where)


def _bridge(x: Tensor, size: tuple[int, int]) -> Tensor:
    """Fits a map to the size after a step: pads what convolutions without padding cut, inverts an interpolation."""
    if any(2 * max(a, b) > 3 * min(a, b) for a, b in zip(x.shape[2:], size, strict=False)):
        return F.interpolate(x, size)
    return fit(x, size)


def _lay_out(x: Tensor, stride: tuple[int, int]) -> Tensor:
    """(B, C * sh * sw, h, w) -> (B, C, h * sh, w * sw)."""
    sh, sw = stride
    b, c, h, w = x.shape
    return x.view(b, c // (sh * sw), sh, sw, h, w).permute(0, 1, 4, 2, 5, 3).reshape(b, c // (sh * sw), h * sh, w * sw)


class WrappedDecoder(nn.Module):
    """The stages, and, where stage 0 unpools to the image's own size, the convolutions that give the image.

    Args:
        stages: facts of the stages, shallow to deep.
        in_chans: channels of the image.
        image_depth: convolutions at the image's size, where stage 0 unpools to it.
        batch_norm: batch norm after every convolution but the last.
    """

    def __init__(
        self,
        stages: list[DecoderStageFacts],
        in_chans: int,
        image_depth: int = 1,
        batch_norm: bool = False,
        device=None,
        dtype=None,
    ):
        super().__init__()
        dd: dict[str, Any] = {"device": device, "dtype": dtype}
        self.stages: Any = nn.ModuleList(WrappedDecoderStage(facts, batch_norm, **dd) for facts in stages)
        self.output: nn.ModuleList | None = None
        if stages[0].has_where:
            chs = stages[0].out_chs
            same = (ConvNorm(ConvFact(chs, chs, 3), batch_norm, **dd) for _ in range(image_depth - 1))
            self.output = nn.ModuleList([*same, ConvNorm(ConvFact(chs, in_chans, 3), False, **dd)])

    def forward(self, encoding: WrappedEncoding, checkpointing: bool = False) -> Decoding:
        """Top map and switches -> reconstruction and middles.

        Args:
            checkpointing: keep no activation inside a stage for the backward pass, recompute it there.
        """
        x = encoding.whats[-1]
        middles = []
        for m in reversed(range(len(self.stages))):
            stage, where = self.stages[m], encoding.switches[m]
            taken = (x, where, encoding.geometries[m], encoding.sizes[m])
            decoded, x = checkpoint(stage, *taken) if checkpointing else stage(*taken)
            if where is not None:
                middles.append((encoding.whats[m], decoded))
        if self.output is not None:
            x = fit(x, encoding.sizes[0], "replicate")
            for conv in self.output[:-1]:
                x = F.relu(conv(x))
            x = self.output[-1](x)
        return Decoding(x, tuple(reversed(middles)))
