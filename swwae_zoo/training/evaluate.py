"""Error and reconstruction loss of a model on a set of images."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from swwae_zoo.loss import reconstruction_loss
from swwae_zoo.utils.distributed import World
from swwae_zoo.utils.precision import Autocast

__all__ = ["classification_error", "mean_reconstruction_loss"]


def _batches(images: Tensor, size: int, world: World) -> Iterator[slice]:
    """Every ``world.size``-th batch: the batches are the same however many processes share them."""
    for start in range(world.rank * size, images.shape[0], world.size * size):
        yield slice(start, start + size)


@torch.inference_mode()
def classification_error(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    prepare: Callable[[Tensor], Tensor],
    autocast: Autocast,
    batch_size: int = 512,
    world: World = World(),
) -> float:
    """Share of wrongly classified images in %, 0 to 100; the model is left in the mode it was in.

    Args:
        images: (N, C, H, W) uint8, N > 0.
        labels: (N,) int64.
        prepare: uint8 images -> the model's input.
        world: the processes that share the work; each calls this with the same arguments and gets the whole result.
    """
    training = model.training
    model.eval()
    wrong = 0
    for part in _batches(images, batch_size, world):
        with autocast():
            logits = model(prepare(images[part]))
        wrong += int((logits.argmax(1) != labels[part]).sum())
    model.train(training)
    return 100.0 * world.sum(wrong) / images.shape[0]


@torch.inference_mode()
def mean_reconstruction_loss(
    model: nn.Module,
    images: Tensor,
    prepare: Callable[[Tensor], Tensor],
    autocast: Autocast,
    batch_size: int = 512,
    world: World = World(),
) -> float:
    """L_L2rec of eq. (2) over a set: mean squared error per element; the model is left in the mode it was in."""
    training = model.training
    model.eval()
    total = 0.0
    for part in _batches(images, batch_size, world):
        x = prepare(images[part])
        with autocast():
            reconstruction = model.forward_decoder(model.forward_encoder(x)).reconstruction
        total += float(reconstruction_loss(reconstruction, x)) * x.shape[0]
    model.train(training)
    return world.sum(total) / images.shape[0]
