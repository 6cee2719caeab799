"""The other upload path: a client that is told `casUrl: local:///folder` keeps its chunks in that folder, as a
content-addressed store on the same machine would.  What the store knows of whole files lies in its shards.
"""
from __future__ import annotations

from pathlib import Path

ENTRY = 48  # bytes, of a shard's header and of each entry behind it
HAS_VERIFICATION, HAS_SHA256 = 1 << 31, 1 << 30


def files_of(folder: Path) -> dict[str, str]:
    """sha256 -> Xet hash of every file that the store holds."""
    found: dict[str, str] = {}
    for shard in folder.rglob("shards/*.mdb"):
        found.update(_files_of_shard(shard.read_bytes()))
    return found


def _files_of_shard(data: bytes) -> dict[str, str]:
    found, at = {}, ENTRY
    while at + ENTRY <= len(data) and data[at : at + 32] != b"\xff" * 32:
        xet_hash = _hex(data[at : at + 32])
        flags, entries = (int.from_bytes(data[at + k : at + k + 4], "little") for k in (32, 36))
        at += ENTRY + entries * ENTRY * (2 if flags & HAS_VERIFICATION else 1)
        if flags & HAS_SHA256:
            found[_hex(data[at : at + 32])] = xet_hash
            at += ENTRY
    return found


def _hex(raw: bytes) -> str:
    """A hash is written as four little-endian numbers."""
    return "".join(f"{int.from_bytes(raw[k : k + 8], 'little'):016x}" for k in range(0, 32, 8))
