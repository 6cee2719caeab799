"""One's own images in a NumPy archive: `npz:PATH`."""

from __future__ import annotations

import struct
import zipfile
import zlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from swwae_zoo.data.readers.shelf import Shelf
from swwae_zoo.data.store import ImageStore
from swwae_zoo.data.types import ImageSet, NoSuchSplit, Request

# The arrays of each split: images and labels, by the names looked for first.
ARRAYS = {
    "train": (("x_train", "y_train"), ("images", "labels")),
    "test": (("x_test", "y_test"),),
    "unlabeled": (("x_train", "y_train"), ("images", "labels")),
}
_LABELS = ("y_train", "labels", "y_test")  # all of them are read: together they give the number of classes
_READ_ERRORS = (OSError, ValueError, EOFError, LookupError, RuntimeError, zipfile.BadZipFile, zlib.error, struct.error)


def npz(request: Request) -> ImageSet | ImageStore:
    """Arrays x_train, y_train, x_test, y_test, or images and labels; training labels may be left out.

    Images are uint8, `(N, H, W)`, `(N, H, W, C)` or `(N, C, H, W)` with C 1 or 3, looked for last, then second.
    Labels are whole numbers from 0, `(N,)` or `(N, 1)`. Pickled objects are never loaded.

    Raises:
        ValueError: no such file, not a whole archive, arrays missing or of other types and shapes.
        NoSuchSplit: no x_test.
    """
    path = Path(request.option).expanduser()
    if not request.option or not path.is_file():
        raise ValueError(f"got {request.spec!r}, but {request.option!r} is not a file; expected npz:PATH")
    pairs = ARRAYS[request.split]
    if request.limit < float("inf"):
        store = _on_disk(path, request, [pair[0] for pair in pairs])
        if store is not None:
            return store
    arrays = _read(path, {pair[0] for pair in pairs} | set(_LABELS))
    images_key, labels_key = next((pair for pair in pairs if pair[0] in arrays), ("", ""))
    if not images_key:
        kind = NoSuchSplit if request.split == "test" else ValueError
        raise kind(f"{path} has no array {' or '.join(pair[0] for pair in pairs)}")
    images = _images(f"{path}: {images_key}", arrays[images_key])
    if request.split == "test" and labels_key not in arrays:
        raise ValueError(f"{path} has x_test and no y_test; expected both or neither")
    if request.split == "unlabeled" or labels_key not in arrays:
        return ImageSet(request.spec, images, None, ())
    every = {key: _labels(f"{path}: {key}", arrays[key]) for key in _LABELS if key in arrays}
    labels = every[labels_key]
    if len(labels) != len(images):
        raise ValueError(f"{path}: {images_key} has {len(images)} images, {labels_key} {len(labels)} labels")
    num_classes = 1 + max(int(each.max()) for each in every.values())
    return ImageSet(request.spec, images, labels, tuple(str(label) for label in range(num_classes)))


def _on_disk(path: Path, request: Request, keys: list[str]) -> ImageStore | None:
    """The images as a store, where they are larger than the limit: unpacked to its file, never whole in memory."""
    shelf = Shelf(request, [path])
    store = shelf.found()
    if store is not None:
        return store
    try:
        with zipfile.ZipFile(path) as archive:
            key = next((key for key in keys if f"{key}.npy" in archive.namelist()), None)
            if key is None:
                return None
            with archive.open(f"{key}.npy") as file:
                version = np.lib.format.read_magic(file)
                read_header = (
                    np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
                )
                shape, fortran, dtype = read_header(file)
                if dtype != np.uint8 or fortran or np.prod(shape, dtype=float) <= request.limit:
                    return None  # read whole, or refused, as any other
                for _ in range(shape[0]):
                    image = np.frombuffer(file.read(int(np.prod(shape[1:]))), np.uint8).reshape(1, *shape[1:])
                    shelf.add(_images(f"{path}: {key}", image)[0].numpy(), shape[0])
        return shelf.close()
    except _READ_ERRORS as error:
        shelf.drop()
        raise ValueError(
            f"{path} cannot be read as a NumPy archive ({' '.join(str(error).split())}); copy it again"
        ) from error


def _read(path: Path, keys: set[str]) -> dict[str, np.ndarray]:
    try:
        with path.open("rb") as file:  # opened here: np.load leaves its own open on a truncated archive
            archive = np.load(file, allow_pickle=False)
            if not isinstance(archive, np.lib.npyio.NpzFile):
                raise ValueError("it is a single array")
            return {key: archive[key] for key in archive.files if key in keys}
    except _READ_ERRORS as error:
        raise ValueError(
            f"{path} cannot be read as a NumPy archive ({' '.join(str(error).split())}); expected what "
            f"numpy.savez(path, images=..., labels=...) writes"
        ) from error


def _images(what: str, array: np.ndarray) -> Tensor:
    """Any of the layouts -> `(N, C, H, W)`."""
    if array.dtype != np.uint8:
        raise ValueError(f"{what} is {array.dtype}; expected uint8, 0 to 255")
    if array.ndim == 3:
        array = array[:, None]
    elif array.ndim == 4 and array.shape[3] in (1, 3):
        array = array.transpose(0, 3, 1, 2)
    elif array.ndim != 4 or array.shape[1] not in (1, 3):
        raise ValueError(f"{what} has shape {array.shape}; expected (N, H, W), (N, H, W, C) or (N, C, H, W), C 1 or 3")
    if 0 in array.shape:
        raise ValueError(f"{what} has shape {array.shape}; expected at least one image and one pixel")
    return torch.from_numpy(np.ascontiguousarray(array))


def _labels(what: str, array: np.ndarray) -> Tensor:
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim != 1 or array.size == 0 or not np.issubdtype(array.dtype, np.integer) or array.min() < 0:
        raise ValueError(f"{what} is {array.dtype} of shape {array.shape}; expected whole numbers from 0, (N,)")
    return torch.from_numpy(array.astype(np.int64))
