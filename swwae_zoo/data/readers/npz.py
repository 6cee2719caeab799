"""One's own images in a NumPy archive: `npz:PATH`."""

from __future__ import annotations

import math
import struct
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from swwae_zoo.data.bounds import check_memory, checked_labels
from swwae_zoo.data.readers.shelf import Shelf
from swwae_zoo.data.types import Images, ImageSet, NoSuchSplit, Request
from swwae_zoo.utils.files import user_path
from swwae_zoo.utils.text import printable

# The arrays of each split: images and labels, by the names looked for first.
ARRAYS = {
    "train": (("x_train", "y_train"), ("images", "labels")),
    "val": (("x_val", "y_val"),),
    "test": (("x_test", "y_test"),),
    "unlabeled": (("x_train", "y_train"), ("images", "labels")),
}
_LABELS = ("y_train", "labels", "y_val", "y_test")  # all of them are read: together they give the number of classes
NAMES = "class_names"
_READ_ERRORS = (
    OSError, ValueError, EOFError, LookupError, RuntimeError, TypeError, OverflowError, MemoryError, SyntaxError,
    zipfile.BadZipFile, zlib.error, struct.error,
)  # fmt: skip


def npz(request: Request) -> Images:
    """Arrays x_train, y_train, x_val, y_val, x_test, y_test, or images and labels; training labels may be left out.

    An array class_names, text, names the classes.
    Images are uint8, `(N, H, W)`, `(N, H, W, C)` or `(N, C, H, W)` with C 1 or 3, looked for last, then second.
    Labels are whole numbers from 0, `(N,)` or `(N, 1)`. Pickled objects are never loaded, and no array is read before
    its header was compared with the file and with the machine's memory.

    Raises:
        ValueError: no such file, not a whole archive, arrays missing or of other types and shapes.
        NoSuchSplit: no x_test or x_val.
    """
    path = user_path(request.option)
    if not request.option or not path.is_file():
        raise ValueError(f"got {request.spec!r}, but {request.option!r} is not a file; expected npz:PATH")
    pairs = ARRAYS[request.split]
    with ExitStack() as files:
        archive = files.enter_context(_opened(path))
        names = {name.removesuffix(".npy") for name in archive.namelist()}
        images_key, labels_key = next((pair for pair in pairs if pair[0] in names), ("", ""))
        if not images_key:
            kind = NoSuchSplit if request.split in ("val", "test") else ValueError
            raise kind(f"{path} has no array {' or '.join(pair[0] for pair in pairs)}")
        if request.split in ("val", "test") and labels_key not in names:
            raise ValueError(f"{path} has {images_key} and no {labels_key}; expected both or neither")
        with Shelf(request, [path]) as shelf:
            images = shelf.found()
            if images is not None:
                return images
            labels, class_names = None, ()
            if request.split != "unlabeled" and labels_key in names:
                every = {
                    key: checked_labels(*_Array(archive, path, key, files).whole()) for key in _LABELS if key in names
                }
                labels = every[labels_key]
                count = 1 + max(int(each.max()) for each in every.values())
                class_names = tuple(map(str, range(count)))
                if NAMES in names:
                    class_names = _checked_names(_Array(archive, path, NAMES, files), count)
            return _images(_Array(archive, path, images_key, files), shelf, request, labels, class_names)


def _checked_names(array: _Array, count: int) -> tuple[str, ...]:
    """The names of the classes, of which there are at least ``count``."""
    if array.dtype.kind != "U" or len(array.shape) != 1 or array.shape[0] < count:
        raise ValueError(f"{array.what} is {array.dtype} {array.shape}; expected text, one name for each class")
    return tuple(array.whole()[1].tolist())


