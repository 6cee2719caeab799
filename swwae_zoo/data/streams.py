"""Endless seeded index batches, and the images they index, resident on the device."""

from __future__ import annotations

import torch
from torch import Tensor

from swwae_zoo.data.images import ImageSet
from swwae_zoo.data.seeds import seeded


class IndexStream:
    """Endless index batches over `n` images: the permutations of epoch 0, 1, 2, ... end to end, cut into batches.

    Every image comes once an epoch. A batch may span two epochs (or more, when `batch_size > n`). The permutation
    of an epoch is a function of `(seed, epoch)` alone, so the position is the whole state.

    Args:
        n: number of images, at least 1.
        batch_size: indices a batch, at least 1.
        seed: any integer.

    Raises:
        ValueError: `n` or `batch_size` below 1.
    """

    def __init__(self, n: int, batch_size: int, seed: int):
        if n < 1:
            raise ValueError(f"got {n} images to draw from, expected at least 1")
        if batch_size < 1:
            raise ValueError(f"got batch size {batch_size}, expected at least 1")
        self.n, self.batch_size, self.seed = n, batch_size, seed
        self.drawn = 0  # indices handed out so far
        self._epoch, self._permutation = -1, torch.empty(0, dtype=torch.int64)

    @property
    def epoch(self) -> int:
        """Whole passes over the images so far."""
        return self.drawn // self.n

    def next(self) -> Tensor:
        """The next batch, `(batch_size,)` int64 on the CPU."""
        parts, missing = [], self.batch_size
        while missing:
            start = self.drawn % self.n
            part = self._permutation_of(self.drawn // self.n)[start : start + missing]
            parts.append(part)
            missing -= len(part)
            self.drawn += len(part)
        return torch.cat(parts)

    def state_dict(self) -> dict[str, int]:
        return {"drawn": self.drawn}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go to where `state_dict` was taken; the next batch is the one that came after it."""
        self.drawn = int(state["drawn"])

    def _permutation_of(self, epoch: int) -> Tensor:
        if epoch != self._epoch:
            self._permutation = torch.randperm(self.n, generator=seeded(self.seed, "epoch", epoch))
            self._epoch = epoch
        return self._permutation


class ResidentImages:
    """An `ImageSet` whole on the device as uint8, read in batches.

    Args:
        image_set: the images, `(N, C, H, W)` uint8.
        device: where they live.
    """

    def __init__(self, image_set: ImageSet, device: torch.device | str):
        self.name, self.class_names = image_set.name, image_set.class_names
        self.images = image_set.images.to(device)
        self.labels = None if image_set.labels is None else image_set.labels.to(device)

    def __len__(self) -> int:
        return len(self.images)

    def batch(self, index: Tensor) -> tuple[Tensor, Tensor | None]:
        """`index` `(B,)` int64 -> images `(B, C, H, W)` uint8 and labels `(B,)` int64 or None, on the device."""
        index = index.to(self.images.device, non_blocking=True)
        labels = None if self.labels is None else self.labels.index_select(0, index)
        return self.images.index_select(0, index), labels
