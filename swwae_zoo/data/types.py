"""Images of one size behind one interface, wherever they lie; what a loader is asked for; grey <-> RGB."""

from __future__ import annotations

import copy
import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from swwae_zoo.data.sampler import IndexStream

# Pillow's integer luma weights (ITU-R 601), of 65536: `Image.convert("L")` to the bit.
_LUMA = (19595, 38470, 7471)
_CHUNK = 4096  # images converted at a time, so that int32 copies of a large set are never whole
_FINGERPRINTED = 1 << 26  # bytes of images that a fingerprint looks at


class Images(ABC):
    """Images of one size, with or without labels; indices are int64 on the CPU, `0 .. count - 1`.

    Attributes:
        name: what messages call the set.
        labels: `(count,)` int64, `0 .. len(class_names) - 1`, or None.
        class_names: one name a class, in the order of the labels.
        notes: what a user should know was done when the set was read, a line each.
        files: names of the files that the images were read from, in their order; empty where that is not known.
    """

    notes: tuple[str, ...] = ()
    files: tuple[str, ...] = ()

    def __init__(self, name: str, labels: Tensor | None, class_names: tuple[str, ...]):
        self.name, self.labels, self.class_names = name, labels, class_names

    @property
    @abstractmethod
    def count(self) -> int:
        """Number of images."""

    @property
    @abstractmethod
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of each image."""

    @abstractmethod
    def read(self, index: Tensor) -> Tensor:
        """The images at `index`, `(B,)`: `(B, C, H, W)` uint8."""

    @abstractmethod
    def without(self, index: Tensor) -> Images:
        """The same set less the images at `index`, `(M,)`."""

    @abstractmethod
    def with_channels(self, in_chans: int) -> Images:
        """The set with `in_chans` channels: RGB to grey by luma as Pillow does, grey to RGB by repeating.

        Raises:
            ValueError: any other change of channels.
        """

    @abstractmethod
    def to(self, device: torch.device, moved: dict[int, Tensor] | None = None) -> Images:
        """The set whose batches are on `device`; itself where they are there already.

        Args:
            moved: tensors moved so far, by the id of the original, so that sets that share one still do.
        """

    @property
    def images(self) -> Tensor:
        """All of them, `(count, C, H, W)` uint8; a set on disk is read whole."""
        return self.first(self.count)

    def __len__(self) -> int:
        return self.count

    def first(self, count: int) -> Tensor:
        """The first `count` images, or all where there are fewer."""
        return self.read(torch.arange(min(count, self.count)))

    def batch(self, index: Tensor) -> tuple[Tensor, Tensor | None]:
        """Images `(B, C, H, W)` and labels `(B,)` (or None) at `index`, `(B,)`."""
        labels = self.labels
        return self.read(index), None if labels is None else labels[index.to(labels.device, non_blocking=True)]

    def chunks(self, size: int) -> Iterator[Tensor]:
        """All images in order, `size` at a time."""
        for start in range(0, self.count, size):
            yield self.read(torch.arange(start, min(start + size, self.count)))

    def follow(self, stream: IndexStream, part: slice = slice(None)) -> None:  # noqa: B027 (nothing to do in memory)
        """`part` of each batch of `stream` is what `batch` will be asked for; a set on disk reads it ahead."""

    def select(self, index: Tensor) -> ImageSet:
        """The images and labels at `index`, `(M,)`, in its order; a copy in memory."""
        images, labels = self.batch(index)
        chosen = ImageSet(self.name, images, labels, self.class_names)
        chosen.files = tuple(self.files[place] for place in index.tolist()) if self.files else ()
        return chosen

    def unlabelled(self) -> Images:
        """The same images (shared, not copied) without their labels."""
        return self.labelled(None, self.class_names)

    def labelled(self, labels: Tensor | None, class_names: tuple[str, ...]) -> Images:
        """The same images (shared, not copied) with these labels."""
        other = copy.copy(self)
        other.labels, other.class_names = labels, class_names
        return other

    def fingerprint(self) -> str:
        """A digest of count, shape, class names, labels and images: whether this is the set a run began with.

        Of a set of more than 64 MiB, images spread evenly over it are looked at.
        """
        facts = repr((self.count, self.shape, self.class_names)).encode("utf-8", "backslashreplace")
        digest = hashlib.blake2b(facts, digest_size=16)
        if self.labels is not None:
            digest.update(self.labels.cpu().numpy().tobytes())
        looked_at = max(1, min(self.count, _FINGERPRINTED // max(1, int(np.prod(self.shape)))))
        for part in (torch.arange(looked_at) * self.count // looked_at).split(_CHUNK):
            digest.update(self.read(part).cpu().numpy().tobytes())
        return digest.hexdigest()


class ImageSet(Images):
    """Images in memory, of the machine or of a device.

    Args:
        images: `(N, C, H, W)` uint8.
    """

    def __init__(self, name: str, images: Tensor, labels: Tensor | None = None, class_names: tuple[str, ...] = ()):
        super().__init__(name, labels, class_names)
        self._images = images

    @property
    def images(self) -> Tensor:
        return self._images

    @property
    def count(self) -> int:
        return len(self._images)

    @property
    def shape(self) -> tuple[int, int, int]:
        channels, height, width = self._images.shape[1:]
        return channels, height, width

    def read(self, index: Tensor) -> Tensor:
        return self._images.index_select(0, index.to(self._images.device, non_blocking=True))

    def without(self, index: Tensor) -> ImageSet:
        return self if not len(index) else self.select(complement(index, self.count))

    def with_channels(self, in_chans: int) -> ImageSet:
        check_channels(self.name, self.shape[0], in_chans)
        return self._with(with_channels(self._images, in_chans), self.labels)

    def to(self, device: torch.device, moved: dict[int, Tensor] | None = None) -> ImageSet:
        moved = {} if moved is None else moved

        def move(tensor: Tensor) -> Tensor:
            if id(tensor) not in moved:
                moved[id(tensor)] = tensor.to(device)
            return moved[id(tensor)]

        return self._with(move(self._images), None if self.labels is None else move(self.labels))

    def _with(self, images: Tensor, labels: Tensor | None) -> ImageSet:
        other = copy.copy(self)
        other._images, other.labels = images, labels
        return other


class Request(NamedTuple):
    """What `load_images` asks of a loader: the option is what stands after the colon of `spec` ("" for none).

    Images of more than `limit` bytes are not held in memory but given as an `ImageStore`.
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


