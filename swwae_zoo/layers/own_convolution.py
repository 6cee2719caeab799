"""What convolutions by own kernels have in common: when they may run, and the backward pass."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from swwae_zoo.kernels import native
from swwae_zoo.kernels.windows import channels_last

__all__ = ["may_run", "own_backward", "precision_of"]


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


def own_backward(
    ctx: Any,
    grad: Tensor,
    input_gradient: Callable[[Tensor, Tensor], Tensor | None],
    weight_gradient: Callable[[Tensor, Tensor, Tensor], Tensor | None],
) -> tuple[Tensor | None, ...]:
    """The backward pass of a "same" convolution of stride 1: gradients of x, weight and bias.

    By torch's own convolution where derivatives of them are wanted, which torch knows of its own alone, and where one
    of the functions gives None.

    Args:
        ctx: x and weight are its saved tensors; `has_bias` says whether there is a bias.
        grad: of the result.
        input_gradient: grad, weight -> the gradient of x.
        weight_gradient: x, grad, weight -> the gradient of weight.
    """
    x, weight = ctx.saved_tensors
    wanted = (ctx.needs_input_grad[0], ctx.needs_input_grad[1], ctx.has_bias and ctx.needs_input_grad[2])
    if torch.is_grad_enabled():
        return _plain_backward(grad, x, weight, ctx.has_bias, wanted)
    grad = grad.contiguous(memory_format=torch.channels_last)
    grads = (
        input_gradient(grad, weight) if wanted[0] else None,
        weight_gradient(x, grad, weight) if wanted[1] else None,
        grad.sum((0, 2, 3), dtype=torch.float32) if wanted[2] else None,
    )
    if any(wish and slope is None for wish, slope in zip(wanted, grads, strict=True)):
        return _plain_backward(grad, x, weight, ctx.has_bias, wanted)
    return grads


def _plain_backward(
    grad: Tensor, x: Tensor, weight: Tensor, has_bias: bool, wanted: tuple[bool, bool, bool]
) -> tuple[Tensor | None, ...]:
    """The gradients that are wanted by torch's own convolution."""
    padding = (weight.shape[2] // 2, weight.shape[3] // 2)
    sides = ([weight.shape[0]] if has_bias else None, (1, 1), padding, (1, 1), False, (0, 0), 1)
    grads = torch.ops.aten.convolution_backward(grad, x, weight.to(x.dtype), *sides, wanted)
    return grads[0], *(None if slope is None else slope.float() for slope in grads[1:])
