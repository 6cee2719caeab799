"""The mean square of a difference on a CPU (`squares.c`), and its gradients, without a temporary in float32."""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor

from swwae_zoo.kernels import native
from swwae_zoo.kernels.reference import is_transformed

__all__ = ["mean_square", "slopes", "takes"]

BLOCK = 1 << 13  # of squares.c
_DTYPES = (torch.float32, torch.bfloat16)


def takes(a: Tensor, b: Tensor) -> bool:
    """Whether the functions below can take a and b: on a CPU, run eagerly, of one shape and one dense layout."""
    if torch.compiler.is_compiling() or is_transformed() or type(a) is not Tensor or type(b) is not Tensor:
        return False
    return (
        a.shape == b.shape and a.device.type == b.device.type == "cpu" and a.dtype in _DTYPES and b.dtype in _DTYPES
        and a.numel() > 0 and _same_layout(a, b) and native.available(torch.float32)
    )  # fmt: skip


def mean_square(a: Tensor, b: Tensor) -> Tensor:
    """Mean of (a - b)^2, a float32 scalar; a and b are float32 or bfloat16."""
    sums = torch.empty(-(-a.numel() // BLOCK))
    native.function("squares")(_pointer(a), _pointer(b), _pointer(sums), _sides(a, b))
    return (sums.double().sum() / a.numel()).float()


def slopes(a: Tensor, b: Tensor, grad: Tensor, wanted: tuple[bool, bool]) -> tuple[Tensor | None, Tensor | None]:
    """Gradients of `mean_square` in a's and b's types, times the scalar grad; None for what is not wanted."""
    outs = tuple(torch.empty_like(side) if wish else None for side, wish in zip((a, b), wanted, strict=True))
    grad = grad.detach().float()
    pointers = (_pointer(tensor) for tensor in (a, b, *outs, grad))
    native.function("squares_slopes")(*pointers, ctypes.c_float(2 / a.numel()), _sides(a, b))
    return outs[0], outs[1]


def _same_layout(a: Tensor, b: Tensor) -> bool:
    return any(
        a.is_contiguous(memory_format=layout) and b.is_contiguous(memory_format=layout)
        for layout in (torch.contiguous_format, *([torch.channels_last] if a.dim() == 4 else []))
    )


def _pointer(t: Tensor | None) -> ctypes.c_void_p:
    return ctypes.c_void_p(None if t is None else t.data_ptr())


def _sides(a: Tensor, b: Tensor):
    if not takes(a, b):
        raise ValueError(
            f"squares: got {a.dtype} {tuple(a.shape)} and {b.dtype} {tuple(b.shape)}, expected float32 or bfloat16 of "
            "one shape and layout on the CPU"
        )
    halves = (side.dtype == torch.bfloat16 for side in (a, b))
    return ctypes.byref((ctypes.c_int64 * 4)(a.numel(), *halves, torch.get_num_threads()))
