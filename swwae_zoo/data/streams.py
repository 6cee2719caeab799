"""Endless seeded index batches, and the images they index: resident on the device, or read ahead from a store.

What the trainer needs of either kind of images: `len`, `batch(index)`, and `follow(stream, part)`, once, which tells it
what will be asked for. The stream's state is that of the batches handed out; whatever has been read ahead is no state.
"""

from __future__ import annotations

import copy
import os
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor

from swwae_zoo.data.images import ImageSet
from swwae_zoo.data.permutation import Permutation
from swwae_zoo.data.seeds import seeded
from swwae_zoo.data.store import ImageStore

WHOLE = 1 << 22  # up to so many images an epoch's order is one array; beyond, it is computed piece by piece
_PIECE = 4096
GPU_SHARE = 0.4  # of its free memory, the most that unlabelled images take


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

    def follow(self, stream: IndexStream, part: slice = slice(None)) -> None:
        """Nothing to read ahead."""

    def batch(self, index: Tensor) -> tuple[Tensor, Tensor | None]:
        """`index` `(B,)` int64 -> images `(B, C, H, W)` uint8 and labels `(B,)` int64 or None, on the device."""
        index = index.to(self.images.device, non_blocking=True)
        labels = None if self.labels is None else self.labels.index_select(0, index)
        return self.images.index_select(0, index), labels


class StreamedImages:
    """Images read in batches, by threads that stay ahead of the stream it follows.

    Args:
        store: unlabelled images, on disk or in memory.
        device: where batches go: on CUDA from pinned memory, without waiting.
        ahead: batches read before they are asked for.
        threads: readers, each of a batch of its own.
    """

    labels = None

    def __init__(self, store: ImageSet | ImageStore, device: torch.device | str, ahead: int = 8, threads: int | None = None):
        self.store, self.name, self.device, self.ahead = store, store.name, torch.device(device), ahead
        self._pool = ThreadPoolExecutor(threads or min(4, os.cpu_count() or 1), thread_name_prefix="swwae-read")
        self._stream: IndexStream | None = None
        self._coming: deque[tuple[Tensor, Future[Tensor]]] = deque()

    def __len__(self) -> int:
        return self.store.count

    def follow(self, stream: IndexStream, part: slice = slice(None)) -> None:
        """Read ahead what `stream` will hand out next, `part` of each batch."""
        self._stream, self._part = stream, part
        self._restart()

    def batch(self, index: Tensor) -> tuple[Tensor, None]:
        """`index` `(B,)` int64 -> images `(B, C, H, W)` uint8 on the device, and no labels."""
        if self._stream is None:
            return self._read(index).to(self.device, non_blocking=True), None
        if not self._coming or not torch.equal(self._coming[0][0], index):  # the stream was set elsewhere
            images = self._read(index)
            self._restart()
        else:
            images = self._coming.popleft()[1].result()
            self._request()
        return images.to(self.device, non_blocking=True), None

    def _restart(self) -> None:
        for _, future in self._coming:
            future.cancel()
        self._coming.clear()
        self._ahead_of = copy.copy(self._stream)
        for _ in range(self.ahead):
            self._request()

    def _request(self) -> None:
        index = self._ahead_of.next()[self._part]
        self._coming.append((index, self._pool.submit(self._read, index)))

    def _read(self, index: Tensor) -> Tensor:
        images = self.store.read(index)
        return images.pin_memory() if self.device.type == "cuda" else images


def fits_on(images: ImageSet | ImageStore, device: torch.device) -> bool:
    """Whether unlabelled images are to live on the device whole."""
    if isinstance(images, ImageStore):
        return False
    if device.type != "cuda" or images.images.device.type == "cuda":
        return True
    return images.images.nbytes <= GPU_SHARE * torch.cuda.mem_get_info(device)[0]


def images_on(images: ImageSet | ImageStore, device: torch.device) -> ResidentImages | StreamedImages:
    """Whole on the device, or read ahead from where they lie: a store, or memory when a GPU has no room for them."""
    return ResidentImages(images, device) if fits_on(images, device) else StreamedImages(images, device)
