"""Maps that are made again for the backward pass instead of kept for it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

__all__ = ["rebuilt"]


def rebuilt(image: Tensor, make: Callable[[], Tensor]) -> AbstractContextManager:
    """While this is open, autograd keeps no `image`: where backward wants it, `make` makes it again.

    For an unpooled map, which is `k * k` times the size of the what and the where it is made of, both kept anyway; making
    it is one pass over it.  Compiled graphs decide for themselves what they keep, so there this does nothing.

    Args:
        image: the map; other tensors are kept as ever.
        make: gives an equal one, bit for bit.
    """
    if torch.compiler.is_compiling() or not isinstance(image, Tensor) or not (torch.is_grad_enabled() and image.requires_grad):
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
