"""From a data spec (`mnist`, `svhn:extra`, `folder:PATH`) to images."""

from __future__ import annotations

import difflib
import logging
import os
from pathlib import Path

import torch

from swwae_zoo.data.readers.folders import folder
from swwae_zoo.data.readers.hf import FORM, hf
from swwae_zoo.data.readers.npz import npz
from swwae_zoo.data.readers.parquet import parquet
from swwae_zoo.data.readers.sources import SOURCES
from swwae_zoo.data.readers.tinyimages import tinyimages
from swwae_zoo.data.types import Images, ImageSet, NoSuchSplit, Request
from swwae_zoo.utils.files import user_path
from swwae_zoo.utils.text import printable

logger = logging.getLogger(__name__)

SPLITS = ("train", "val", "test", "unlabeled")
_OWN = ("folder", "npz", "parquet", "hf")  # sets of a user's own, which may have validation images
BAD_IMAGES = ("refuse", "skip")
_LONGEST = 3000  # characters of a message: a path has up to 4,096, but its middle may be left out
# A new data set is one more entry.
LOADERS = {**SOURCES, "folder": folder, "npz": npz, "parquet": parquet, "hf": hf, "tinyimages": tinyimages}
FORMS = {
    "svhn": "svhn[:extra]", "stl10": "stl10[:fold=K]", "folder": "folder:PATH", "npz": "npz:PATH",
    "parquet": "parquet:PATH", "hf": FORM, "tinyimages": "tinyimages[:PATH]",
}  # fmt: skip


def load_images(
    spec: str,
    split: str,
    *,
    data_dir: str | os.PathLike[str] | None = None,
    img_size: int | tuple[int, int] | None = None,
    in_chans: int | None = None,
    bad_images: str = "refuse",
    limit: float = float("inf"),
) -> Images:
    """One part of a data set: whole, in memory, but for Tiny Images and for what is larger than `limit`.

    Args:
        spec: digits, mnist, fashion_mnist, svhn[:extra], stl10[:fold=K], cifar10, cifar100, folder:PATH, npz:PATH,
            parquet:PATH, hf:ORG/NAME[@REVISION][:CONFIG] or tinyimages[:PATH].
        split: "train", "val", "test" or "unlabeled" (stl10's own unlabelled part, any image of a folder, else the
            training images; labels are None).
        data_dir: where the published files are, or are downloaded to; else the environment's SWWAE_DATA, else
            ~/.cache/swwae_zoo. Not used by digits, folder and npz.
        img_size: pixels, or (height, width), for the images of a folder; others keep their size.
        in_chans: 1 for grey, 3 for RGB, None for what the set has (RGB for a folder).
        bad_images: "refuse" or "skip" the unreadable images of a folder.
        limit: bytes of images that may lie in memory; a folder, archive or Parquet set with more is unpacked once to
            `data_dir/stores` and given as an `ImageStore`, and Tiny Images always are one.

    Raises:
        ValueError: unknown set or split, files missing and not to be had, unreadable or unsuitable files.
        NoSuchSplit: (a ValueError) the set has no test part.
    """
    if split not in SPLITS:
        raise ValueError(f"got split {split!r}, expected one of {', '.join(SPLITS)}")
    if bad_images not in BAD_IMAGES:
        raise ValueError(f"got bad_images {bad_images!r}, expected one of {', '.join(BAD_IMAGES)}")
    name, _, option = spec.partition(":")
    if name not in LOADERS:
        raise ValueError(_unknown(spec, name))
    if split == "val" and name not in _OWN:
        raise NoSuchSplit(f"{spec} has no validation images of its own")
    size = (img_size, img_size) if isinstance(img_size, int) else img_size
    request = Request(spec, option, split, data_folder(data_dir), size, in_chans, bad_images, limit)
    try:
        images = LOADERS[name](request)
        if split == "unlabeled":
            images = images.unlabelled()
        _check(images)
        return images if in_chans is None else images.with_channels(in_chans)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        raise ValueError(printable(f"{spec}: {where}{error.strerror or error}", _LONGEST)) from error
    except ValueError as error:
        kind = NoSuchSplit if isinstance(error, NoSuchSplit) else ValueError
        raise kind(printable(error, _LONGEST)) from error.__cause__


def _check(images: Images) -> None:
    """What must hold of every set, whatever reader it comes from."""
    if not images.count:
        raise ValueError(f"{images.name} holds no images")
    labels = images.labels
    if labels is not None:
        if len(labels) != images.count:
            raise ValueError(f"{images.name} has {images.count} images and {len(labels)} labels; expected one for each")
        low, high = int(labels.min()), int(labels.max())
        if low < 0 or high >= len(images.class_names):
            raise ValueError(
                f"{images.name} has label {low if low < 0 else high}; expected 0 to {len(images.class_names) - 1}"
            )
    if isinstance(images, ImageSet):
        low, high = (int(value) for value in torch.aminmax(images.images))
        if low == high:
            logger.warning("%s: every pixel of every image is %d", printable(images.name), low)


def data_folder(data_dir: str | os.PathLike[str] | None = None) -> Path:
    """`data_dir`, else the environment's SWWAE_DATA, else ~/.cache/swwae_zoo."""
    return user_path(data_dir or os.environ.get("SWWAE_DATA") or "~/.cache/swwae_zoo")


def _unknown(spec: str, name: str) -> str:
    near = difflib.get_close_matches(name.lower(), LOADERS, n=1)
    hint = ""
    if user_path(spec).is_dir():
        hint = f"; for that folder write 'folder:{spec}'"
    elif near:
        hint = f"; did you mean {near[0]!r}?"
    known = ", ".join(FORMS.get(each, each) for each in LOADERS)
    return f"unknown data set {printable(spec, 100)!r}{hint} (known: {known})"
