"""Checksums inside the files they are of, so that a flipped bit or a cut-off file is noticed before it is believed."""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO

import safetensors.torch
from torch import Tensor

__all__ = ["check_sealed", "is_sealed_zip", "save_sealed", "seal_zip"]

_HEX = 64  # characters of a SHA-256
_UNSEALED = "0" * _HEX  # stands for a file's own checksum while that is computed


def seal_zip(path: Path) -> None:
    """Writes the SHA-256 of a zip file, such as `torch.save` makes, behind it as the archive's comment.

    A zip file ends in the length of its comment, so the file stays one that every reader takes.

    Args:
        path: a zip file without a comment.
    """
    with open(path, "r+b") as file:
        file.seek(-2, 2)
        assert file.read(2) == b"\0\0", "the archive has a comment already"
        file.seek(-2, 2)
        file.write(struct.pack("<H", _HEX))
        end = file.tell()
        file.seek(0)
        seal = _digest(file, end)
        file.seek(end)
        file.write(seal)


def is_sealed_zip(path: Path) -> bool:
    """Whether the file is as `seal_zip` left it, to the last bit."""
    size = path.stat().st_size
    if size <= _HEX:
        return False
    with open(path, "rb") as file:
        seal = _digest(file, size - _HEX)
        return file.read() == seal


def _digest(file: BinaryIO, count: int) -> bytes:
    """Hexadecimal SHA-256 of the next ``count`` bytes, or of those that are there."""
    digest = hashlib.sha256()
    while count and (block := file.read(min(count, 1 << 20))):
        digest.update(block)
        count -= len(block)
    return digest.hexdigest().encode()


def save_sealed(tensors: Mapping[str, Tensor], path: Path, config: bytes) -> None:
    """Writes a safetensors file that holds its own SHA-256 and that of the config.json beside it; equal tensors give
    equal bytes.

    Args:
        tensors: contiguous.
        path: where to.
        config: what config.json holds.
    """
    metadata = {"format": "pt", "sha256": _UNSEALED, "config_sha256": hashlib.sha256(config).hexdigest()}
    raw = safetensors.torch.save(dict(tensors), metadata)
    start = 8 + struct.unpack_from("<Q", raw)[0]
    header = json.loads(raw[8:start])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))  # the library's order is another each time
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    sealed = struct.pack("<Q", len(text)) + text
    digest = hashlib.sha256(sealed)
    digest.update(memoryview(raw)[start:])
    with open(path, "wb") as file:
        file.write(sealed.replace(_UNSEALED.encode(), digest.hexdigest().encode(), 1))
        file.write(memoryview(raw)[start:])


def check_sealed(path: Path, config: bytes | None = None) -> None:
    """Compares a safetensors file with the checksums that `save_sealed` put into it; one without them passes.

    Args:
        path: the file.
        config: what the config.json beside it holds; None leaves it out.

    Raises:
        ValueError: it, or config.json, is not as it was written.
    """
    raw = path.read_bytes()
    try:
        start = 8 + struct.unpack_from("<Q", raw)[0]
        metadata = json.loads(raw[8:start]).get("__metadata__") or {}
        own, of_config = metadata.get("sha256"), metadata.get("config_sha256")
    except (struct.error, ValueError, AttributeError, RecursionError):
        raise ValueError(f"{path} is no safetensors file, or damaged") from None
    if own is None and of_config is None:
        return
    digest = hashlib.sha256(raw[:start].replace(str(own).encode(), _UNSEALED.encode(), 1))
    digest.update(memoryview(raw)[start:])
    if digest.hexdigest() != own:
        raise ValueError(f"{path} is not as it was written (its checksum differs): it is damaged; take another copy")
    if config is not None and hashlib.sha256(config).hexdigest() != of_config:
        raise ValueError(f"{path.with_name('config.json')} is not the one that was written with {path.name}")
