"""80 Million Tiny Images, for those who have it: `tinyimages[:PATH]`.

The file is never downloaded. Its authors withdrew it in 2020, since it holds derogatory labels and offensive images
that nobody could review at that size, and asked that it be used no more. Sets that do the same work are named in the
error for a missing file.
"""

from __future__ import annotations

from swwae_zoo.data.store import ImageStore
from swwae_zoo.data.types import NoSuchSplit, Request
from swwae_zoo.utils.files import user_path

RECORD = (3, 32, 32)  # R, G, B planes, each column by column: 3,072 bytes
PLACES = ("tiny_images.bin", "unlabeled32/tiny_images.bin")


def tinyimages(request: Request) -> ImageStore:
    """The records of tiny_images.bin (given itself or by its folder), or of any file in its layout, as a store.

    Raises:
        ValueError: no such file (and why it can't be downloaded), cut off, or asked for as labelled data.
    """
    if request.split != "unlabeled":
        kind = NoSuchSplit if request.split == "test" else ValueError
        raise kind(f"{request.spec} has no labels; expected a labelled set, or give it as --unlabeled {request.spec}")
    given = user_path(request.option) if request.option else request.data_dir
    places = [given / place for place in PLACES] if given.is_dir() or not request.option else [given]
    path = next((place for place in places if place.is_file()), None)
    if path is None:
        raise ValueError(
            f"no file {' or '.join(map(str, places))}: Tiny Images is not downloaded, its authors withdrew it in 2020 "
            "for the offensive content it holds. Use CINIC-10 or ImageNet at 32x32 (folder:, npz: or parquet:PATH), "
            "a generated set (npz:PATH), any folder:PATH, or tinyimages:FILE for images of yours in its layout"
        )
    return ImageStore(request.spec, path, RECORD, transposed=True)
