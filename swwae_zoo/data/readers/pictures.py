"""Encoded images to 8-bit pixels: the one reader of folders, Parquet, `swwae predict` and `swwae reconstruct`."""

from __future__ import annotations

import logging
import threading
from contextlib import nullcontext
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from swwae_zoo.config import MAX_PIXELS
from swwae_zoo.utils.text import printable

logger = logging.getLogger(__name__)

# Formats whose plugins run another program (EPS) or know the file without being able to decode it.
_LEFT_OUT = {"BUFR", "EPS", "GRIB", "HDF5", "MPEG", "WMF", "IPTC", "MCIDAS", "SPIDER"}
_LARGE = 1 << 24
_NAMED = 3  # bad images named in a message
_FEW_BITS = 16  # an image, or a set, whose values use less than this part of their range is all but black
_TRANSPARENT = {"RGBA", "LA", "PA", "RGBa", "La"}
_large_ones = threading.Semaphore(2)  # decoded at once

Image.init()
FORMATS = tuple(sorted(set(Image.OPEN) - _LEFT_OUT))
SUFFIXES = frozenset(suffix for suffix, name in Image.registered_extensions().items() if name in FORMATS)


class Picture(NamedTuple):
    """pixels: `(C, H, W)` uint8. used: the part of its range that an image of more than 8 bits uses, else 1."""

    pixels: np.ndarray
    used: float = 1.0


def read_picture(file: Path | BytesIO, grey: bool, img_size: tuple[int, int] | None) -> Picture:
    """An image as grey or RGB, turned as its EXIF says, transparency on white; scaled to cover `img_size` and cropped
    to its centre.

    Raises:
        ValueError: what is wrong with it, without its name.
    """
    image, used = open_picture(file, grey)
    return Picture(pixels_of(image, img_size), used)


def pixels_of(image: Image.Image, img_size: tuple[int, int] | None) -> np.ndarray:
    """`(C, H, W)` uint8 of an image in mode L or RGB, scaled to cover `img_size` (H, W) and cropped to its centre."""
    if img_size is not None and image.size != img_size[::-1]:
        image = ImageOps.fit(image, (img_size[1], img_size[0]), Image.Resampling.BILINEAR)
    array = np.array(image)
    return array[None] if image.mode == "L" else np.ascontiguousarray(array.transpose(2, 0, 1))


def open_picture(file: Path | BytesIO | Image.Image, grey: bool) -> tuple[Image.Image, float]:
    """The image in mode L or RGB, in its own size, and `Picture.used`.

    Raises:
        ValueError: as `read_picture`.
    """
    if isinstance(file, Path) and file.exists() and not file.is_file():  # a pipe would wait for a writer for ever
        raise ValueError(f"it is {'a folder' if file.is_dir() else 'no regular file'}: expected an image")
    try:
        with nullcontext(file) if isinstance(file, Image.Image) else Image.open(file, formats=FORMATS) as opened:
            pixels = opened.width * opened.height
            if pixels > MAX_PIXELS:
                raise ValueError(f"{opened.width}x{opened.height} pixels, expected at most {MAX_PIXELS:,}: shrink it")
            if pixels <= _LARGE:
                return _eight_bits(opened, grey)
            with _large_ones:
                return _eight_bits(opened, grey)
    except UnidentifiedImageError as error:
        raise ValueError("it is no image, or none that Pillow reads") from error
    except OSError as error:
        raise ValueError(error.strerror or _shown(error, file)) from error
    except Exception as error:  # Pillow's parsers raise whatever they stumble on, and its own warnings among them
        raise ValueError(_shown(error, file)) from error


def size_of(file: Path) -> tuple[int, int] | None:
    """(height, width) of an image as it is to be looked at, from its header; None where it can't be read."""
    try:
        with Image.open(file, formats=FORMATS) as opened:
            turned = opened.getexif().get(0x0112, 1) in (5, 6, 7, 8)
            width, height = opened.size
            return (width, height) if turned else (height, width)
    except Exception:  # Pillow's parsers raise whatever they stumble on; who reads it whole says what is wrong
        return None


def _shown(error: Exception, file: Path | BytesIO | Image.Image) -> str:
    name = repr(str(file)) if isinstance(file, Path) else repr(file)
    return printable(" ".join(str(error).replace(name, "it").split()), 200) or type(error).__name__


def _eight_bits(opened: Image.Image, grey: bool) -> tuple[Image.Image, float]:
    used, bits = 1.0, opened.mode
    if bits.startswith("I") or bits == "F":
        deep, used = (_from_floats(opened), 1.0) if bits == "F" else _from_integers(opened)
        orientation = opened.getexif().get(0x0112)
        image = Image.fromarray(deep)
        if orientation:
            image.getexif()[0x0112] = orientation
        image = ImageOps.exif_transpose(image)
    else:
        image = ImageOps.exif_transpose(opened)
        if image.mode in _TRANSPARENT or "transparency" in image.info:
            image = image.convert("RGBA")
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("L" if grey else "RGB"), used


def _from_integers(image: Image.Image) -> tuple[np.ndarray, float]:
    """16- or 32-bit values scaled by the range that the format gives them, and how much of it they use."""
    tags = getattr(image, "tag_v2", {})
    bits = int(tags.get(258, (16,))[0]) if tags else 16
    array = np.asarray(image)
    signed = bool(tags) and tags.get(339, (1,))[0] == 2
    if bits == 32 and not signed:
        array = array.view(np.uint32)
    bits -= signed
    if array.size and int(array.min()) < 0:
        raise ValueError(f"values from {int(array.min())}, expected none below 0")
    top = (1 << bits) - 1
    highest = int(array.max()) if array.size else top
    if highest > top:
        raise ValueError(f"values to {highest}, expected at most {top} of {bits} bits")
    if tags.get(262) == 0:  # white is zero, which Pillow looks at for fewer bits alone
        array = top - array
    return (array >> (bits - 8)).astype(np.uint8), highest / top


def _from_floats(image: Image.Image) -> np.ndarray:
    array = np.asarray(image)
    low, high = float(array.min()), float(array.max())
    if not (low >= 0 and high <= 1):  # not a number is neither
        raise ValueError(f"floats from {low:g} to {high:g}, expected 0 to 1: scale them, or save it with 8 or 16 bits")
    return (array * 255).round().astype(np.uint8)


def refuse_or_skip(bad: list[str], count: int, spec: str, skip: bool) -> None:
    """What is done about unreadable images: a warning that names the first, or with `skip` false an error.

    Args:
        bad: what each is called, and what is wrong with it.
        count: images that were looked at.
    """
    if not bad:
        return
    what = f"{len(bad)} of {count} images for {spec} cannot be read: {'; '.join(bad[:_NAMED])}"
    what += "; ..." if len(bad) > _NAMED else ""
    if not skip:
        raise ValueError(f"{what}: repair or delete them, or leave them out with --bad-images skip")
    logger.warning("%s: left out", printable(what, 2000))


def check_range(used: float, what: str) -> None:
    """Refuses images of more than 8 bits that use so little of their range that they would be all but black.

    Args:
        used: the most that any of them uses (see `Picture.used`).
    """
    if used < 1 / _FEW_BITS:
        raise ValueError(
            f"{what}: the largest value is {used:.4f} of what the file's format allows, so it would be all but black; "
            "expected values over the whole range: multiply them, or save 8 bits"
        )
