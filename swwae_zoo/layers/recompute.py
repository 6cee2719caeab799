"""Activation recomputation: rebuild an activation in the backward pass instead of saving it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from swwae_zoo.kernels.reference import is_transformed

__all__ = ["norm_relu", "rebuilt"]


def rebuilt(image: Tensor, make: Callable[[], Tensor]) -> AbstractContextManager:
    """Context in which autograd does not save `image`; the backward pass recomputes it with `make`.

    For an unpooled map, which is `k * k` times the size of the what and where that it is computed from: both are saved
    anyway, and recomputing it is one pass over it.  Compilers and torch.func choose themselves what
    they save: there this does nothing.

    Args:
        image: the map; other tensors are saved as usual.
        make: computes an equal one, bit for bit.
    """
    if (
        torch.compiler.is_compiling()
        or torch.jit.is_tracing()
        or is_transformed()
        or not isinstance(image, Tensor)
        or not (torch.is_grad_enabled() and image.requires_grad)
    ):
        return nullcontext()
    place, shape, dtype = image.data_ptr(), image.shape, image.dtype

    def pack(kept: Tensor) -> Tensor | None:
        same = kept.data_ptr() == place and kept.shape == shape and kept.dtype == dtype
        return None if same and kept.numel() else kept

    def unpack(kept: Tensor | None) -> Tensor:
        if kept is not None:
            return kept
        with torch.no_grad():
            return make()

    return saved_tensors_hooks(pack, unpack)


def norm_relu(norm: nn.Module, x: Tensor) -> tuple[Tensor, AbstractContextManager]:
    """relu(norm(x)), and the context in which its only user, a convolution, must run.

    Batch norm saves x for the backward pass, so relu(norm(x)), which both ReLU and the convolution would save, can be
    recomputed from it: one saved tensor per layer instead of two.

    Args:
        norm: after a convolution; only batch norm in training is treated in this way.
        x: (B, C, H, W).
    """
    y = norm(x)
    if (
        type(norm) is not nn.BatchNorm2d
        or not norm.training
        or is_transformed()
        or torch.compiler.is_compiling()
        or torch.jit.is_tracing()
        or not y.requires_grad
    ):
        return F.relu(y), nullcontext()
    source, made = x.detach(), []

    def again() -> Tensor:
        """The convolution's backward comes first, then ReLU's: both use one recomputed tensor."""
        if made:
            return made.pop()
        made.append(F.relu_(F.batch_norm(source, None, None, norm.weight, norm.bias, True, 0.0, norm.eps)))
        return made[0]

    with rebuilt(y, again):
        y = F.relu_(y)
    return y, rebuilt(y, again)
