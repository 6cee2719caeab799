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
        """Whether the file has the bytes that the Hub lists: large files by one sum, small ones by the other."""
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


def check_tensors(path: Path, model: nn.Module, where: str, exact: bool = True) -> None:
    """Compares names, shapes and kinds of the tensors in ``path`` with those of ``model``; reads the header only.

    Args:
        exact: False: the caller has changed the model, so names and shapes may differ.

    Raises:
        HubError: no safetensors file (a pickle, for one), or other tensors.
    """
    found, expected = _header(path, where), model.state_dict()
    for name in sorted(expected.keys() ^ found.keys()) if exact else ():
        file, own = ("lacks", "has") if name in expected else ("has", "lacks")
        raise HubError(f"{where}: model.safetensors {file} {name[:100]!r}, which config.json's model {own}")
    for name in found.keys() & expected.keys():
        shape, dtype = found[name]
        if exact and shape != tuple(expected[name].shape):
            own = tuple(expected[name].shape)
            raise HubError(f"{where}: model.safetensors has {name} of shape {shape}, config.json's model of {own}")
        if (dtype in FLOATS) != expected[name].is_floating_point():
            own = expected[name].dtype
            raise HubError(f"{where}: model.safetensors has {name} of type {dtype}, config.json's model of {own}")


def _header(path: Path, where: str) -> dict[str, tuple[tuple[int, ...], str]]:
    """Name -> shape and type of each tensor in a file."""
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            saved = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118  not iterable itself
            return {name: (tuple(part.get_shape()), part.get_dtype()) for name, part in saved.items()}
    except (safetensors.SafetensorError, OSError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise HubError(
            f"{where}: model.safetensors is not a safetensors file ({reason:.100}); pickles are not read"
        ) from error
