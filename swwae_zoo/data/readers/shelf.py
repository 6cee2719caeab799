"""Where decoded images are put: in memory, or in a raw file where they are too many for it."""

from __future__ import annotations

import base64
import errno
import hashlib
import json
import logging
import os
import zlib
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor

from swwae_zoo.data.bounds import check_memory
from swwae_zoo.data.store import ImageStore
from swwae_zoo.data.types import Images, ImageSet, Request
from swwae_zoo.utils.files import atomic_write, cache_folders, read_sealed, remove_leftovers, writable, write_sealed
from swwae_zoo.utils.text import printable

logger = logging.getLogger(__name__)

_PART = 1 << 24  # bytes read at a time where a file's checksum is compared


class Shelf:
    """Takes images one by one, all of one shape, and gives them back as a set or a store.

    A store's file lies in `data_dir/stores`, named by its sources (path, size, time) and what is made of them, so that
    they are decoded once: `found` gives it from the second run on. Beside it lie its size, its checksum and the labels,
    themselves under a checksum; a store that is not as it was written is not found. Two processes that unpack the same
    sources write files of their own, and the later one takes the place of the other.

    Args:
        request: its `limit` is how many bytes may lie in memory.
        sources: the files that the images come from.
    """

    def __init__(self, request: Request, sources: Sequence[Path]):
        self._request = request
        self._folders: list[Path] = []
        if request.limit < float("inf"):
            self._folders = cache_folders(request.data_dir, "stores")
            self._name = _name(request, sources)
        self._memory: Tensor | None = None
        self._file: BinaryIO | None = None
        self._writing = ExitStack()
        self._checksum = 0
        self.count, self.flat, self.shape = 0, 0, (0, 0, 0)

    def __enter__(self) -> Shelf:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Nothing half-written is left behind when the block fails."""
        self._writing.__exit__(kind or RuntimeError, error or RuntimeError("not closed"), trace)

    def found(self) -> ImageStore | None:
        """The store of an earlier run, if it is as that run wrote it."""
        for folder in self._folders:
            path, facts = folder / f"{self._name}.bin", self._facts(folder)
            if facts is not None and _is_whole(path, facts):
                remove_leftovers(path)
                return self._opened(path, facts)
            if facts is not None or path.exists():
                logger.warning("%s is damaged or was not finished: the images are unpacked again", printable(path))
        return None

    def add(self, image: np.ndarray, expected: int) -> None:
        """One image (C, H, W) uint8; `expected` is how many there will be at most.

        Raises:
            ValueError: neither memory nor disk has room for so many.
        """
        if not self.count:
            self.shape = (image.shape[0], image.shape[1], image.shape[2])
            if expected * image.size > self._request.limit:
                self._file = self._opened_for_writing()
            else:
                check_memory(
                    f"{self._request.spec} ({expected:,} images of {image.size:,} bytes)", expected * image.size
                )
                self._memory = torch.empty(expected, *image.shape, dtype=torch.uint8)
        self.flat += int(image.min() == image.max())
        if self._file is not None:
            data = np.ascontiguousarray(image).tobytes()
            self._checksum = zlib.crc32(data, self._checksum)
            try:
                self._file.write(data)
            except OSError as error:
                raise self._no_room(error) from error
        elif self._memory is not None:
            self._memory[self.count] = torch.from_numpy(image)
        self.count += 1

    def close(self, labels: Tensor | None = None, class_names: tuple[str, ...] = ()) -> Images:
        """What has been put here, at least one image, with a label for each of them or without."""
        if self.flat:
            logger.warning(
                "%d of %d images of %s have one value in every pixel",
                self.flat,
                self.count,
                printable(self._request.spec),
            )
        if self._memory is not None:
            return ImageSet(self._request.spec, self._memory[: self.count], labels, class_names)
        packed = None if labels is None else base64.b64encode(zlib.compress(labels.numpy().tobytes())).decode()
        facts = {
            "spec": printable(self._request.spec),
            "shape": self.shape,
            "count": self.count,
            "crc32": self._checksum,
            "labels": packed,
            "class_names": class_names,
        }
        try:
            self._writing.close()  # flushed, synchronised, and in its place
            facts["mtime_ns"] = self._path.stat().st_mtime_ns
            self._keep(self._path, facts)
        except OSError as error:
            raise self._no_room(error) from error
        return self._opened(self._path, facts)

    def _opened_for_writing(self) -> BinaryIO:
        folder = writable(self._folders)
        if folder is None:
            raise ValueError(
                f"{self._request.spec} is too large for memory and there is no folder to unpack it to (tried "
                f"{', '.join(map(str, self._folders))}): set --data-dir to one that can be written"
            )
        self._path = folder / f"{self._name}.bin"
        part = self._writing.enter_context(atomic_write(self._path))
        return self._writing.enter_context(part.open("wb"))

    def _no_room(self, error: OSError) -> ValueError:
        why = "no space left" if error.errno == errno.ENOSPC else error.strerror
        return ValueError(f"{self._path}: {why}: free some, or set --data-dir to another folder")

    def _facts(self, folder: Path) -> dict[str, Any] | None:
        sealed = read_sealed(folder / f"{self._name}.json")
        return None if sealed is None else json.loads(sealed)

    @staticmethod
    def _keep(path: Path, facts: dict[str, Any]) -> None:
        write_sealed(path.with_suffix(".json"), json.dumps(facts).encode())

    def _opened(self, path: Path, facts: dict[str, Any]) -> ImageStore:
        labels = None
        if facts["labels"] is not None:
            labels = torch.from_numpy(
                np.frombuffer(zlib.decompress(base64.b64decode(facts["labels"])), np.int64).copy()
            )
        return ImageStore(
            self._request.spec, path, tuple(facts["shape"]), labels=labels, class_names=tuple(facts["class_names"])
        )


def _name(request: Request, sources: Sequence[Path]) -> str:
    digest = hashlib.sha256(repr((request.split, request.img_size, request.in_chans, request.bad_images)).encode())
    for source in sources:
        digest.update(os.fsencode(source.absolute()) + b"\n")
        try:
            stat = source.stat()
        except OSError:  # a link that leads nowhere
            continue
        digest.update(f"{stat.st_size} {stat.st_mtime_ns}\n".encode())
    return digest.hexdigest()[:16]


def _is_whole(path: Path, facts: dict[str, Any]) -> bool:
    """Whether the file has the size and the checksum it was written with.

    The bytes are looked at where its time is another than that of the last look, in which they were right.
    """
    try:
        stat = path.stat()
        if stat.st_size != facts["count"] * int(np.prod(facts["shape"])):
            return False
        if stat.st_mtime_ns == facts["mtime_ns"]:
            return True
        checksum = 0
        with path.open("rb") as file:
            while data := file.read(_PART):
                checksum = zlib.crc32(data, checksum)
    except OSError:
        return False
    if checksum != facts["crc32"]:
        return False
    if writable([path.parent]) is not None:
        Shelf._keep(path, {**facts, "mtime_ns": stat.st_mtime_ns})
    return True
