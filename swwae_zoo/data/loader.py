"""Images on the device they are trained on: whole, or read ahead from where they lie.

An index stream's state is that of the batches handed out; whatever has been read ahead is no state.
"""

from __future__ import annotations

import copy
import os
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor

import torch
from torch import Tensor

from swwae_zoo.data.sampler import IndexStream
from swwae_zoo.data.types import Images, ImageSet

GPU_SHARE = 0.4  # of its free memory, the most that unlabelled images take


class StreamedImages(Images):
    """Images read in batches, by threads that stay ahead of the stream it follows.

    Args:
        source: on disk or in memory.
        device: where batches go: on CUDA from pinned memory, without waiting.
        ahead: batches read before they are asked for.
        threads: readers, each of a batch of its own.
    """

    def __init__(self, source: Images, device: torch.device | str, ahead: int = 8, threads: int | None = None):
        self.source, self.device, self.ahead = source, torch.device(device), ahead
        labels = None if source.labels is None else source.labels.to(self.device)
        super().__init__(source.name, labels, source.class_names)
        self.files = source.files
        self._pool = ThreadPoolExecutor(threads or min(4, os.cpu_count() or 1), thread_name_prefix="swwae-read")
        self._stream: IndexStream | None = None
        self._part = slice(None)
        self._coming: deque[tuple[Tensor, Future[Tensor]]] = deque()

    @property
    def count(self) -> int:
        return self.source.count

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.source.shape

    def without(self, index: Tensor) -> StreamedImages:
        return StreamedImages(self.source.without(index), self.device, self.ahead)

    def with_channels(self, in_chans: int) -> StreamedImages:
        return StreamedImages(self.source.with_channels(in_chans), self.device, self.ahead)

    def to(self, device: torch.device, moved: dict[int, Tensor] | None = None) -> StreamedImages:
        return self if device == self.device else StreamedImages(self.source, device, self.ahead)

    def follow(self, stream: IndexStream, part: slice = slice(None)) -> None:
        self._stream, self._part = stream, part
        self._restart(stream)

    def read(self, index: Tensor) -> Tensor:
        return self._read(index).to(self.device, non_blocking=True)

    def batch(self, index: Tensor) -> tuple[Tensor, Tensor | None]:
        labels = None if self.labels is None else self.labels[index.to(self.device)]
        if self._coming and torch.equal(self._coming[0][0], index):
            images = self._coming.popleft()[1].result()
            self._request()
            return images.to(self.device, non_blocking=True), labels
        images = self.read(index)
        if self._stream is not None:  # it was set elsewhere
            self._restart(self._stream)
        return images, labels

    def _restart(self, stream: IndexStream) -> None:
        for _, future in self._coming:
            future.cancel()
        self._coming.clear()
        self._ahead_of = copy.copy(stream)
        for _ in range(self.ahead):
            self._request()

    def _request(self) -> None:
        index = self._ahead_of.next()[self._part]
        self._coming.append((index, self._pool.submit(self._read, index)))

    def _read(self, index: Tensor) -> Tensor:
        images = self.source.read(index)
        return images.pin_memory() if self.device.type == "cuda" else images


def fits_on(images: Images, device: torch.device) -> bool:
    """Whether images are to live on the device whole."""
    if not isinstance(images, ImageSet):
        return False
    if device.type != "cuda" or images.images.device.type == "cuda":
        return True
    return images.images.nbytes <= GPU_SHARE * torch.cuda.mem_get_info(device)[0]


def images_on(images: Images, device: torch.device, moved: dict[int, Tensor] | None = None) -> Images:
    """Whole on the device, or read ahead from where they lie: a store, or memory when a GPU has no room for them."""
    return images.to(device, moved) if fits_on(images, device) else StreamedImages(images, device)
