"""Images on disk that are looked at where they lie: a raw file, memory-mapped, and the few that are left out."""

from __future__ import annotations

import mmap
import os
import warnings
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from swwae_zoo.data.types import grey


class ImageStore:
    """Unlabelled images of one size in a raw file of uint8, one record after another.

    Nothing is read but what is asked for, so a file of any size opens at once; `read` may be called from any thread.

    Args:
        name: what messages call it.
        path: the file; its size is a multiple of the record's.
        shape: of a record, (C, H, W), or (C, W, H) with `transposed`.
        transposed: records are column-major, as MATLAB writes them.
        in_chans: channels of what `read` gives: those of the file, 1 (luma of RGB) or 3 (a grey one repeated).

    Raises:
        ValueError: no such file, empty, or cut off within a record.
    """

    def __init__(
        self, name: str, path: Path, shape: tuple[int, int, int], transposed: bool = False, in_chans: int | None = None
    ):
        self.name, self.path, self._transposed = name, path, transposed
        self._chans = shape[0]
        self.in_chans = self._checked(in_chans or shape[0])
        record = shape[0] * shape[1] * shape[2]
        try:
            size = os.path.getsize(path)
        except OSError as error:
            raise ValueError(f"{path}: {error.strerror}") from error
        if size == 0 or size % record:
            raise ValueError(
                f"{path} has {size} bytes, no whole number of records of {record} ({size % record} over): it is cut off or "
                "another kind of file; copy it again"
            )
        records = np.memmap(path, dtype=np.uint8, mode="r", shape=(size // record, *shape))
        if hasattr(mmap, "MADV_RANDOM"):
            records._mmap.madvise(mmap.MADV_RANDOM)  # neighbours on disk are not what comes next
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that the tensor can't be written to
            self._records = torch.from_numpy(records)
        self._excluded = np.empty(0, np.int64)

    @property
    def total(self) -> int:
        """Records in the file."""
        return len(self._records)

    @property
    def count(self) -> int:
        """Images to draw from: all but those left out."""
        return self.total - len(self._excluded)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of what `read` gives."""
        _, height, width = self._records.shape[1:]
        return (self.in_chans, *((width, height) if self._transposed else (height, width)))

    def with_channels(self, in_chans: int) -> ImageStore:
        """The same file, read as `in_chans` channels.

        Raises:
            ValueError: neither as many as it has, nor RGB to grey, nor grey to RGB.
        """
        other = self._copy()
        other.in_chans = self._checked(in_chans)
        return other

    def _checked(self, in_chans: int) -> int:
        if in_chans != self._chans and (self._chans, in_chans) not in ((1, 3), (3, 1)):
            raise ValueError(
                f"{self.name} has {self._chans} channels and the model takes {in_chans}: expected 1 (grey) or 3 (RGB)"
            )
        return in_chans

    def _copy(self) -> ImageStore:
        other = object.__new__(type(self))
        other.__dict__.update(self.__dict__)
        return other

    def without(self, positions: np.ndarray) -> ImageStore:
        """The same file with the records at `positions`, `(M,)` of `0 .. total-1`, left out too.

        8 bytes are kept for each position, none for the others.
        """
        other = self._copy()
        other._excluded = np.union1d(self._excluded + np.arange(len(self._excluded)), positions.astype(np.int64))
        other._excluded -= np.arange(len(other._excluded))  # how many images stand in front of each
        return other

    def positions(self, index: Tensor) -> Tensor:
        """Records of the images `index`, `(B,)` int64: those left out are stepped over."""
        if not len(self._excluded):
            return index
        return index + torch.from_numpy(np.searchsorted(self._excluded, index.numpy(), side="right"))

    def read(self, index: Tensor) -> Tensor:
        """`index` `(B,)` int64 of `0 .. count-1` -> images `(B, C, H, W)` uint8."""
        return self._decoded(self._records.index_select(0, self.positions(index)))

    def records(self, start: int, end: int) -> Tensor:
        """The images of records `start` to `end`, in the file's order, none left out."""
        return self._decoded(self._records[start:end])

    def _decoded(self, images: Tensor) -> Tensor:
        if self._transposed:
            images = images.transpose(2, 3).contiguous()
        if images.shape[1] == self.in_chans:
            return images
        return grey(images) if self.in_chans == 1 else images.repeat(1, 3, 1, 1)
