"""Windows of a pool: their geometry, and the layouts of the maps they run over. No arithmetic on pixels."""

from typing import NamedTuple

import torch
from torch import Tensor


class Window(NamedTuple):
    """Kernel, stride and padding, (vertical, horizontal) each."""

    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]

    @property
    def overlaps(self) -> bool:
        return self.stride[0] < self.kernel[0] or self.stride[1] < self.kernel[1]

    def pooled(self, size: tuple[int, int], ceil_mode: bool) -> tuple[int, int]:
        """(h, w) of the pooled map of an image of `size`."""
        h, w = (_steps(full + 2 * p - k, full + p, s, ceil_mode) for k, s, p, full in zip(*self, size, strict=True))
        return h, w

    def canvas(self, size: tuple[int, int], pooled: tuple[int, int]) -> tuple[int, int]:
        """Smallest (height, width) that holds the padded image of `size` and all of its windows."""
        height, width = (
            _larger(p + full, (n - 1) * s + k) for k, s, p, full, n in zip(*self, size, pooled, strict=True)
        )
        return height, width


def channels_last(t: Tensor) -> bool:
    """Whether t (B, C, H, W) is laid out channels-last, told from its strides."""
    # Not `is_contiguous`, which answers yes to both layouts for a 1x1 map: what a whole-image window leaves.
    # The innermost stride comes first since it is never symbolic: no guard on a size while compiling.
    return t.dim() == 4 and t.shape[1] > 1 and t.stride(3) == t.shape[1] and t.stride(1) == 1


def size_of(t: Tensor) -> tuple[int, int]:
    """(H, W) of a map."""
    height, width = t.shape[-2:]
    return height, width


def memory_format(last: bool) -> torch.memory_format:
    return torch.channels_last if last else torch.contiguous_format


def accumulator(dtype: torch.dtype) -> torch.dtype:
    """The dtype to sum in: float32 for half precision, else dtype itself."""
    return torch.promote_types(dtype, torch.float32)


def _steps(room: int, end: int, stride: int, ceil_mode: bool) -> int:
    """Windows along one side: the first, all that fit `room` more, and in ceil mode one that starts before `end`."""
    if not ceil_mode:
        return room // stride + 1
    more = -(-room // stride)
    return more + 1 if more * stride < end else more


def _larger(a: int, b: int) -> int:
    # torch 2.11 can't compile a sym_max of plain numbers in a backward; a max of an export's symbols would fix sizes.
    return max(a, b) if isinstance(a, int) and isinstance(b, int) else torch.sym_max(a, b)  # pyright: ignore
