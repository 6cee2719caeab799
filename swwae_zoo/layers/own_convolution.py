"""What convolutions by own kernels have in common: when they may run, and torch's gradients in their place."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from swwae_zoo.kernels import native
from swwae_zoo.kernels.windows import channels_last

__all__ = ["may_run", "plain_backward", "precision_of"]


def precision_of(x: Tensor) -> torch.dtype:
    """In which a convolution of x computes on a CPU."""
    return torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else x.dtype


def may_run(conv: nn.Conv2d, x: Tensor) -> bool:
    """Whether own kernels can take the place of this convolution: in training, on a CPU, in channels-last."""
    return (
        native.trains(x, torch.float32)
        and conv.weight.dtype == torch.float32 and (conv.bias is None or conv.bias.dtype == torch.float32)
        and (conv.weight.requires_grad or x.requires_grad)
        and x.dim() == 4 and channels_last(x) and x.is_contiguous(memory_format=torch.channels_last)
    )  # fmt: skip


def plain_backward(
    grad: Tensor, x: Tensor, weight: Tensor, has_bias: bool, wanted: tuple[bool, bool, bool]
) -> tuple[Tensor | None, ...]:
    """Gradients of x, weight and bias, those that are wanted, of a "same" convolution of stride 1, by torch's own."""
    padding = (weight.shape[2] // 2, weight.shape[3] // 2)
    sides = ([weight.shape[0]] if has_bias else None, (1, 1), padding, (1, 1), False, (0, 0), 1)
    grads = torch.ops.aten.convolution_backward(grad, x, weight.to(x.dtype), *sides, wanted)
    return grads[0], *(None if slope is None else slope.float() for slope in grads[1:])
