"""Endless seeded index batches, and the images they index: resident on the device, or read ahead from a store.

What the trainer needs of either kind of images: `len`, `batch(index)`, and `follow(stream, part)`, once, which tells it
what will be asked for. The stream's state is that of the batches handed out; whatever has been read ahead is no state.
"""

from __future__ import annotations

import copy
import os
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor

import torch
from torch import Tensor

from swwae_zoo.data.sampler import IndexStream
from swwae_zoo.data.store import ImageStore
from swwae_zoo.data.types import ImageSet

GPU_SHARE = 0.4  # of its free memory, the most that unlabelled images take


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

    def __init__(
        self, store: ImageSet | ImageStore, device: torch.device | str, ahead: int = 8, threads: int | None = None
    ):
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
