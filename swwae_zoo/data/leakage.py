"""Which unlabelled images are copies of held-out ones, pixel for pixel or nearly.

Sets share their sources (CIFAR is drawn from Tiny Images), and an image learnt from must not be one judged by.

A copy is exact when every pixel is equal. It is near when the two, shrunk to 8x8, less their mean and scaled to
length 1, have an inner product of at least `NEAR`. Measured on CIFAR-10's test images and Tiny ImageNet's at 32x32:
that finds 99.9 % of copies brightened by a tenth, all of those of 7/10 the contrast, shrunk to 28 or 16 pixels and
back, or with noise of 8 grey levels, all of JPEG quality 75 and 98.7 % of quality 40, but only 31 % of those shifted by
a pixel; of 60,000 unrelated images it took none for a copy.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from swwae_zoo.data.seeds import seeded
from swwae_zoo.data.store import ImageStore
from swwae_zoo.data.types import Images
from swwae_zoo.utils.files import cache_folders, read_sealed, writable, write_sealed

NEAR = 0.98
_SIDE = 8  # pixels that are compared, each way
_CHUNK = 8192
_FLAT = 1e-3  # length, per pixel of 0..255, under which an image has no shape to compare

ProgressCallback = Callable[[int, int], None]


def leaked(
    images: Images,
    held_out: Sequence[Images],
    near: bool,
    cache: Path | None = None,
    tell: ProgressCallback | None = None,
) -> np.ndarray:
    """Positions `(K,)` of `images` that are copies of one of `held_out`.

    Args:
        images: any number, read in chunks.
        held_out: test and validation images.
        near: near copies too, not exact ones alone.
        cache: folder where the answer for a store is kept, since looking through millions takes minutes.
        tell: called with how many have been looked at, and of how many.
    """
    prints = [_over(part, _fingerprints) for part in held_out]
    places = _places(images, prints, near, cache)
    for place in places:
        known = read_sealed(place)
        if known is not None:
            return np.frombuffer(known, np.int64)
    shapes = [_over(part, _shapes) for part in held_out] if near else []
    found, start = [], 0
    for chunk in images.chunks(_CHUNK):
        same = torch.zeros(len(chunk), dtype=torch.bool)
        for part, own in zip(held_out, prints, strict=True):
            if part.shape == images.shape:
                same |= torch.isin(_fingerprints(chunk), own)
        for part, own in zip(held_out, shapes, strict=False):
            if part.shape[0] == images.shape[0]:
                same |= torch.cat([(few @ own.T).amax(1) for few in _shapes(chunk).split(1024)]) >= NEAR
        found.append(same.nonzero()[:, 0].numpy() + start)
        start += len(chunk)
        if tell is not None:
            tell(start, images.count)
    positions = np.concatenate(found) if found else np.empty(0, np.int64)
    folder = writable([place.parent for place in places])
    if folder is not None:
        write_sealed(folder / places[0].name, positions.tobytes())
    return positions


def _places(images: Images, prints: Sequence[Tensor], near: bool, cache: Path | None) -> list[Path]:
    """Where an answer is kept: named by the store's path, size and time, the held-out images and the threshold."""
    if cache is None or not isinstance(images, ImageStore):
        return []
    stat = images.path.stat()
    facts = (os.fsencode(images.path.resolve()), stat.st_size, stat.st_mtime_ns, images.shape, NEAR if near else 1.0)
    digest = hashlib.sha256(repr(facts).encode() + torch.cat([*prints]).numpy().tobytes()).hexdigest()[:16]
    return [folder / f"{digest}.copies" for folder in cache_folders(cache, "leakage")]


def _over(images: Images, compute: Callable[[Tensor], Tensor]) -> Tensor:
    return torch.cat([compute(chunk) for chunk in images.chunks(_CHUNK)])


def _fingerprints(images: Tensor) -> Tensor:
    """A 64-bit hash of each image, `(N,)` int64: a sum of its 8-byte words with fixed random weights, modulo 2^64."""
    rows = images.flatten(1)
    if rows.shape[1] % 8:
        rows = F.pad(rows, (0, 8 - rows.shape[1] % 8))
    words = rows.contiguous().view(torch.int64)
    weights = torch.randint(-(2**63), 2**63 - 1, (words.shape[1],), generator=seeded(0, "fingerprint"))
    return torch.cat([(part * (weights | 1)).sum(1) for part in words.split(4096)])


def _shapes(images: Tensor) -> Tensor:
    """`(N, C, H, W)` uint8 -> `(N, C * 64)`: 8x8 means less their mean, of length 1; 0 for a flat image."""
    small = F.adaptive_avg_pool2d(images.float(), _SIDE).flatten(1)
    small = small - small.mean(1, keepdim=True)
    length = small.norm(dim=1, keepdim=True)
    return torch.where(length > _FLAT * small.shape[1] ** 0.5, small / length, 0)
