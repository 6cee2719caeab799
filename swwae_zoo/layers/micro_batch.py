"""Runs a stage over micro-batches, so that activations fit in the CPU cache and take less memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["in_parts", "is_per_image"]

# Of the stage's largest map.  Measured on swwae_mnist: half is slower; twice is no faster and takes more memory.
PART_BYTES = 8 * 2**20


def is_per_image(norms: Iterable[nn.Module]) -> bool:
    """Whether no norm needs the whole batch, as batch norm does in training."""
    return all(isinstance(norm, nn.Identity) or not norm.training for norm in norms)


def in_parts(
    run: Callable[..., tuple[Tensor | None, ...]], image_bytes: int, *tensors: Tensor | None
) -> tuple[Any, ...]:
    """``run`` of the whole batch, computed over micro-batches.

    The backward pass runs over them too, so a full-size map (an encoder's before its pool, a decoder's after its
    unpooling) exists for one micro-batch at a time.  On other devices than a CPU, and while a graph is captured,
    the batch stays whole.

    Args:
        run: tensors (B, ...) or None -> a tuple of such.
        image_bytes: size of the largest map of one image.
        tensors: arguments of ``run``; the first is not None.
    """
    first = tensors[0]
    assert first is not None
    captured = torch.compiler.is_compiling() or torch.jit.is_tracing()
    if captured or first.device.type != "cpu" or first.shape[0] <= (size := max(1, PART_BYTES // max(image_bytes, 1))):
        return run(*tensors)
    parts = [[None] * -(-first.shape[0] // size) if tensor is None else tensor.split(size) for tensor in tensors]
    results = [run(*part) for part in zip(*parts, strict=True)]
    return tuple(None if column[0] is None else torch.cat(column) for column in zip(*results, strict=True))
