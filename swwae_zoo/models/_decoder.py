"""The mirrored decoder ("Deconvnet"): from the top what and the switches back to the image.

It is built from a list of `Stage` facts alone.  Each stage unpools with the where of the encoder stage that
it mirrors, then runs that stage's convolutions in reverse order:

    encoder stage m   (B, c_in, H, W)  -> convs -> pool ->  what (B, c_out, h, w), where
    decoder stage m   (B, c_out, h, w) -> unpool(where) -> convs ->  (B, c_in, H, W)

Stages are indexed as in the encoder: `decoder.stages[m]` mirrors stage m and runs in the order
M-1, ..., 0.  ReLU follows every convolution but the last, whose output is the reconstruction.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from timm.models import checkpoint
from torch import Tensor, nn

from swwae_zoo.layers.conv_norm import ConvFact, ConvNorm, are_plain
from swwae_zoo.layers.micro_batch import in_parts, is_per_image
from swwae_zoo.layers.pool import check_pool, create_pool
from swwae_zoo.layers.recompute import norm_relu, rebuilt
from swwae_zoo.models._base import Decoding, Encoding
from swwae_zoo.models._stages import Stage

__all__ = ["MirroredDecoder"]


class DecoderStage(nn.Module):
    """Mirror of one encoder stage: unpool with its where, then its convolutions in reverse order.

    Args:
        stage: facts of the encoder's stage.
        pool: the kind that the encoder pools with, such as "hard" or "soft".
        unpool: "switch" puts each what at its where; "upsample" copies it to every position of its
            window, the paper's ablation.
        beta: sharpness, for kinds that have one.
        batch_norm: batch norm after every convolution.
        is_output: this stage ends in the reconstruction: its last convolution has neither norm nor ReLU.
    """

    def __init__(
        self,
        stage: Stage,
        pool: str,
        unpool: str,
        batch_norm: bool,
        is_output: bool,
        beta: float = 100.0,
        device=None,
        dtype=None,
    ):
        super().__init__()
        self.pool = None if stage.pool_size is None else create_pool(pool, stage.pool_size, unpool, beta=beta)
        self.is_output = is_output
        self.most_chs = max(fact.out_chs for fact in stage.convs)
        last = len(stage.convs) - 1
        self.convs: Any = nn.ModuleList(
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
        return what if self.pool is None else self.pool.unpool(what, where, size)

    @torch.jit.unused
    def forward(self, what: Tensor, where: Tensor | None, size: tuple[int, int]) -> Tensor:
        if not are_plain(self.convs):
            return self._call_convs(self.unpool_what(what, where, size))
        if is_per_image(conv.norm for conv in self.convs):
            whole = in_parts(
                lambda what, where: (self._rest(*self._first(what, where, size)),),
                self.most_chs * size[0] * size[1] * what.element_size(),
                what,
                where,
            )
            return whole[0]
        image_bytes = what.shape[1] * size[0] * size[1] * what.element_size()
        return self._rest(*in_parts(lambda what, where: self._first(what, where, size), image_bytes, what, where))

    def _call_convs(self, x: Tensor) -> Tensor:
        """`_rest` of `_first`, without activation recomputation."""
        for conv in self.convs[:-1]:
            x = F.relu(conv(x))
        x = self.convs[-1](x)
        return x if self.is_output else F.relu(x)

    def _first(self, what: Tensor, where: Tensor | None, size: tuple[int, int]) -> tuple[Tensor]:
        """Unpooling and the first convolution, without its norm."""
        x = self.unpool_what(what, where, size)
        with rebuilt(x, lambda: self.unpool_what(what, where, size)) if self.pool is not None else nullcontext():
            return (self.convs[0].conv(x),)

    def _rest(self, x: Tensor) -> Tensor:
        """Everything after the first convolution, its norm first."""
        for conv, after in zip(self.convs, self.convs[1:], strict=False):
            x, held = norm_relu(conv.norm, x)
            with held:
                x = after.conv(x)
        x = self.convs[-1].norm(x)
        return x if self.is_output else F.relu(x)


class MirroredDecoder(nn.Module):
    """The decoder of a series of stages.

    Args:
        stages: facts of the encoder's stages, shallow to deep.
        pool: the kind that the encoder pools with.
        unpool: "switch" or "upsample".
        batch_norm: as in the encoder; never on the last convolution.
        beta: sharpness, for kinds that have one.

    Raises:
        ValueError: an unknown pool or unpool.
    """

    def __init__(
        self,
        stages: Sequence[Stage],
        pool: str = "hard",
        unpool: str = "switch",
        batch_norm: bool = False,
        beta: float = 100.0,
        device=None,
        dtype=None,
    ):
        super().__init__()
        check_pool(pool, unpool)
        self.stages: Any = nn.ModuleList(
            DecoderStage(stage, pool, unpool, batch_norm, m == 0, beta, device=device, dtype=dtype)
            for m, stage in enumerate(stages)
        )

    @torch.jit.unused
    def forward(self, encoding: Encoding, checkpointing: bool = False) -> Decoding:
        """Top what and switches -> reconstruction and middles (see `Encoding`, `Decoding` for shapes).

        Args:
            checkpointing: save no activation inside a stage for the backward pass, recompute it there.
        """
        x = encoding.features
        middles = []
        for m in reversed(range(len(self.stages))):
            if m < len(self.stages) - 1:
                middles.append((encoding.whats[m], x))
            stage, where, size = self.stages[m], encoding.switches[m], encoding.sizes[m]
            x = checkpoint(stage, x, where, size) if checkpointing else stage(x, where, size)
        return Decoding(x, tuple(reversed(middles)))
