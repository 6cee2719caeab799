"""A "same" convolution to very few channels: the decoder's last one, with as many as the image."""

import torch
from torch import Tensor, nn
from torch.autograd import Function

from swwae_zoo.kernels import narrow
from swwae_zoo.layers.own_convolution import may_run, own_backward, precision_of

__all__ = ["NarrowConv2d"]


class NarrowConv2d(nn.Conv2d):
    """`nn.Conv2d` with padding k // 2 and stride 1, in training on a CPU by kernels made for one output channel.

    See `kernels/narrow.py`. In bfloat16, under autocast, the weights stay in float32: the result is rounded once.

    Args:
        in_channels, out_channels, kernel_size: as for `nn.Conv2d`; kernel_size is odd.
    """

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: int, bias: bool = True, device=None, dtype=None
    ):
        super().__init__(
            in_channels, out_channels, kernel_size, padding=kernel_size // 2, bias=bias, device=device, dtype=dtype
        )

    @torch.jit.unused  # as all of the decoder
    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) -> (B, out_channels, H, W)."""
        precision = precision_of(x)
        if not (may_run(self, x) and narrow.takes(x.shape, precision, self.weight)):
            return super().forward(x)
        return _Narrow.apply(x.to(precision), self.weight, self.bias)  # pyright: ignore[reportReturnType]


class _Narrow(Function):
    @staticmethod
    def forward(ctx, x, weight, bias):
        ctx.save_for_backward(x, weight)
        ctx.has_bias = bias is not None
        return narrow.convolve(x, weight, bias)

    @staticmethod
    def backward(ctx, *grad_outputs: Tensor):
        return own_backward(ctx, grad_outputs[0], narrow.input_gradient, narrow.weight_gradient)
