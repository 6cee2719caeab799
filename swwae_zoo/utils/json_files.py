"""The JSON files of a run: written with a checksum in each table, read within bounds, errors said in a line."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from swwae_zoo.utils.files import atomic_write
from swwae_zoo.utils.text import printable

__all__ = ["digest_of", "read_json", "sealed_line", "unsealed", "write_json"]

MAX_BYTES = 2**26
SEAL = "sha256"  # the last key of each table that `write_json` writes
KINDS = {dict: "a table of names and values", list: "a list", str: "a text", type(None): "null"}


def digest_of(content: Any) -> str:
    """SHA-256 of a JSON value, whatever the order of its keys and its white space."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _sealed(table: Mapping[str, Any]) -> dict[str, Any]:
    plain = json.loads(json.dumps(table))  # as a reader will find it
    return {**plain, SEAL: digest_of(plain)}


def unsealed(table: Mapping[str, Any]) -> dict[str, Any] | None:
    """The table without its checksum; None where it has none, or another one than its content gives."""
    plain = {key: value for key, value in table.items() if key != SEAL}
    return plain if table.get(SEAL) == digest_of(plain) else None


def sealed_line(table: Mapping[str, Any]) -> str:
    """One line of a JSON Lines file, with its checksum."""
    return json.dumps(_sealed(table)) + "\n"


def write_json(path: Path, content: Mapping[str, Any] | list[Mapping[str, Any]]) -> None:
    """Writes a table, or a list of tables, each with its checksum, atomically."""
    sealed = [_sealed(each) for each in content] if isinstance(content, list) else _sealed(content)
    with atomic_write(path) as part:
        part.write_text(json.dumps(sealed, indent=2) + "\n", encoding="utf-8")


def read_json(path: Path, kind: type, remedy: str) -> Any:
    """What `write_json` wrote to ``path``; None where there is no such file.

    Args:
        kind: dict, or list for a list of dicts.
        remedy: what to do about a file that is none, for the error.

    Raises:
        ValueError: no regular file, too large, no JSON, JSON of another kind, or not as it was written; one line that
            names the file.
    """
    if not path.exists():
        return None
    wrong, content = "", cast(Any, None)
    try:
        if not path.is_file():
            wrong = "is no regular file"
        elif path.stat().st_size > MAX_BYTES:
            wrong = f"has {path.stat().st_size:,} bytes, expected at most {MAX_BYTES:,}"
        else:
            content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        wrong = f"can't be read: {error.strerror}"
    except (ValueError, RecursionError) as error:
        wrong = f"is no valid JSON: {printable(error, 100)}"
    if not wrong and not _is(content, kind):
        expected = "a list of tables" if kind is list else KINDS[kind]
        wrong = f"holds {KINDS.get(type(content), 'a number')}, expected {expected}"
        if kind is list and isinstance(content, list):
            wrong = "holds a list of other things, expected a list of tables"
    if not wrong:
        tables = [unsealed(each) for each in (content if isinstance(content, list) else [content])]
        if None not in tables:
            return tables if kind is list else tables[0]
        wrong = "is not as it was written (its checksum differs)"
    raise ValueError(f"{printable(path)} {wrong}: {remedy}") from None


def _is(content: Any, kind: type) -> bool:
    return isinstance(content, kind) and (kind is not list or all(isinstance(each, dict) for each in content))
