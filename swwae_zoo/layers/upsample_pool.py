"""The unpool choice "upsample": each what copied to its whole window, the paper's ablation."""

from __future__ import annotations

from torch import Tensor

from swwae_zoo.layers.pool import Pool, register_pool
from swwae_zoo.layers.pooling import upsample_unpool2d

__all__ = ["UpsamplePool"]


@register_pool("upsample")
class UpsamplePool(Pool):
    """Unpools without a where."""

    has_where = False

    def unpool(self, what: Tensor, where: Tensor | None, output_size: tuple[int, int]) -> Tensor:
        return upsample_unpool2d(what, self.kernel_size, output_size)
