"""One's own images: `folder:PATH` and `npz:PATH`."""

from __future__ import annotations

import logging
import os
import struct
import zipfile
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from swwae_zoo.data.images import ImageSet, NoSuchSplit, Request

logger = logging.getLogger(__name__)

SUFFIXES = {".jpg", ".jpeg", ".png", ".ppm", ".pgm", ".bmp", ".tif", ".tiff", ".webp", ".gif"}
_NAMED = 3  # bad images named in a message
_IMAGE_ERRORS = (OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error, Image.DecompressionBombError)


def folder(request: Request) -> ImageSet:
    """Class folders of images: training images in PATH/train/CLASS/ or PATH/CLASS/, test images in PATH/test or PATH/val.

    The split "unlabeled" is every image under PATH at any depth, less those of PATH/test and PATH/val where they are
    the test images. Hidden files are passed over. Images are turned as their EXIF says and made RGB (grey with
    `in_chans=1`); with an `img_size` they are scaled to cover it and cropped to its centre, without one they must
    all have the same size.

    Raises:
        ValueError: no such folder, no images, an unreadable image (with `bad_images="refuse"`), unequal sizes.
        NoSuchSplit: no test images.
    """
    root = Path(request.option).expanduser()
    if not request.option or not root.is_dir():
        raise ValueError(f"got {request.spec!r}, but {str(root)!r} is not a folder; expected folder:PATH")
    test_root = next((root / name for name in ("test", "val") if _class_folders(root / name)), None)
    if request.split == "unlabeled":
        held = {root / "test", root / "val"} if test_root else set()
        files = [file for top in sorted(root.iterdir()) if top not in held for file in _images_under(top)]
        images, _ = _read_all(files, request)
        return ImageSet(request.spec, images, None, ())
    if request.split == "test" and test_root is None:
        raise NoSuchSplit(f"{root} has no test images; expected class folders in {root / 'test'} or {root / 'val'}")

    classes = _class_folders(root / "train") or [
        path for path in _class_folders(root) if test_root is None or path.name not in ("test", "val")
    ]
    if not classes:
        raise ValueError(
            f"no class folders in {root}; expected {root}/CLASS/image.png or {root}/train/CLASS/image.png "
            f"(images without labels go to --unlabeled {request.spec})"
        )
    names = tuple(path.name for path in classes)
    if request.split == "test":
        classes = _class_folders(test_root)
        strange = sorted({path.name for path in classes} - set(names))
        if strange:
            raise ValueError(f"class {strange[0]!r} of {test_root} is not a training class; expected {', '.join(names)}")
    files, labels = [], []
    for path in classes:
        found = _images_under(path)
        files += found
        labels += [names.index(path.name)] * len(found)
    images, kept = _read_all(files, request)
    labels = torch.tensor(labels)[kept]
    if request.split == "train":
        for label, name in enumerate(names):
            if not (labels == label).any():
                raise ValueError(f"class folder {classes[label]} holds no readable image; add some, or remove it")
    return ImageSet(request.spec, images, labels, names)


def npz(request: Request) -> ImageSet:
    """Arrays in a NumPy archive: x_train, y_train, x_test, y_test, or images and labels (labels may be left out).

    Images are uint8, `(N, H, W)`, `(N, H, W, C)` or `(N, C, H, W)` with 1 or 3 channels (the channels are looked
    for last, then second). Labels are whole numbers from 0, `(N,)` or `(N, 1)`.

    Raises:
        ValueError: no such file, not a whole archive, arrays missing or of other types and shapes.
        NoSuchSplit: no x_test.
    """
    path = Path(request.option).expanduser()
    if not request.option or not path.is_file():
        raise ValueError(f"got {request.spec!r}, but {str(path)!r} is not a file; expected npz:PATH")
    pairs = [("x_test", "y_test")] if request.split == "test" else [("x_train", "y_train"), ("images", "labels")]
    arrays = _read_npz(path, {"x_" + request.split.replace("unlabeled", "train"), "images", "labels", "y_train", "y_test"})
    images_key, labels_key = next((pair for pair in pairs if pair[0] in arrays), (None, None))
    if images_key is None:
        kind = NoSuchSplit if request.split == "test" else ValueError
        raise kind(f"{path} has no array {' or '.join(pair[0] for pair in pairs)}")
    images = _channels_first(path, images_key, arrays[images_key])
    if request.split == "unlabeled" or labels_key not in arrays:
        return ImageSet(request.spec, images, None, ())
    known = {key: _labels(path, key, arrays[key]) for key in ("labels", "y_train", "y_test") if key in arrays}
    labels = known[labels_key]
    if len(labels) != len(images):
        raise ValueError(f"{path}: {images_key} has {len(images)} images and {labels_key} {len(labels)} labels")
    num_classes = 1 + max((int(each.max()) for each in known.values() if len(each)), default=-1)
    return ImageSet(request.spec, images, labels, tuple(str(label) for label in range(num_classes)))


def _class_folders(root: Path) -> list[Path]:
    if not root.is_dir():
        return []
    return sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))


