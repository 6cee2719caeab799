"""The mirrored decoder ("Deconvnet"): from the top what and the switches back to the image.

It is built from a list of `Stage` facts alone, so that it mirrors a net of the paper's and any other
ladder of stages alike.  Each stage unpools with the where of its twin in the encoder, then runs the
twin's convolutions backwards:

    encoder stage m   (B, c_in, H, W)  -> convs -> pool ->  what (B, c_out, h, w), where
    decoder stage m   (B, c_out, h, w) -> unpool(where) -> convs ->  (B, c_in, H, W)

Stages are indexed as in the encoder: `decoder.stages[m]` mirrors stage m and runs in the order
M-1, ..., 0.  ReLU follows every convolution but the last, whose output is the reconstruction.
"""
from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from typing import NamedTuple

import torch
import torch.nn.functional as F
from timm.models import checkpoint
from torch import Tensor, nn

from .in_parts import in_parts, is_per_image
from .narrow_conv import NarrowConv2d
from .pooling import soft_unpool2d, switch_unpool2d, upsample_unpool2d
from .rebuilt import norm_relu, rebuilt
from .stages import ConvFact, Stage
from .winograd import Conv3x3

__all__ = ["ConvNorm", "Decoding", "Encoding", "MirroredDecoder"]

UNPOOLS = ("switch", "upsample")
POOLS = ("hard", "soft")


class Encoding(NamedTuple):
    """What the encoder hands over, each field shallow to deep.

    whats: pooled values of stage m, (B, C_m, h_m, w_m); of a stage without a pool its plain output.
    switches: where of stage m: uint8 (B, C_m, h_m, w_m), soft (B, C_m, 2, h_m, w_m), None without a pool.
    sizes: (H, W) of the map that stage m pooled, so that unpooling returns the exact size.
    features: the top what, (B, C, h, w): what the head and the decoder start from.
    """

    whats: tuple[Tensor, ...]
    switches: tuple[Tensor | None, ...]
    sizes: tuple[tuple[int, int], ...]
    features: Tensor


class Decoding(NamedTuple):
    """What the decoder returns.

    reconstruction: x~, (B, in_chans, H, W), linear (not clipped to the pixels' range).
    middles: pairs (encoder's what of stage m, decoder's activation just before stage m unpools),
        both (B, C_m, h_m, w_m), shallow to deep; one for each stage but the topmost.
    """

    reconstruction: Tensor
    middles: tuple[tuple[Tensor, Tensor], ...]


class ConvNorm(nn.Module):
    """"Same" convolution, then batch norm if asked for: (B, in_chs, H, W) -> (B, out_chs, H, W).

    No activation: the caller places the ReLU, which in front of a max pool belongs behind it.
    """

    def __init__(self, fact: ConvFact, batch_norm: bool, is_output: bool = False, device=None, dtype=None):
        super().__init__()
        dd = {"device": device, "dtype": dtype}
        in_chs, out_chs, kernel_size = fact
        if is_output:
            self.conv = NarrowConv2d(in_chs, out_chs, kernel_size, **dd)
        elif kernel_size == 3:  # a bias in front of batch norm would be subtracted again
            self.conv = Conv3x3(in_chs, out_chs, bias=not batch_norm, **dd)
        else:
            self.conv = nn.Conv2d(in_chs, out_chs, kernel_size, padding=kernel_size // 2, bias=not batch_norm, **dd)
        self.norm = nn.BatchNorm2d(out_chs, **dd) if batch_norm else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(x))


