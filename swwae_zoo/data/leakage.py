"""Which unlabelled images are copies of held-out ones, pixel for pixel or nearly.

Sets share their sources (CIFAR is drawn from Tiny Images), and an image learnt from must not be one judged by.

A copy is exact when every pixel is equal. It is near when the two, shrunk to 8x8, less their mean and scaled to length 1,
have an inner product of at least `NEAR`. Measured on CIFAR-10's test images and Tiny ImageNet's at 32x32: that finds
99.9 % of copies brightened by a tenth, all of those of 7/10 the contrast, shrunk to 28 or 16 pixels and back, or with
noise of 8 grey levels, all of JPEG quality 75 and 98.7 % of quality 40, but only 31 % of those shifted by a pixel; of
60,000 unrelated images it took none for a copy.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from swwae_zoo.data.seeds import seeded
from swwae_zoo.data.store import ImageStore
from swwae_zoo.data.types import ImageSet

NEAR = 0.98
_SIDE = 8  # pixels that are compared, each way
_CHUNK = 8192
_FLAT = 1e-3  # length, per pixel of 0..255, under which an image has no shape to compare

Progress = Callable[[int, int], None]


def copies(
    images: ImageSet | ImageStore, held_out: Tensor, near: bool, cache: Path | None = None, tell: Progress | None = None
) -> np.ndarray:
    """Positions `(K,)` of `images` (records, for a store) that are copies of one of `held_out`.

    Args:
        images: any number, read in chunks.
        held_out: `(M, C, H, W)` uint8.
        near: near copies too, not exact ones alone.
        cache: folder where the answer for a store is kept, since looking through millions takes minutes.
        tell: called with how many have been looked at, and of how many.
    """
    kept = _kept(images, held_out, near, cache)
    if kept is not None and kept.is_file():
        return np.load(kept)
    prints, shapes = _fingerprints(held_out), _shapes(held_out) if near else None
    found, start, total = [], 0, images.total if isinstance(images, ImageStore) else images.count
    for chunk in _chunks(images):
        same = torch.zeros(len(chunk), dtype=torch.bool)
        if chunk.shape[1:] == held_out.shape[1:]:
            same |= torch.isin(_fingerprints(chunk), prints)
        if shapes is not None and chunk.shape[1] == held_out.shape[1]:
            same |= torch.cat([(part @ shapes.T).amax(1) for part in _shapes(chunk).split(1024)]) >= NEAR
        found.append(same.nonzero()[:, 0].numpy() + start)
        start += len(chunk)
        if tell is not None:
            tell(start, total)
    positions = np.concatenate(found) if found else np.empty(0, np.int64)
    if kept is not None:
        kept.parent.mkdir(parents=True, exist_ok=True)
        part = kept.with_name(f".{kept.name}.part.npy")
        np.save(part, positions)
        part.replace(kept)
    return positions


def _kept(images: ImageSet | ImageStore, held_out: Tensor, near: bool, cache: Path | None) -> Path | None:
    """The file of an answer: named by the store's path, size and time, the held-out images and the threshold."""
    if cache is None or not isinstance(images, ImageStore):
        return None
    stat = images.path.stat()
    told = (str(images.path.resolve()), stat.st_size, stat.st_mtime_ns, images.shape, NEAR if near else 1.0)
    digest = hashlib.sha256(repr(told).encode() + _fingerprints(held_out).numpy().tobytes()).hexdigest()[:16]
    return cache / "copies" / f"{images.path.stem}-{digest}.npy"


def _chunks(images: ImageSet | ImageStore) -> Iterator[Tensor]:
    if isinstance(images, ImageSet):
        yield from images.images.split(_CHUNK)
    else:
        for start in range(0, images.total, _CHUNK):
            yield images.records(start, start + _CHUNK)


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
