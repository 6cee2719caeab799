"""A large batch through a stage in parts: on a CPU a part's maps stay in the cache, and never all of them are there at once."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

__all__ = ["in_parts", "is_per_image"]

PART_BYTES = (
    8 * 2**20
)  # of the stage's largest map; measured on swwae_mnist: half is slower, twice no faster beyond noise and takes more


def is_per_image(norms: Iterable[nn.Module]) -> bool:
    """Whether no norm asks for the whole batch, as batch norm does in training."""
    return all(isinstance(norm, nn.Identity) or not norm.training for norm in norms)


def in_parts(
    run: Callable[..., tuple[Tensor | None, ...]], image_bytes: int, *tensors: Tensor | None
) -> tuple[Tensor | None, ...]:
    """What ``run`` gives for the whole batch, computed part by part.

    Autograd walks back part by part too, so in both directions a full-size map (an encoder's in front of its pool, a
    decoder's behind its unpooling) is only ever there for one part.  Off a CPU, and where a graph is captured, the
    batch is one part.

    Args:
        run: of tensors (B, ...) or None, a tuple of such.
        image_bytes: of the largest map it makes of one image.
        tensors: for ``run``; the first is not None.
    """
    first = tensors[0]
    captured = torch.compiler.is_compiling() or torch.jit.is_tracing()
    if captured or first.device.type != "cpu" or first.shape[0] <= (size := max(1, PART_BYTES // max(image_bytes, 1))):
        return run(*tensors)
    parts = [[None] * -(-first.shape[0] // size) if tensor is None else tensor.split(size) for tensor in tensors]
    results = [run(*part) for part in zip(*parts, strict=True)]
    return tuple(None if column[0] is None else torch.cat(column) for column in zip(*results, strict=True))
