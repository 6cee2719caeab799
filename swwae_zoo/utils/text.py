"""Text from outside (file names, messages of other programs) made fit for one line of a terminal."""

from __future__ import annotations

__all__ = ["printable"]


def printable(text: object, limit: int = 400) -> str:
    r"""`text` on one line: control and other unprintable characters as escapes, the middle left out beyond `limit`.

    `printable("a\x1b[2J\nb") == r"a\x1b[2J\nb"`
    """
    shown = str(text)
    if len(shown) > limit:
        half = (limit - 5) // 2
        shown = f"{shown[:half]} ... {shown[-half:]}"
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in shown)
