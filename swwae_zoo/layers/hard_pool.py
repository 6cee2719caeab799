"""The pool kind "hard": max pooling, its switch, and unpooling by the switch."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from swwae_zoo.kernels import native
from swwae_zoo.kernels.windows import Window
from swwae_zoo.layers.pool import Pool, register_pool
from swwae_zoo.layers.pooling import switch_pool2d, switch_unpool2d

__all__ = ["HardPool"]


@register_pool("hard")
class HardPool(Pool):
    """what: the maximum of each window; where: its row-major position in the window, uint8 (B, C, h, w).

    Unlike other kinds its windows may overlap, be padded and hang over the edge: so it also pools wrapped backbones.

    Args:
        kernel_size, stride, padding, ceil_mode: as for `switch_pool2d`.
    """

    commutes_with_relu = True

    def __init__(
        self,
        kernel_size: int | tuple[int, int],
        stride: int | tuple[int, int] | None = None,
        padding: int | tuple[int, int] = 0,
        ceil_mode: bool = False,
    ):
        self.kernel_size, self.stride, self.padding, self.ceil_mode = kernel_size, stride, padding, ceil_mode

    def pool(self, x: Tensor) -> tuple[Tensor, Tensor]:
        if torch.jit.is_tracing():  # it records operators, but no autograd functions
            return torch.ops.swwae_zoo.switch_pool(x, *self._window(), self.ceil_mode)
        return switch_pool2d(x, self.kernel_size, self.stride, self.padding, self.ceil_mode)

    def unpool(self, what: Tensor, where: Tensor | None, output_size: tuple[int, int]) -> Tensor:
        assert where is not None
        if torch.jit.is_tracing():
            window = self._window()
            size = [int(output_size[0]), int(output_size[1])]
            return torch.ops.swwae_zoo.put(what, where, *window, size, window.overlaps)
        return switch_unpool2d(what, where, self.kernel_size, self.stride, self.padding, output_size)

    def centre(self, where: Tensor) -> Tensor:
        height, width = _pair(self.kernel_size)
        return torch.full_like(where, (height // 2) * width + width // 2)

    def _window(self) -> Window:
        kernel, padding = _pair(self.kernel_size), _pair(self.padding)
        return Window(kernel, kernel if self.stride is None else _pair(self.stride), padding)

    def what_only(self) -> nn.Module:
        return _MaxPool(self.kernel_size, self.stride, self.padding, ceil_mode=self.ceil_mode)


class _MaxPool(nn.MaxPool2d):
    """`nn.MaxPool2d`, in training on a CPU by this package's kernels: twice as fast, and only the where is kept."""

    def forward(self, input: Tensor) -> Tensor:
        if torch.jit.is_scripting():  # pyright: ignore[reportPrivateImportUsage]
            return F.max_pool2d(input, self.kernel_size, self.stride, self.padding, ceil_mode=self.ceil_mode)
        else:
            return _max_pool(self, input)


def _max_pool(pool: _MaxPool, x: Tensor) -> Tensor:
    if native.trains(x, x.dtype) and x.dim() == 4 and x.requires_grad:  # first what a traced x can answer
        return switch_pool2d(x, pool.kernel_size, pool.stride, pool.padding, pool.ceil_mode)[0]
    return F.max_pool2d(x, pool.kernel_size, pool.stride, pool.padding, ceil_mode=pool.ceil_mode)


def _pair(value: int | tuple[int, int]) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (value[0], value[1])
