"""Convolutions to one channel on a CPU (`narrow.c`), stride 1, "same" padding, on tensors in channels-last.

CPU convolutions vectorise over the output channels, so a single one leaves most lanes idle; these sum over the input's.
Measured: two to four times as fast. With three channels nothing was won.

Sums are in float32, also of bfloat16 images, and rounded once.
"""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor

from swwae_zoo.kernels import native

__all__ = ["convolve", "input_gradient", "takes", "weight_gradient"]

CHANNELS, WIDEST, KERNELS = 32, 1024, (1, 3, 5, 7)  # the limits of narrow.c
_DTYPES = (torch.float32, torch.bfloat16)


def takes(shape: torch.Size, dtype: torch.dtype, weight: Tensor) -> bool:
    """Whether these functions can convolve images (B, C, H, W) of that shape with that weight (1, C, k, k)."""
    out_chs, in_chs, *kernel = weight.shape
    return (
        dtype in _DTYPES and kernel[0] == kernel[1] and kernel[0] in KERNELS and out_chs == 1
        and in_chs == shape[1] and in_chs % CHANNELS == 0 and 1 <= shape[3] <= WIDEST and shape.numel() > 0
    )  # fmt: skip


def convolve(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """x (B, C, H, W) with weight (1, C, k, k) -> (B, 1, H, W)."""
    out = _empty(x, 1)
    bias = None if bias is None else bias.float().contiguous()
    _call("narrow", (x, _ordered(weight, x.dtype), bias, out), (x, out), weight)
    return out


def input_gradient(grad: Tensor, weight: Tensor) -> Tensor:
    """The gradient (B, C, H, W) of x from that of the result, grad (B, 1, H, W)."""
    out = _empty(grad, weight.shape[1])
    _call("narrow_input", (grad, _ordered(weight, grad.dtype), out), (out, grad), weight)
    return out


def weight_gradient(x: Tensor, grad: Tensor, weight: Tensor) -> Tensor:
    """The gradient (1, C, k, k), float32, of weight from that of the result, grad (B, 1, H, W)."""
    _, in_chs, k, _ = weight.shape
    parts = torch.zeros(torch.get_num_threads(), k, k, in_chs)
    _call("narrow_weight", (x, grad, parts), (x, grad), weight)
    total = parts.sum(0)
    if x.dtype == torch.bfloat16:
        total = total.unflatten(-1, (-1, 2, CHANNELS // 2)).transpose(-1, -2).flatten(-3)
    return total.permute(2, 0, 1)[None]


def _ordered(weight: Tensor, dtype: torch.dtype) -> Tensor:
    """(1, C, k, k) -> (k, k, C), for bfloat16 images the even channels of each 32 before the odd ones."""
    weight = weight[0].float().permute(1, 2, 0)
    if dtype == torch.bfloat16:
        weight = weight.unflatten(-1, (-1, CHANNELS // 2, 2)).transpose(-1, -2).flatten(-3)
    return weight.contiguous()


def _empty(like: Tensor, channels: int) -> Tensor:
    shape = (like.shape[0], channels, *like.shape[2:])
    return torch.empty(shape, dtype=like.dtype, memory_format=torch.channels_last)


def _call(name: str, tensors: tuple[Tensor | None, ...], images: tuple[Tensor, Tensor], weight: Tensor) -> None:
    """Args: images: what goes into the convolution, and what comes out, or their gradients."""
    x, y = images
    if not takes(x.shape, x.dtype, weight):
        raise ValueError(
            f"{name}: got images {tuple(x.shape)} of {x.dtype} and weights {tuple(weight.shape)}, expected float32 or "
            f"bfloat16, a multiple of {CHANNELS} channels, one of the result, at most {WIDEST} pixels a line, and a "
            f"square kernel of {', '.join(map(str, KERNELS))}"
        )
    _, in_chs, k, _ = weight.shape
    for image, channels in ((x, in_chs), (y, 1)):
        shape = (x.shape[0], channels, *x.shape[2:])
        last = image.dim() == 4 and image.is_contiguous(memory_format=torch.channels_last)
        if tuple(image.shape) != shape or image.dtype != x.dtype or image.device.type != "cpu" or not last:
            raise ValueError(
                f"{name}: got {image.dtype} {tuple(image.shape)} with strides {image.stride()} on {image.device}, "
                f"expected {x.dtype} {shape} on the CPU, in channels-last"
            )
    half, threads = x.dtype == torch.bfloat16, torch.get_num_threads()
    sizes = (ctypes.c_int64 * 7)(x.shape[0], in_chs, *x.shape[2:], k, half, threads)
    pointers = (ctypes.c_void_p(t if t is None else t.data_ptr()) for t in tensors)
    native.function(name)(*pointers, ctypes.byref(sizes))
