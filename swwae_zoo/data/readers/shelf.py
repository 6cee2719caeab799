"""Where decoded images are put: in memory, or in a raw file where they are too many for it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from swwae_zoo.data.store import ImageStore
from swwae_zoo.data.types import ImageSet, Request


class Shelf:
    """Takes images one by one, all of one shape, and gives them back as a set or a store.

    A store's file lies in `data_dir/stores`, named by its sources (path, size, time) and what is made of them, so that
    they are decoded once: `found` gives it from the second run on.

    Args:
        request: its `limit` is how many bytes may lie in memory.
        sources: the files that the images come from.
    """

    def __init__(self, request: Request, sources: Sequence[Path]):
        told = [str(request.img_size), str(request.in_chans), request.bad_images]
        for source in sources if request.limit < float("inf") else ():
            stat = source.stat()
            told.append(f"{source.resolve()} {stat.st_size} {stat.st_mtime_ns}")
        name = hashlib.sha256("\n".join(told).encode()).hexdigest()[:16]
        self._request, self._path = request, request.data_dir / "stores" / f"{name}.bin"
        self._images: torch.Tensor | None = None
        self._file = None
        self.count, self.shape = 0, ()

    def found(self) -> ImageStore | None:
        """The store of an earlier run."""
        facts = self._path.with_suffix(".json")
        if self._request.limit == float("inf") or not (facts.is_file() and self._path.is_file()):
            return None
        return ImageStore(self._request.spec, self._path, tuple(json.loads(facts.read_text())["shape"]))

    def add(self, image: np.ndarray, expected: int) -> None:
        """One image (C, H, W) uint8; `expected` is how many there will be at most."""
        if not self.count:
            self.shape = image.shape
            if expected * image.size > self._request.limit:
                self._path.parent.mkdir(parents=True, exist_ok=True)
                self._file = self._part.open("wb")
            else:
                self._images = torch.empty(expected, *image.shape, dtype=torch.uint8)
        if self._file is not None:
            self._file.write(np.ascontiguousarray(image).data)
        else:
            self._images[self.count] = torch.from_numpy(image)
        self.count += 1

    @property
    def _part(self) -> Path:
        return self._path.with_suffix(".part")

    def close(self) -> ImageSet | ImageStore:
        """What has been put here; at least one image has."""
        if self._file is None:
            return ImageSet(self._request.spec, self._images[: self.count], None, ())
        self._file.close()
        self._part.replace(self._path)
        self._path.with_suffix(".json").write_text(json.dumps({"shape": self.shape, "spec": self._request.spec}) + "\n")
        return self.found()

    def drop(self) -> None:
        """Leave nothing half-written behind."""
        if self._file is not None:
            self._file.close()
            self._part.unlink(missing_ok=True)
