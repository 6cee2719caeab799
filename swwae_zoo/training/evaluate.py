"""Error and reconstruction loss of a model on a set of images."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from swwae_zoo.data import Images
from swwae_zoo.loss import reconstruction_loss
from swwae_zoo.utils.distributed import World
from swwae_zoo.utils.precision import Autocast

__all__ = ["classification_error", "mean_reconstruction_loss"]


Watch = Callable[[int, int], None]


def _batches(images: Images, size: int, world: World, watch: Watch | None) -> Iterator[tuple[Tensor, Tensor | None]]:
    """Every ``world.size``-th batch: the batches are the same however many processes share them."""
    for start in range(world.rank * size, images.count, world.size * size):
        if watch is not None:
            watch(start, images.count)
        yield images.batch(torch.arange(start, min(start + size, images.count)))


@torch.inference_mode()
def classification_error(
    model: nn.Module,
    images: Images,
    prepare: Callable[[Tensor], Tensor],
    autocast: Autocast,
    batch_size: int = 512,
    world: World = World(),
    watch: Watch | None = None,
) -> float:
    """Share of wrongly classified images in %, 0 to 100; the model is left in the mode it was in.

    Args:
        images: with labels, at least one, on the model's device.
        prepare: uint8 images -> the model's input.
        world: the processes that share the work; each calls this with the same arguments and gets the whole result.
        watch: called before each batch with how many images are done, and of how many; what it raises goes through.
    """
    training = model.training
    model.eval()
    wrong = 0
    try:
        for batch, labels in _batches(images, batch_size, world, watch):
            with autocast():
                logits = model(prepare(batch))
            wrong += int((logits.argmax(1) != labels).sum())
    finally:
        model.train(training)
    return 100.0 * world.sum(wrong) / images.count


@torch.inference_mode()
def mean_reconstruction_loss(
    model: Any,
    images: Images,
    prepare: Callable[[Tensor], Tensor],
    autocast: Autocast,
    batch_size: int = 512,
    world: World = World(),
    watch: Watch | None = None,
) -> float:
    """L_L2rec of eq. (2) over a set: mean squared error per element; the model is left in the mode it was in."""
    training = model.training
    model.eval()
    total = 0.0
    try:
        for batch, _ in _batches(images, batch_size, world, watch):
            x = prepare(batch)
            with autocast():
                reconstruction = model.forward_decoder(model.forward_encoder(x)).reconstruction
            total += float(reconstruction_loss(reconstruction, x)) * x.shape[0]
    finally:
        model.train(training)
    return world.sum(total) / images.count
