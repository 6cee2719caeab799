"""The Xet store behind the Hub, over HTTP like the real one: the client cuts a file into chunks, sends them packed in
xorbs, and then a shard, which says which chunks each file consists of. Formats: https://huggingface.co/docs/xet.

The store does not unpack the chunks: what it gives back are ranges of the bytes that were sent.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from hub_server.connection import Connection
from hub_server.repos import Refused

READ, WRITE = "xet-read", "xet-write"  # tokens that the Hub gives out for it
ENTRY = 48  # bytes, of a shard's header and of each entry behind it
HAS_VERIFICATION, HAS_SHA256 = 1 << 31, 1 << 30


class Term(NamedTuple):
    """A part of a file: chunks ``start`` to ``end`` (exclusive) of a xorb, ``size`` bytes when unpacked."""

    xorb: str
    size: int
    start: int
    end: int


class CasStore:
    """What was sent.

    xorbs: by hash.  files: Xet hash -> parts.  hash_of: sha256 of a file -> its Xet hash.
    """

    def __init__(self) -> None:
        self.xorbs: dict[str, bytes] = {}
        self.files: dict[str, list[Term]] = {}
        self.hash_of: dict[str, str] = {}

    def add_xorb(self, hash: str, data: bytes) -> None:
        if not offsets_of(data)[1:]:
            raise Refused(400, "no chunks in this xorb")
        self.xorbs[hash] = data

    def add_shard(self, data: bytes) -> None:
        """Registers the files of a shard.

        Raises:
            Refused: a chunk that it names was not sent.
        """
        for file, terms, sha256 in _files_of(data):
            for term in terms:
                if term.end >= len(offsets_of(self.xorbs.get(term.xorb, b""))):
                    raise Refused(400, f"xorb {term.xorb} was not sent, or lacks chunks")
            self.files[file] = terms
            if sha256:
                self.hash_of[sha256] = file

    def reconstruction(self, file: str, wanted: range, address: str) -> dict[str, Any]:
        """Where the bytes ``wanted`` of a file lie: parts, and the ranges of the xorbs to be fetched for them."""
        if file not in self.files:
            raise Refused(404, "no such file")
        terms, places, at, skipped = [], {}, 0, None
        for term in self.files[file]:
            if at < wanted.stop and at + term.size > wanted.start:
                skipped = max(0, wanted.start - at) if skipped is None else skipped
                chunks = {"start": term.start, "end": term.end}
                offsets = offsets_of(self.xorbs[term.xorb])
                terms.append({"hash": term.xorb, "unpacked_length": term.size, "range": chunks})
                places.setdefault(term.xorb, []).append(
                    {
                        "range": chunks,
                        "url": f"{address}/xorbs/{term.xorb}?signature=s3cr3t",
                        "url_range": {"start": offsets[term.start], "end": offsets[term.end] - 1},
                    }
                )
            at += term.size
        if skipped is None:
            raise Refused(416, "the file ends before that")
        return {"offset_into_first_range": skipped, "terms": terms, "fetch_info": places}


class CasRoutes(Connection):
    """Routes of the store. Its later API is refused with 404, as by an older store; the client then uses this one."""

    user: str | None

    def _on_xorb(self, oid: str) -> Callable[[], None]:
        self._needs(WRITE)
        is_new = oid not in self.server_state.cas.xorbs
        self.server_state.cas.add_xorb(oid, self.body)
        return self._later(200, {"was_inserted": is_new})

    def _on_shard(self) -> Callable[[], None]:
        self._needs(WRITE)
        self.server_state.cas.add_shard(self.body)
        return self._later(200, {"result": 1})

    def _on_reconstruction(self, oid: str) -> Callable[[], None]:
        self._needs(READ, WRITE)
        first, _, last = self.headers.get("Range", "bytes=0-").removeprefix("bytes=").partition("-")
        wanted = range(int(first), int(last) + 1 if last else 2**62)
        return self._later(200, self.server_state.cas.reconstruction(oid, wanted, self.server_state.storage))

    def _on_stored_xorb(self, oid: str) -> Callable[[], None]:
        return lambda: self._send(200, self.server_state.cas.xorbs[oid], {"ETag": f'"{oid}"'})

    def _needs(self, *tokens: str) -> None:
        if self.user not in tokens:
            raise Refused(403 if self.user else 401, "this token may not do that")


def offsets_of(xorb: bytes) -> list[int]:
    """Where each chunk of a xorb begins, and where the last one ends; what follows is a footer, which is not needed."""
    at, found = 0, [0]
    while at + 8 <= len(xorb) and xorb[at] == 0:
        at += 8 + int.from_bytes(xorb[at + 1 : at + 4], "little")
        found.append(at)
    return found


def _files_of(shard: bytes) -> Iterator[tuple[str, list[Term], str]]:
    """Xet hash, parts and sha256 of each file in a shard."""
    at = ENTRY
    while at + ENTRY <= len(shard) and shard[at : at + 32] != b"\xff" * 32:
        file, flags, count = _hex(shard[at : at + 32]), _number(shard, at + 32), _number(shard, at + 36)
        entries = range(at + ENTRY, at + ENTRY * (1 + count), ENTRY)
        terms = [Term(_hex(shard[k : k + 32]), *(_number(shard, k + more) for more in (36, 40, 44))) for k in entries]
        at += ENTRY * (1 + count * (2 if flags & HAS_VERIFICATION else 1))
        sha256 = ""
        if flags & HAS_SHA256:
            sha256 = _hex(shard[at : at + 32])
            at += ENTRY
        yield file, terms, sha256


def _number(data: bytes, at: int) -> int:
    return int.from_bytes(data[at : at + 4], "little")


def _hex(raw: bytes) -> str:
    """A hash is written as four little-endian numbers."""
    return "".join(f"{int.from_bytes(raw[k : k + 8], 'little'):016x}" for k in range(0, 32, 8))
