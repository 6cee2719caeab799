"""Maps that are made again for the backward pass instead of kept for it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

__all__ = ["norm_relu", "rebuilt"]


def rebuilt(image: Tensor, make: Callable[[], Tensor]) -> AbstractContextManager:
    """While this is open, autograd keeps no `image`: where backward wants it, `make` makes it again.

    For an unpooled map, which is `k * k` times the size of the what and the where it is made of, both kept anyway; making
    it is one pass over it.  Compiled graphs decide for themselves what they keep, so there this does nothing.

    Args:
        image: the map; other tensors are kept as ever.
        make: gives an equal one, bit for bit.
    """
    if (
        torch.compiler.is_compiling()
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
    """relu(norm(x)), and the context in which its one reader, a convolution, is to run.

    Batch norm keeps x for backward, so relu(norm(x)), which both ReLU and the convolution would keep, can be made of it
    again: one tensor a layer instead of two.

    Args:
        norm: behind a convolution; only batch norm in training is treated so.
        x: (B, C, H, W).
    """
    y = norm(x)
    if (
        type(norm) is not nn.BatchNorm2d
        or not norm.training
        or torch.compiler.is_compiling()
        or torch.jit.is_tracing()
        or not y.requires_grad
    ):
        return F.relu(y), nullcontext()
    source, made = x.detach(), []

    def again() -> Tensor:
        """The convolution asks first, then ReLU: what is made for the one serves the other."""
        if made:
            return made.pop()
        made.append(F.relu_(F.batch_norm(source, None, None, norm.weight, norm.bias, True, 0.0, norm.eps)))
        return made[0]

    with rebuilt(y, again):
        y = F.relu_(y)
    return y, rebuilt(y, again)
