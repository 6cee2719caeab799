"""One stage of the encoder: convolutions, then a pool that separates what and where."""

# No `from __future__ import annotations` here: TorchScript can't read them then.
from contextlib import nullcontext
from typing import Any, List, Optional  # noqa: UP035  TorchScript reads them

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from swwae_zoo.layers.conv_norm import ConvNorm, are_plain
from swwae_zoo.layers.micro_batch import in_parts, is_per_image
from swwae_zoo.layers.pool import create_pool
from swwae_zoo.layers.recompute import norm_relu
from swwae_zoo.models._stages import Stage

__all__ = ["EncoderStage"]


class EncoderStage(nn.Module):
    """(B, c_in, H, W) -> convs -> pool -> what (B, c_out, H // k, W // k).

    ReLU follows every convolution.  Before a pool that commutes with it, it is moved after the pool:
    relu(max(x)) == max(relu(x)), so it runs on a k*k times smaller map.  The switch of a window whose maximum is
    positive is the same; where the maximum is not, the what is 0 and the switch still holds the largest value's
    position, which after a ReLU would always be the first: the decoder puts its own activation there.

    Args:
        stage: its convolutions and pool size.
        pool: a registered kind, such as "hard" (max, argmax) or "soft" (eq. 3, 4 with ``beta``).
        beta: sharpness, for kinds that have one.
        batch_norm: batch norm after every convolution.
        drop_rate: dropout before every convolution of this stage.
        is_input: the first convolution sees the image, which is not dropped.
    """

    def __init__(
        self,
        stage: Stage,
        pool: str,
        beta: float,
        batch_norm: bool,
        drop_rate: float = 0.0,
        is_input: bool = False,
        device=None,
        dtype=None,
    ):
        super().__init__()
        self.pool_size = stage.pool_size
        self.pool = None if stage.pool_size is None else create_pool(pool, stage.pool_size, beta=beta)
        self.what_only = nn.Identity() if self.pool is None else self.pool.what_only()
        self.relu_first = self.pool is not None and not self.pool.commutes_with_relu
        self.most_chs = max(fact.out_chs for fact in stage.convs)
        self.drop_rate = drop_rate
        self.is_input = is_input
        self.convs: Any = nn.ModuleList(ConvNorm(fact, batch_norm, device=device, dtype=dtype) for fact in stage.convs)

    def forward_convs(self, x: Tensor) -> Tensor:
        """(B, c_in, H, W) -> (B, c_out, H, W), before the ReLU of the last convolution."""
        for i, conv in enumerate(self.convs):  # TorchScript can't slice them
            x = F.relu(x) if i > 0 else x
            if self.drop_rate > 0 and (i > 0 or not self.is_input):
                x = F.dropout(x, self.drop_rate, self.training)
            x = conv(x)
        return x

    def forward(self, x: Tensor, wheres: Optional[List[Optional[Tensor]]] = None) -> Tensor:  # noqa: UP006, UP045
        """The what; alone, at the plain convnet's cost, or with the where, which is appended to ``wheres``.

        It is one method, so that hooks on a stage run in `forward_swwae` too.
        """
        if wheres is not None:
            return self._forward_where(x, wheres)
        x = self.forward_convs(x)
        if self.relu_first:
            return self.what_only(F.relu(x))
        return F.relu(self.what_only(x))

    @torch.jit.unused
    def forward_switch(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """What and where, see `Encoding`."""
        wheres: list[Tensor | None] = []
        what = self(x, wheres)
        return what, wheres[0]

    @torch.jit.unused
    def _forward_where(self, x: Tensor, wheres: List[Optional[Tensor]]) -> Tensor:  # noqa: UP006, UP045
        plain = are_plain(self.convs)
        if plain and is_per_image(conv.norm for conv in self.convs):
            image_bytes = self.most_chs * x.shape[2] * x.shape[3] * x.element_size()
            what, where = in_parts(self._switch, image_bytes, x)
        else:
            what, where = self._switch(x, plain)
        wheres.append(where)
        return what

    def _switch(self, x: Tensor, plain: bool = True) -> tuple[Tensor, Tensor | None]:
        x = self._convs_recomputed(x) if plain and self.drop_rate == 0 else self.forward_convs(x)
        if self.pool is None:
            return F.relu(x), None
        if self.relu_first:
            return self.pool.pool(F.relu(x))
        what, where = self.pool.pool(x)
        return F.relu(what), where

    def _convs_recomputed(self, x: Tensor) -> Tensor:
        """`forward_convs`, bit for bit, with activation recomputation."""
        held, last = nullcontext(), len(self.convs) - 1
        for i, conv in enumerate(self.convs):
            with held:
                x = conv.conv(x)
            if i == last:
                return conv.norm(x)
            x, held = norm_relu(conv.norm, x)
        return x
