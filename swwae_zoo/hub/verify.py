"""Checks of model.safetensors: the right bytes, and exactly the tensors of the model that config.json tells of."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import NamedTuple

import safetensors
from torch import nn

from swwae_zoo.hub.errors import HubError
from swwae_zoo.hub.remote import RemoteFile

__all__ = ["Sums", "check_tensors", "is_file_of", "largest_file", "sha256_of", "sums_of"]

FLOATS = ("F64", "F32", "F16", "BF16")
BLOCK = 2**20
LARGE = 2**24  # from 10 MB on the Hub stores no file as a small one


class Sums(NamedTuple):
    """Of a local file. blob_id: git's SHA-1 of it as a blob; empty for a large file."""

    size: int
    sha256: str
    blob_id: str

    def fit(self, remote: RemoteFile) -> bool:
        """Whether the file holds the bytes that the Hub lists: it knows large files by one sum, small ones by the other."""
        return remote.sha256 == self.sha256 if remote.sha256 is not None else remote.blob_id == self.blob_id


def sums_of(path: Path) -> Sums:
    """Reads the file once."""
    size = path.stat().st_size
    sha256, blob = hashlib.sha256(), hashlib.sha1(b"blob %d\0" % size)
    with open(path, "rb") as file:
        while block := file.read(BLOCK):
            sha256.update(block)
            if size < LARGE:
                blob.update(block)
    return Sums(size, sha256.hexdigest(), blob.hexdigest() if size < LARGE else "")


def sha256_of(path: Path) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(BLOCK):
            digest.update(block)
    return digest.hexdigest()


def is_file_of(path: Path, remote: RemoteFile) -> bool:
    """Whether a file holds the bytes that the Hub lists."""
    return sha256_of(path) == remote.sha256 if remote.sha256 is not None else sums_of(path).fit(remote)


def largest_file(model: nn.Module) -> int:
    """Bytes that the weights of ``model`` may take: fp64, and room for a header."""
    return 8 * sum(tensor.numel() for tensor in model.state_dict().values()) + 2**24


def check_tensors(path: Path, model: nn.Module, where: str) -> None:
    """Compares names, shapes and kinds of the tensors in ``path`` with those of ``model``; reads the header only.

    Raises:
        HubError: no safetensors file (a pickle, for one), or other tensors.
    """
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            saved = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118  not iterable itself
            found = {name: (tuple(part.get_shape()), part.get_dtype()) for name, part in saved.items()}
    except (safetensors.SafetensorError, OSError, ValueError) as error:
        raise HubError(
            f"{where}: model.safetensors is not a safetensors file ({' '.join(str(error).split()):.100}); pickles are not read"
        ) from error
    expected = model.state_dict()
    for name in sorted(expected.keys() ^ found.keys()):
        what = "lacks" if name in expected else "has"
        raise HubError(
            f"{where}: model.safetensors {what} {name[:100]!r}, which config.json's model {'has' if name in expected else 'lacks'}"
        )
    for name, (shape, dtype) in found.items():
        if shape != tuple(expected[name].shape):
            raise HubError(
                f"{where}: model.safetensors has {name} of shape {shape}, config.json's model of {tuple(expected[name].shape)}"
            )
        if (dtype in FLOATS) != expected[name].is_floating_point():
            raise HubError(
                f"{where}: model.safetensors has {name} of type {dtype}, config.json's model of {expected[name].dtype}"
            )
