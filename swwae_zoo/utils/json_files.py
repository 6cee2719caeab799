"""JSON files that a user can touch: read within bounds, and what is wrong with one said in a line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from swwae_zoo.utils.text import printable

__all__ = ["read_json"]

MAX_BYTES = 2**26
KINDS = {dict: "a table of names and values", list: "a list", str: "a text", type(None): "null"}


def read_json(path: Path, kind: type, remedy: str) -> Any:
    """The content of ``path``; None where there is no such file.

    Args:
        kind: dict, or list for a list of dicts.
        remedy: what to do about a file that is none, for the error.

    Raises:
        ValueError: no regular file, too large, no JSON, or JSON of another kind; one line that names the file.
    """
    if not path.exists():
        return None
    wrong, content = "", None
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
    if wrong:
        raise ValueError(f"{printable(path)} {wrong}: {remedy}") from None
    return content


def _is(content: Any, kind: type) -> bool:
    return isinstance(content, kind) and (kind is not list or all(isinstance(each, dict) for each in content))
