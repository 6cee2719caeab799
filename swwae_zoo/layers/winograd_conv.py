"""3x3 convolutions in fewer multiplications, on a CPU: Winograd's F(2x2, 3x3) (Lavin and Gray, arXiv:1509.09308).

A tile of 2x2 results takes 16 products for each pair of channels instead of 36: input tiles and weights are transformed
(`kernels/winograd.c`), multiplied point by point, 16 matrix products, and the products transformed back.

    tiles     2x2 pixels of the output each, counted over the batch
    points    (16, tiles, C), or (16, C_out, C_in) of the weights
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import Function

from swwae_zoo.kernels import native
from swwae_zoo.layers.own_convolution import may_run, own_backward, precision_of

__all__ = ["Conv3x3"]

POINTS_BYTES = 8 * 2**20  # of the tiles that are transformed at a time; measured: half and twice are no faster
MIN_TILES = 128  # with fewer, transforming the weights costs what is won
MIN_CHANNELS = {torch.float32: 64, torch.bfloat16: 128}  # with fewer, measured, nothing is won


class Conv3x3(nn.Conv2d):
    """`nn.Conv2d` with 3x3 kernels, padding 1, stride 1, in training by Winograd's algorithm where that is faster.

    That is on a CPU, in channels-last, with many channels. A 2.25th of the multiplications takes about two thirds of
    the time. In float32 the result is as exact as that of the plain convolution. In bfloat16, under autocast, points
    are rounded too: an error of 0.5 % of the result's size, where the plain one's is 0.24 %.

    Without a gradient to compute, and for a batch with an infinite or NaN result, it is the plain convolution: Winograd
    takes differences, which would turn infinities to NaN.

    Args:
        in_channels, out_channels, bias: as for `nn.Conv2d`.
    """

    def __init__(self, in_channels: int, out_channels: int, bias: bool = True, device=None, dtype=None):
        super().__init__(in_channels, out_channels, 3, padding=1, bias=bias, device=device, dtype=dtype)

    def forward(self, x: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        """(B, in_channels, H, W) -> (B, out_channels, H, W)."""
        if torch.jit.is_scripting():  # pyright: ignore[reportPrivateImportUsage]
            return self._conv_forward(x, self.weight, self.bias)
        else:
            return _conv3x3(self, x)


def _conv3x3(conv: Conv3x3, x: Tensor) -> Tensor:
    if not _pays(conv, x):
        return conv._conv_forward(x, conv.weight, conv.bias)
    return _Winograd.apply(x.to(precision_of(x)), conv.weight, conv.bias)


def _pays(conv: Conv3x3, x: Tensor) -> bool:
    chs, precision = (conv.in_channels, conv.out_channels), precision_of(x)
    return (
        may_run(conv, x)
        and precision in MIN_CHANNELS and min(chs) >= MIN_CHANNELS[precision]
        and not any(c % native.CHANNELS for c in chs)
        and _count(x) >= MIN_TILES
    )  # fmt: skip


def _count(x: Tensor) -> int:
    return x.shape[0] * -(-x.shape[2] // 2) * -(-x.shape[3] // 2)


def _parts(x: Tensor, chs: int) -> Iterator[tuple[int, int]]:
    """First and number of the tiles that are done at a time, as even as can be."""
    total = _count(x)
    parts = -(-total * 16 * chs * x.element_size() // POINTS_BYTES)
    size = -(-total // parts)
    return ((first, min(size, total - first)) for first in range(0, total, size))


def _points(x: Tensor, *shape: int) -> list[Tensor]:
    """Room for the points of the first part, which is the largest, for each number of channels."""
    return [torch.empty(16 * shape[0] * chs, dtype=x.dtype) for chs in shape[1:]]


def _room(room: Tensor, count: int, chs: int) -> Tensor:
    return room[: 16 * count * chs].view(16, count, chs)


def _convolve(x: Tensor, weight: Tensor, bias: Tensor | None, transposed: bool) -> Tensor | None:
    """x (B, C_in, H, W) with weight (C_out, C_in, 3, 3); or, transposed, x (B, C_out, H, W) -> (B, C_in, H, W).

    Returns None if a result is infinite or NaN.
    """
    (out_chs, in_chs), size, finite = weight.shape[:2], x.shape[2:], True
    filters = torch.empty(16, out_chs, in_chs, dtype=x.dtype)
    native.spread_weight(weight.contiguous(memory_format=torch.channels_last), filters, transposed)
    if transposed:
        in_chs, out_chs = out_chs, in_chs
    else:
        filters = filters.transpose(1, 2)
    y = torch.empty((x.shape[0], out_chs, *size), dtype=x.dtype, memory_format=torch.channels_last)
    parts = list(_parts(x, max(in_chs, out_chs)))
    seen, made = _points(x, parts[0][1], in_chs, out_chs)
    for first, count in parts:
        points, products = _room(seen, count, in_chs), _room(made, count, out_chs)
        native.spread(x, points, first, border=True)
        torch.bmm(points, filters, out=products)
        finite &= native.collect(products, bias, y, first)
    return y if finite else None


def _weight_gradient(x: Tensor, grad: Tensor) -> Tensor | None:
    """x (B, C_in, H, W), grad (B, C_out, H, W) -> (C_out, C_in, 3, 3), float32; summed over the parts in float32.

    Returns None if a result is infinite or NaN.
    """
    half, in_chs, out_chs = x.dtype == torch.bfloat16, x.shape[1], grad.shape[1]
    parts = list(_parts(x, max(in_chs, out_chs)))
    seen, sent = _points(x, parts[0][1], in_chs, out_chs)
    total = torch.empty(16, out_chs, in_chs)
    for first, count in parts:
        points, slopes = _room(seen, count, in_chs), _room(sent, count, out_chs)
        native.spread(x, points, first, border=True)
        native.spread(grad, slopes, first, border=False)
        if half:
            product = torch.bmm(slopes.transpose(1, 2), points)
            total = total.copy_(product) if first == 0 else total.add_(product)
        else:
            torch.baddbmm(total, slopes.transpose(1, 2), points, beta=float(first > 0), out=total)
    weight = torch.empty((out_chs, in_chs, 3, 3), memory_format=torch.channels_last)
    return weight if native.collect_weight(total, weight) else None


class _Winograd(Function):
    @staticmethod
    def forward(ctx, x, weight, bias):
        ctx.save_for_backward(x, weight)
        ctx.has_bias = bias is not None
        y = _convolve(x, weight, bias, False)
        if y is None:
            y = F.conv2d(x, weight.to(x.dtype), None if bias is None else bias.to(x.dtype), padding=1)
        return y

    @staticmethod
    def backward(ctx, *grad_outputs: Tensor):
        return own_backward(
            ctx,
            grad_outputs[0],
            lambda grad, weight: _convolve(grad, weight, None, True),
            lambda x, grad, _: _weight_gradient(x, grad),
        )
