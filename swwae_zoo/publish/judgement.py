"""What a classifier does on a set of labelled images: confusion, calibration, its surest errors, its least sure images.

N images, K classes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from swwae_zoo.data import Images
from swwae_zoo.utils.precision import Autocast

__all__ = ["Bin", "Judgement", "judge"]

BATCH = 256
BINS = 10


class Bin(NamedTuple):
    """Images whose highest probability lies in one tenth of 0..1: how many, its mean, and the share that is right."""

    count: int
    confidence: float
    accuracy: float


class Judgement(NamedTuple):
    """Predictions on images.

    index: (N,) positions of the images in their set.
    labels: (N,) their classes.
    probabilities: (N, K) float32.
    """

    index: Tensor
    labels: Tensor
    probabilities: Tensor

    @property
    def predicted(self) -> Tensor:
        """(N,) likeliest classes."""
        return self.probabilities.argmax(1)

    @property
    def confidence(self) -> Tensor:
        """(N,) probability of the likeliest class."""
        return self.probabilities.amax(1)

    @property
    def error(self) -> float:
        """Share of wrong images in %."""
        return 100 * float((self.predicted != self.labels).float().mean())

    def confusion(self) -> Tensor:
        """(K, K) int64: how many images of class i were taken for class j."""
        classes = self.probabilities.shape[1]
        return (self.labels * classes + self.predicted).bincount(minlength=classes**2).view(classes, classes)

    def bins(self) -> list[Bin]:
        """The reliability diagram: ten bins of equal width, those without images left out."""
        right, confidence = (self.predicted == self.labels).float(), self.confidence
        place = (confidence * BINS).long().clamp(max=BINS - 1)
        found = []
        for each in range(BINS):
            inside = place == each
            if inside.any():
                found.append(Bin(int(inside.sum()), float(confidence[inside].mean()), float(right[inside].mean())))
        return found

    def calibration_error(self) -> float:
        """ECE: mean distance between confidence and accuracy of the bins, weighted by their images; 0 to 1."""
        return sum(each.count * abs(each.confidence - each.accuracy) for each in self.bins()) / len(self.labels)

    def surest_errors(self, count: int) -> list[int]:
        """Positions, among the N, of the wrong images with the highest confidence, surest first."""
        wrong = (self.predicted != self.labels).nonzero()[:, 0]
        return wrong[self.confidence[wrong].argsort(descending=True, stable=True)][:count].tolist()

    def least_sure(self, count: int) -> list[int]:
        """Positions, among the N, of the images whose two likeliest classes are nearest to each other."""
        best = self.probabilities.topk(min(2, self.probabilities.shape[1]), dim=1).values
        return (best[:, 0] - best[:, -1]).argsort(stable=True)[:count].tolist()


@torch.no_grad()
def judge(
    model: nn.Module, images: Images, prepare: Callable[[Tensor], Tensor], autocast: Autocast, most: int
) -> Judgement:
    """Predicts images with labels; the model is left in the mode it was in.

    Args:
        model: images -> logits.
        images: with labels, at least one, on the model's device.
        prepare: uint8 images -> the model's input.
        most: of more images, so many that are spread evenly over them are taken.
    """
    assert images.labels is not None and images.count
    count = min(images.count, most)
    index = torch.arange(count) * images.count // count
    training = model.training
    model.eval()
    try:
        found = []
        for part in index.split(BATCH):
            with autocast():
                logits = model(prepare(images.read(part)))
            found.append(logits.float().softmax(1).cpu())
    finally:
        model.train(training)
    return Judgement(index, images.labels.cpu()[index], torch.cat(found))
