"""Text from outside (file names, messages of other programs) made fit for a terminal, a card or a page."""

from __future__ import annotations

import html
import re

__all__ = ["markdown", "markup", "printable"]


def printable(text: object, limit: int = 400) -> str:
    r"""`text` on one line: control and other unprintable characters as escapes, the middle left out beyond `limit`.

    `printable("a\x1b[2J\nb") == r"a\x1b[2J\nb"`
    """
    shown = str(text)
    if len(shown) > limit:
        half = (limit - 5) // 2
        shown = f"{shown[:half]} ... {shown[-half:]}"
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in shown)


def markup(text: object, limit: int = 400) -> str:
    r"""`printable` text that rich shows as it stands: `markup("run[/red]x") == r"run\[/red]x"`."""
    from rich.markup import escape

    return escape(printable(text, limit))


def markdown(text: object, limit: int = 400) -> str:
    r"""`printable` text that Markdown and HTML show as it stands, in a line or a table's cell.

    `markdown("<b>|[x](y)") == r"&lt;b&gt;\|\[x\]\(y\)"`
    """
    return re.sub(r"([\\`*_{}\[\]()#|~])", r"\\\1", html.escape(printable(text, limit), quote=False))
