"""One's own image files: `folder:PATH`."""

from __future__ import annotations

import logging
import os
import struct
import zlib
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from swwae_zoo.data.readers.shelf import Shelf
from swwae_zoo.data.store import ImageStore
from swwae_zoo.data.types import ImageSet, NoSuchSplit, Request

logger = logging.getLogger(__name__)

SUFFIXES = {".jpg", ".jpeg", ".png", ".ppm", ".pgm", ".bmp", ".tif", ".tiff", ".webp", ".gif"}
_NAMED = 3  # bad images named in a message
_BLOCK = 4096  # files decoded before the next are begun
_IMAGE_ERRORS = (OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error, Image.DecompressionBombError)


def folder(request: Request) -> ImageSet:
    """Class folders: training images in PATH/train/CLASS/ or PATH/CLASS/, test images in PATH/test or PATH/val.

    The split "unlabeled" is every image under PATH at any depth, less those of PATH/test and PATH/val (where there is
    a PATH/train, or class folders inside them: a class may be called "test" as long as its images lie right in it).
    Hidden files are passed over. Images are turned as their EXIF says and made RGB (grey with `in_chans=1`); with an
    `img_size` they are scaled to cover it and cropped to its centre, without one they must all have the same size.

    Raises:
        ValueError: no such folder, no images, an unreadable image (with `bad_images="refuse"`), unequal sizes.
        NoSuchSplit: no test images.
    """
    root = Path(request.option).expanduser()
    if not request.option or not root.is_dir():
        raise ValueError(f"got {request.spec!r}, but {request.option!r} is not a folder; expected folder:PATH")
    nested = (root / "train").is_dir()
    held_out = [root / name for name in ("test", "val") if nested or _class_folders(root / name)]
    if request.split == "unlabeled":
        files = [file for top in sorted(root.iterdir()) if top not in held_out for file in _images_under(top)]
        return _read_all(files, request)[0]

    train_root = root / "train" if nested else root
    classes = [path for path in _class_folders(train_root) if path not in held_out]
    if not classes:
        raise ValueError(
            f"no class folders in {train_root}; expected {train_root}/CLASS/IMAGE "
            f"(images without labels go to --unlabeled {request.spec})"
        )
    names = tuple(path.name for path in classes)
    if request.split == "test":
        classes = next(filter(None, map(_class_folders, held_out)), [])
        if not classes:
            raise NoSuchSplit(f"{root} has no test images; expected class folders in {root}/test or {root}/val")
        strange = sorted({path.name for path in classes} - set(names))
        if strange:
            raise ValueError(f"{classes[0].parent / strange[0]} is no training class; expected {', '.join(names)}")
    files, labels = [], []
    for path in classes:
        found = _images_under(path)
        files += found
        labels += [names.index(path.name)] * len(found)
    found, kept = _read_all(files, request)
    labels = torch.tensor(labels)[kept]
    if request.split == "train":
        for label, name in enumerate(names):
            if not (labels == label).any():
                raise ValueError(f"class folder {classes[label]} holds no readable image; add some, or remove it")
    return ImageSet(request.spec, found.images, labels, names)


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


def _read_all(files: list[Path], request: Request) -> tuple[ImageSet | ImageStore, Tensor]:
    """Decode in threads -> the images, and the positions `(M,)` of those files that could be read."""
    if not files:
        kinds = ", ".join(sorted(SUFFIXES))
        raise ValueError(f"no images for {request.spec} ({request.split}); expected {kinds} files")
    shelf = Shelf(request, files)
    store = shelf.found()
    if store is not None:
        return store, torch.arange(store.total)
    try:
        kept, bad = _decode(files, request, shelf)
    except BaseException:
        shelf.drop()
        raise
    if bad:
        what = f"{len(bad)} of {len(files)} images for {request.spec} cannot be read: {'; '.join(bad[:_NAMED])}"
        what += "; ..." if len(bad) > _NAMED else ""
        if request.bad_images != "skip" or not kept:
            shelf.drop()
            raise ValueError(f"{what}: repair or delete them, or leave them out with --bad-images skip")
        logger.warning("%s: left out", what)
    return shelf.close(), torch.tensor(kept)


def _decode(files: list[Path], request: Request, shelf: Shelf) -> tuple[list[int], list[str]]:
    """Puts every readable file on the shelf -> their positions, and what is wrong with the others."""
    mode = "L" if request.in_chans == 1 else "RGB"
    first, kept, bad = None, [], []
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        for start in range(0, len(files), _BLOCK):  # a whole map would decode far ahead of a slow disk
            block = files[start : start + _BLOCK]
            decoded = pool.map(lambda file: read_image(file, mode, request.img_size), block)
            for position, (file, array) in enumerate(zip(block, decoded, strict=True), start):
                if isinstance(array, str):
                    bad.append(f"{file} ({array})")
                    continue
                if first is None:
                    first = file
                elif array.shape != shelf.shape:
                    raise ValueError(
                        f"{file} is {array.shape[1]}x{array.shape[2]} and {first} {shelf.shape[1]}x{shelf.shape[2]} "
                        f"(height x width); expected one size: pass img_size, and they are scaled and cropped to it"
                    )
                shelf.add(array, len(files))
                kept.append(position)
    return kept, bad


def read_image(file: Path | BytesIO, mode: str, img_size: tuple[int, int] | None) -> np.ndarray | str:
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