def _images_under(top: Path) -> list[Path]:
    """Images at or below `top`, sorted, hidden ones left out."""
    if top.name.startswith("."):
        return []
    if top.is_file():
        return [top] if top.suffix.lower() in SUFFIXES else []
    found = []
    for place, folders, names in os.walk(top, followlinks=True):
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [Path(place, name) for name in names if not name.startswith(".")]
    return sorted(path for path in found if path.suffix.lower() in SUFFIXES)


def _read_all(files: list[Path], request: Request) -> tuple[Tensor, Tensor]:
    """Decode in threads -> images `(M, C, H, W)` uint8, and the positions `(M,)` of those files that could be read."""
    if not files:
        raise ValueError(f"no images for {request.spec} ({request.split}); expected {', '.join(sorted(SUFFIXES))} files")
    mode = "L" if request.in_chans == 1 else "RGB"
    images, shape_of, kept, bad = None, None, [], []
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        for position, array in enumerate(pool.map(lambda file: _read_image(file, mode, request.img_size), files)):
            file = files[position]
            if isinstance(array, str):
                bad.append(f"{file} ({array})")
                continue
            if images is None:
                images, shape_of = torch.empty(len(files), *array.shape, dtype=torch.uint8), file
            if array.shape != images.shape[1:]:
                raise ValueError(
                    f"{file} is {array.shape[1]}x{array.shape[2]} and {shape_of} {images.shape[2]}x{images.shape[3]} "
                    f"(height x width); expected one size: pass img_size, and they are scaled and cropped to it"
                )
            images[len(kept)] = torch.from_numpy(array)
            kept.append(position)
    if bad:
        what = f"{len(bad)} of {len(files)} images for {request.spec} cannot be read: {'; '.join(bad[:_NAMED])}"
        what += "; ..." if len(bad) > _NAMED else ""
        if request.bad_images != "skip" or images is None:
            raise ValueError(f"{what}: repair or delete them, or leave them out with --bad-images skip")
        logger.warning("%s: left out", what)
    return images[: len(kept)], torch.tensor(kept)


def _read_image(file: Path, mode: str, img_size: tuple[int, int] | None) -> np.ndarray | str:
    """`(C, H, W)` uint8, or what is wrong with the file."""
    try:
        with Image.open(file) as opened:
            image = ImageOps.exif_transpose(opened)
            if image.mode.startswith("I"):  # 16 bits: Pillow would clip at 255 instead of scaling
                image = Image.fromarray((np.asarray(image).astype(np.int64) >> 8).clip(0, 255).astype(np.uint8))
            if image.mode == "P" and "transparency" in image.info:
                image = image.convert("RGBA")
            image = image.convert(mode)
            if img_size is not None and image.size != img_size[::-1]:
                image = ImageOps.fit(image, img_size[::-1], Image.Resampling.BILINEAR)
            array = np.array(image)
    except _IMAGE_ERRORS as error:
        return " ".join(str(error).replace(repr(str(file)), "it").split()) or type(error).__name__
    return array[None] if mode == "L" else np.ascontiguousarray(array.transpose(2, 0, 1))


def _read_npz(path: Path, keys: set[str]) -> dict[str, np.ndarray]:
    try:
        with np.load(path, allow_pickle=False) as archive:
            return {key: archive[key] for key in archive.files if key in keys}
    except (OSError, ValueError, EOFError, AttributeError, TypeError, zipfile.BadZipFile, zlib.error, struct.error) as error:
        raise ValueError(
            f"{path} cannot be read as a NumPy archive ({' '.join(str(error).split())}); expected what "
            f"numpy.savez(path, images=uint8 array, labels=int array) writes"
        ) from error


def _channels_first(path: Path, key: str, array: np.ndarray) -> Tensor:
    if array.dtype != np.uint8:
        raise ValueError(f"{path}: {key} is {array.dtype}; expected uint8, 0 to 255")
    if array.ndim == 3:
        array = array[:, None]
    elif array.ndim == 4 and array.shape[3] in (1, 3):
        array = array.transpose(0, 3, 1, 2)
    elif array.ndim != 4 or array.shape[1] not in (1, 3):
        raise ValueError(f"{path}: {key} has shape {array.shape}; expected (N, H, W), (N, H, W, C) or (N, C, H, W), C 1 or 3")
    if 0 in array.shape:
        raise ValueError(f"{path}: {key} has shape {array.shape}; expected at least one image and one pixel")
    return torch.from_numpy(np.ascontiguousarray(array))


def _labels(path: Path, key: str, array: np.ndarray) -> Tensor:
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim != 1 or not np.issubdtype(array.dtype, np.integer) or (array.size and array.min() < 0):
        raise ValueError(f"{path}: {key} is {array.dtype} of shape {array.shape}; expected whole numbers from 0, (N,)")
    return torch.from_numpy(array.astype(np.int64))


FOLDERS: dict[str, Callable[[Request], ImageSet]] = {"folder": folder, "npz": npz}
