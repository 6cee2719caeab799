"""From a data spec (`mnist`, `svhn:extra`, `folder:PATH`) to images."""

from __future__ import annotations

import difflib
import os
from pathlib import Path

from swwae_zoo.data.readers.folders import folder
from swwae_zoo.data.readers.npz import npz
from swwae_zoo.data.readers.parquet import parquet
from swwae_zoo.data.readers.sources import SOURCES
from swwae_zoo.data.readers.tinyimages import tinyimages
from swwae_zoo.data.store import ImageStore
from swwae_zoo.data.types import ImageSet, Request, with_channels

SPLITS = ("train", "test", "unlabeled")
BAD_IMAGES = ("refuse", "skip")
# A new data set is one more entry.
LOADERS = {**SOURCES, "folder": folder, "npz": npz, "parquet": parquet, "tinyimages": tinyimages}
FORMS = {
    "svhn": "svhn[:extra]", "stl10": "stl10[:fold=K]", "folder": "folder:PATH", "npz": "npz:PATH",
    "parquet": "parquet:PATH", "tinyimages": "tinyimages[:PATH]",
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
) -> ImageSet | ImageStore:
    """One part of a data set: whole, in memory, but for Tiny Images and for what is larger than `limit`.

    Args:
        spec: digits, mnist, fashion_mnist, svhn[:extra], stl10[:fold=K], cifar10, cifar100, folder:PATH, npz:PATH,
            parquet:PATH or tinyimages[:PATH].
        split: "train", "test" or "unlabeled" (stl10's own unlabelled part, any image of a folder, else the training
            images; labels are None).
        data_dir: where the published files are, or are downloaded to; else the environment's SWWAE_DATA, else
            ~/.cache/swwae_zoo. Not used by digits, folder and npz.
        img_size: pixels, or (height, width), for the images of a folder; others keep their size.
        in_chans: 1 for grey, 3 for RGB, None for what the set has (RGB for a folder).
        bad_images: "refuse" or "skip" the unreadable images of a folder.
        limit: bytes of unlabelled images that may lie in memory; a folder, archive or Parquet set with more is unpacked
            once to `data_dir/stores` and given as an `ImageStore`, and Tiny Images always are one.

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
    size = (img_size, img_size) if isinstance(img_size, int) else img_size
    limit = limit if split == "unlabeled" else float("inf")
    image_set = LOADERS[name](Request(spec, option, split, data_folder(data_dir), size, in_chans, bad_images, limit))
    if isinstance(image_set, ImageStore):
        return (
            image_set if image_set.in_chans == (in_chans or image_set.in_chans) else image_set.with_channels(in_chans)
        )
    if split == "unlabeled":
        image_set = image_set.unlabelled()
    return with_channels(image_set, in_chans)


def data_folder(data_dir: str | os.PathLike[str] | None = None) -> Path:
    """`data_dir`, else the environment's SWWAE_DATA, else ~/.cache/swwae_zoo."""
    return Path(data_dir or os.environ.get("SWWAE_DATA") or "~/.cache/swwae_zoo").expanduser()


def _unknown(spec: str, name: str) -> str:
    near = difflib.get_close_matches(name.lower(), LOADERS, n=1)
    hint = ""
    if Path(spec).expanduser().is_dir():
        hint = f"; for that folder write 'folder:{spec}'"
    elif near:
        hint = f"; did you mean {near[0]!r}?"
    return f"unknown data set {spec!r}{hint} (known: {', '.join(FORMS.get(each, each) for each in LOADERS)})"