class DecoderStage(nn.Module):
    """Mirror of one encoder stage: unpool with its where, then its convolutions backwards.

    Args:
        stage: facts of the encoder's stage.
        pool: "hard" or "soft", how the encoder pooled.
        unpool: "switch" puts each what at its where; "upsample" copies it to every position of its
            window, the paper's ablation.
        batch_norm: batch norm after every convolution.
        is_output: this stage ends in the reconstruction: its last convolution has neither norm nor ReLU.
    """

    def __init__(self, stage: Stage, pool: str, unpool: str, batch_norm: bool, is_output: bool, device=None, dtype=None):
        super().__init__()
        self.pool_size = stage.pool_size
        self.pool = pool
        self.unpool = unpool
        self.is_output = is_output
        last = len(stage.convs) - 1
        self.convs = nn.ModuleList(
            ConvNorm(
                ConvFact(fact.out_chs, fact.in_chs, fact.kernel_size),
                batch_norm and not (is_output and i == last),
                is_output and i == last,
                device=device,
                dtype=dtype,
            )
            for i, fact in enumerate(reversed(stage.convs))
        )

    def unpool_what(self, what: Tensor, where: Tensor | None, size: tuple[int, int]) -> Tensor:
        """(B, C, h, w) -> (B, C, *size)."""
        if self.pool_size is None:
            return what
        if self.unpool == "upsample":
            return upsample_unpool2d(what, self.pool_size, output_size=size)
        if self.pool == "soft":
            return soft_unpool2d(what, where, self.pool_size, output_size=size)
        return switch_unpool2d(what, where, self.pool_size, output_size=size)

    @torch.jit.unused
    def forward(self, what: Tensor, where: Tensor | None, size: tuple[int, int]) -> Tensor:
        if is_per_image(conv.norm for conv in self.convs):
            chs = max(conv.conv.in_channels for conv in self.convs)
            whole = in_parts(lambda *part: (self._rest(*self._first(*part, size)),), chs * size[0] * size[1] * what.element_size(), what, where)
            return whole[0]
        image_bytes = what.shape[1] * size[0] * size[1] * what.element_size()
        return self._rest(*in_parts(lambda *part: self._first(*part, size), image_bytes, what, where))

    def _first(self, what: Tensor, where: Tensor | None, size: tuple[int, int]) -> tuple[Tensor]:
        """Unpooling and the first convolution, without its norm."""
        x = self.unpool_what(what, where, size)
        with rebuilt(x, lambda: self.unpool_what(what, where, size)) if self.pool_size else nullcontext():
            return (self.convs[0].conv(x),)

    def _rest(self, x: Tensor) -> Tensor:
        """What follows the first convolution, its norm first."""
        for conv, after in zip(self.convs, self.convs[1:]):
            x, held = norm_relu(conv.norm, x)
            with held:
                x = after.conv(x)
        x = self.convs[-1].norm(x)
        return x if self.is_output else F.relu(x)


class MirroredDecoder(nn.Module):
    """The decoder of a ladder of stages.

    Args:
        stages: facts of the encoder's stages, shallow to deep.
        pool: "hard" or "soft", how the encoder pooled.
        unpool: "switch" or "upsample".
        batch_norm: as in the encoder; never on the last convolution.

    Raises:
        ValueError: an unknown pool or unpool.
    """

    def __init__(
        self, stages: Sequence[Stage], pool: str = "hard", unpool: str = "switch", batch_norm: bool = False,
        device=None, dtype=None,
    ):
        super().__init__()
        if pool not in POOLS:
            raise ValueError(f"pool is {pool!r}: expected one of {', '.join(POOLS)}")
        if unpool not in UNPOOLS:
            raise ValueError(f"unpool is {unpool!r}: expected one of {', '.join(UNPOOLS)}")
        self.stages = nn.ModuleList(
            DecoderStage(stage, pool, unpool, batch_norm, is_output=m == 0, device=device, dtype=dtype)
            for m, stage in enumerate(stages)
        )

    @torch.jit.unused
    def forward(self, encoding: Encoding, checkpointing: bool = False) -> Decoding:
        """Top what and switches -> reconstruction and middles (see `Encoding`, `Decoding` for shapes).

        Args:
            checkpointing: keep no activation inside a stage for backward, compute it again there.
        """
        x = encoding.features
        middles = []
        for m in reversed(range(len(self.stages))):
            if m < len(self.stages) - 1:
                middles.append((encoding.whats[m], x))
            stage, where, size = self.stages[m], encoding.switches[m], encoding.sizes[m]
            x = checkpoint(stage, x, where, size) if checkpointing else stage(x, where, size)
        return Decoding(x, tuple(reversed(middles)))
