"""Images on disk that are read where they lie: a raw file, memory-mapped, and the few that are left out."""

from __future__ import annotations

import copy
import mmap
import os
import warnings
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from swwae_zoo.data.loader import StreamedImages
from swwae_zoo.data.types import Images, check_channels, complement, with_channels


class ImageStore(Images):
    """Images of one size in a raw file of uint8, one record after another.

    Nothing is read but what is asked for, so a file of any size opens at once; `read` may be called from any thread.

    Args:
        name: what messages call it.
        path: the file; its size is a multiple of the record's.
        shape: of a record, (C, H, W), or (C, W, H) with `transposed`.
        transposed: records are column-major, as MATLAB writes them.
        labels: one for each record, or None.

    Raises:
        ValueError: no such file, empty, or cut off within a record.
    """

    def __init__(
        self,
        name: str,
        path: Path,
        shape: tuple[int, int, int],
        transposed: bool = False,
        labels: Tensor | None = None,
        class_names: tuple[str, ...] = (),
    ):
        super().__init__(name, labels, class_names)
        self.path, self._transposed, self._chans = path, transposed, shape[0]
        record = shape[0] * shape[1] * shape[2]
        try:
            size = os.path.getsize(path)
        except OSError as error:
            raise ValueError(f"{path}: {error.strerror}") from error
        if size == 0 or size % record:
            raise ValueError(
                f"{path} has {size} bytes, no whole number of records of {record} ({size % record} over): "
                "it is cut off or another kind of file; copy it again"
            )
        with path.open("rb") as file:
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        if hasattr(mmap, "MADV_RANDOM"):
            mapped.madvise(mmap.MADV_RANDOM)  # neighbours on disk are not what comes next
        records = np.frombuffer(mapped, np.uint8).reshape(-1, *shape)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that the tensor can't be written to
            self._records = torch.from_numpy(records)
        self._left_out = np.empty(0, np.int64)  # for each record left out, how many images stand in front of it

    @property
    def count(self) -> int:
        return len(self._records) - len(self._left_out)

    @property
    def shape(self) -> tuple[int, int, int]:
        _, height, width = self._records.shape[1:]
        return (self._chans, width, height) if self._transposed else (self._chans, height, width)

    def with_channels(self, in_chans: int) -> ImageStore:
        check_channels(self.name, self._records.shape[1], in_chans)
        other = copy.copy(self)
        other._chans = in_chans
        return other

    def without(self, index: Tensor) -> ImageStore:
        """8 bytes are kept for each record left out, none for the others."""
        other = copy.copy(self)
        before = self._left_out + np.arange(len(self._left_out))
        records = np.union1d(before, self._positions(index).numpy())
        other._left_out = records - np.arange(len(records))
        other.files = ()
        if self.labels is not None:
            other.labels = self.labels[complement(index, self.count)]
        return other

    def read(self, index: Tensor) -> Tensor:
        images = self._records.index_select(0, self._positions(index))
        if self._transposed:
            images = images.transpose(2, 3).contiguous()
        return with_channels(images, self._chans)

    def to(self, device: torch.device, moved: dict[int, Tensor] | None = None) -> StreamedImages:
        return StreamedImages(self, device)

    def _positions(self, index: Tensor) -> Tensor:
        """Records of the images at `index`: those left out are stepped over."""
        if not len(self._left_out):
            return index
        return index + torch.from_numpy(np.searchsorted(self._left_out, index.numpy(), side="right"))
