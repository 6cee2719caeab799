"""What a loader is asked for, what it gives back, and grey <-> RGB."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

# Pillow's integer luma weights (ITU-R 601), of 65536: `Image.convert("L")` to the bit.
_LUMA = (19595, 38470, 7471)
_CHUNK = 4096  # images converted at a time, so that int32 copies of a large set are never whole


class ImageSet(NamedTuple):
    """Images of one size, with or without labels.

    images: `(N, C, H, W)` uint8 on the CPU. labels: `(N,)` int64 in `0 .. len(class_names) - 1`, or None.
    """

    name: str
    images: Tensor
    labels: Tensor | None
    class_names: tuple[str, ...]

    @property
    def count(self) -> int:
        return len(self.images)

    def read(self, index: Tensor) -> Tensor:
        """The images at `index`, `(B,)` int64: `(B, C, H, W)`."""
        return self.images.index_select(0, index)

    def select(self, index: Tensor) -> ImageSet:
        """The images (and labels) at `index`, `(M,)` int64, in its order; a copy."""
        labels = None if self.labels is None else self.labels[index]
        return self._replace(images=self.images[index], labels=labels)

    def unlabelled(self) -> ImageSet:
        """The same images (shared, not copied) without their labels."""
        return self._replace(labels=None)


class Request(NamedTuple):
    """What `load_images` asks of a loader: the option is what stands after the colon of `spec` ("" for none).

    Unlabelled images of more than `limit` bytes are not held in memory but given as an `ImageStore`.
    """

    spec: str
    option: str
    split: str
    data_dir: Path
    img_size: tuple[int, int] | None
    in_chans: int | None
    bad_images: str
    limit: float = float("inf")


class NoSuchSplit(ValueError):
    """The data set is there but has no such part (a folder without test images, say)."""


def with_channels(image_set: ImageSet, in_chans: int | None) -> ImageSet:
    """The set with `in_chans` channels: RGB to grey by luma as Pillow does, grey to RGB by repeating.

    Raises:
        ValueError: any other change of channels.
    """
    images = image_set.images
    have = images.shape[1]
    if in_chans is None or in_chans == have:
        return image_set
    if (have, in_chans) == (1, 3):
        return image_set._replace(images=images.repeat(1, 3, 1, 1))
    if (have, in_chans) == (3, 1):
        return image_set._replace(images=grey(images))
    raise ValueError(
        f"{image_set.name} has {have} channels and the model takes {in_chans}: "
        f"expected 1 (grey) or 3 (RGB) on both sides, or the same number; pass in_chans={have}"
    )


def grey(images: Tensor) -> Tensor:
    """`(N, 3, H, W)` -> `(N, 1, H, W)`, uint8."""
    grey = images.new_empty(len(images), 1, *images.shape[2:])
    for start in range(0, len(images), _CHUNK):
        part = images[start : start + _CHUNK].int()
        luma = sum(weight * part[:, channel] for channel, weight in enumerate(_LUMA)) + (1 << 15)
        grey[start : start + _CHUNK, 0] = (luma >> 16).to(torch.uint8)
    return grey
