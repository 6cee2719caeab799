"""The pool kind "soft": eq. (3) and (4), whose where carries gradients."""

from __future__ import annotations

import torch
import torch.fx
from torch import Tensor

from swwae_zoo.layers.pool import Pool, register_pool
from swwae_zoo.layers.pooling import soft_pool2d, soft_unpool2d

__all__ = ["SoftPool"]

torch.fx.wrap("soft_pool2d")  # its checks of shapes can't run on a tracer's stand-ins


@register_pool("soft")
class SoftPool(Pool):
    """what: the mean of each window under softmax(beta x); where: the mean position, (B, C, 2, h, w) in [-1, 1].

    Unlike a maximum, a soft maximum does not commute with ReLU.

    Args:
        kernel_size: side of the window.
        beta: sharpness; the paper uses 100.
    """

    options = ("beta",)

    def __init__(self, kernel_size: int, beta: float = 100.0):
        super().__init__(kernel_size)
        self.beta = beta

    def pool(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return soft_pool2d(x, self.kernel_size, self.beta)

    def unpool(self, what: Tensor, where: Tensor | None, output_size: tuple[int, int]) -> Tensor:
        assert where is not None
        return soft_unpool2d(what, where, self.kernel_size, output_size)

    def centre(self, where: Tensor) -> Tensor:
        return torch.zeros_like(where)