def complement(index: Tensor, total: int) -> Tensor:
    """`0 .. total - 1` less `index`, ascending."""
    kept = torch.ones(total, dtype=torch.bool)
    kept[index] = False
    return kept.nonzero()[:, 0]


def check_channels(name: str, have: int, want: int) -> None:
    """Refuses a change of channels that `with_channels` can't make."""
    if have != want and (have, want) not in ((1, 3), (3, 1)):
        raise ValueError(
            f"{name} has {have} channels and the model takes {want}: "
            f"expected 1 (grey) or 3 (RGB) on both sides, or the same number; pass in_chans={have}"
        )


def with_channels(images: Tensor, in_chans: int) -> Tensor:
    """`(N, C, H, W)` uint8 -> `(N, in_chans, H, W)`: RGB to grey by luma, grey to RGB by repeating."""
    if images.shape[1] == in_chans:
        return images
    if in_chans == 3:
        return images.repeat(1, 3, 1, 1)
    grey = images.new_empty(len(images), 1, *images.shape[2:])
    for start in range(0, len(images), _CHUNK):
        red, green, blue = images[start : start + _CHUNK].int().unbind(1)
        luma = _LUMA[0] * red + _LUMA[1] * green + _LUMA[2] * blue + (1 << 15)
        grey[start : start + _CHUNK, 0] = (luma >> 16).to(torch.uint8)
    return grey