def _images(
    array: _Array, shelf: Shelf, request: Request, labels: Tensor | None, class_names: tuple[str, ...]
) -> Images:
    """In memory, or image by image to a store where they are larger than the limit."""
    what, shape = array.what, array.shape
    if array.dtype != np.uint8:
        raise ValueError(f"{what} is {array.dtype}; expected uint8, 0 to 255")
    axes = _axes(what, shape)
    if labels is not None and len(labels) != shape[0]:
        raise ValueError(f"{what} has {shape[0]} images and {len(labels)} labels; expected one for each")
    if array.fortran or math.prod(shape) <= request.limit:
        images = torch.from_numpy(np.ascontiguousarray(_channels_first(array.whole()[1], axes)))
        return ImageSet(request.spec, images, labels, class_names)
    for number in range(shape[0]):
        data = array.read(math.prod(shape[1:]), last=number == shape[0] - 1)
        shelf.add(_channels_first(np.frombuffer(data, np.uint8).reshape(1, *shape[1:]), axes)[0], shape[0])
    return shelf.close(labels, class_names)


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """What goes wrong while an archive is read, in one line with its name."""
    try:
        yield
    except _READ_ERRORS as error:
        why = printable(" ".join(str(error).split()) or type(error).__name__, 200)
        raise ValueError(
            f"{path} cannot be read as a NumPy archive ({why}); expected what "
            "numpy.savez(path, images=..., labels=...) writes"
        ) from error


def _opened(path: Path) -> zipfile.ZipFile:
    with _reading(path):
        with path.open("rb") as start:
            if start.read(6) == b"\x93NUMPY":
                raise ValueError("it is a single array")
        return zipfile.ZipFile(path)


class _Array:
    """An array of an archive, its header read and compared with what the archive holds, its bytes not yet."""

    def __init__(self, archive: zipfile.ZipFile, path: Path, key: str, files: ExitStack):
        self.what, self._path = f"{path}: {key}", path
        name = key if key in archive.namelist() else f"{key}.npy"
        with _reading(path):
            self._file = files.enter_context(archive.open(name))
            version = np.lib.format.read_magic(self._file)
            read_header = (
                np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            )
            self.shape, self.fortran, self.dtype = read_header(self._file)
            if self.dtype.hasobject:
                raise ValueError(f"{key} holds Python objects, which are not loaded: allow_pickle is off")
            self.size = math.prod(self.shape) * self.dtype.itemsize
            there = archive.getinfo(name).file_size - self._file.tell()
            if min(self.shape, default=0) < 0 or self.size != there:
                raise ValueError(
                    f"the header of {key} says {self.shape} of {self.dtype}, {self.size:,} bytes; there are {there:,}"
                )

    def read(self, size: int, last: bool) -> bytearray:
        """The next bytes; behind the last ones the archive's own checksum is compared."""
        with _reading(self._path):
            data = bytearray(size)
            view, done = memoryview(data), 0
            while done < size:
                part = self._file.read(min(size - done, 1 << 24))
                if not part:
                    raise EOFError(f"it ends {size - done} bytes too early")
                view[done : done + len(part)] = part
                done += len(part)
            if last:
                self._file.read()
            return data

    def whole(self) -> tuple[str, np.ndarray]:
        """What messages call it, and all of it."""
        check_memory(self.what, self.size)
        data = self.read(self.size, last=True)
        return self.what, np.frombuffer(data, self.dtype).reshape(self.shape, order="F" if self.fortran else "C")


def _axes(what: str, shape: tuple[int, ...]) -> tuple[int, ...] | None:
    """The order of axes that makes it `(N, C, H, W)`; None where the channel is missing."""
    if 0 in shape or not shape:
        raise ValueError(f"{what} has shape {shape}; expected at least one image and one pixel")
    if len(shape) == 3:
        return None
    if len(shape) == 4 and shape[3] in (1, 3):
        return (0, 3, 1, 2)
    if len(shape) == 4 and shape[1] in (1, 3):
        return (0, 1, 2, 3)
    raise ValueError(f"{what} has shape {shape}; expected (N, H, W), (N, H, W, C) or (N, C, H, W), C 1 or 3")


def _channels_first(array: np.ndarray, axes: tuple[int, ...] | None) -> np.ndarray:
    return array[:, None] if axes is None else array.transpose(axes)
