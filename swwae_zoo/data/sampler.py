"""Endless seeded index batches: which images a step sees."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from swwae_zoo.data.permutation import Permutation
from swwae_zoo.data.seeds import seeded

__all__ = ["IndexStream"]


WHOLE = 1 << 22  # up to so many images an epoch's order is one array; beyond, it is computed piece by piece


_PIECE = 4096


class IndexStream:
    """Endless index batches over `n` images: the permutations of epoch 0, 1, 2, ... end to end, cut into batches.

    Every image comes once an epoch. A batch may span two epochs (or more, when `batch_size > n`). The permutation
    of an epoch is a function of `(seed, epoch)` alone, so the position is the whole state, and any number of images
    takes no more than `WHOLE * 8` bytes.

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
        self._piece = WHOLE if n <= WHOLE else _PIECE
        self._place, self._order = (-1, -1), torch.empty(0, dtype=torch.int64)

    @property
    def epoch(self) -> int:
        """Whole passes over the images so far."""
        return self.drawn // self.n

    def next(self) -> Tensor:
        """The next batch, `(batch_size,)` int64 on the CPU."""
        parts, missing = [], self.batch_size
        while missing:
            epoch, at = divmod(self.drawn, self.n)
            piece, start = divmod(at, self._piece)
            part = self._order_of(epoch, piece)[start : start + missing]
            parts.append(part)
            missing -= len(part)
            self.drawn += len(part)
        return torch.cat(parts)

    def state_dict(self) -> dict[str, int]:
        return {"drawn": self.drawn}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go to where `state_dict` was taken; the next batch is the one that came after it."""
        self.drawn = int(state["drawn"])

    def _order_of(self, epoch: int, piece: int) -> Tensor:
        """Indices of one piece of an epoch's order; the last one asked for is kept."""
        if (epoch, piece) != self._place:
            if self.n <= WHOLE:
                self._order = torch.randperm(self.n, generator=seeded(self.seed, "epoch", epoch))
            else:
                positions = np.arange(piece * _PIECE, min((piece + 1) * _PIECE, self.n))
                self._order = torch.from_numpy(Permutation(self.n, self.seed, epoch)(positions))
            self._place = (epoch, piece)
        return self._order
