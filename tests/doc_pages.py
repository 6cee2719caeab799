"""Commands and snippets of the Markdown pages, taken from the pages themselves."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
PAGES = ("README.md", "MODEL_CARD.md", *sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md")))
FENCE = re.compile(r"^```(\S*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
IN_LINE = re.compile(r"`([^`\n]+)`")


class Block(NamedTuple):
    """A fenced block. language: what stands after the fence; "" is for the shell."""

    page: str
    line: int
    language: str
    text: str

    @property
    def commands(self) -> list[str]:
        """A shell block's lines, without comments; where lines begin with "$ ", those alone: the rest is output."""
        lines = self.text.replace("\\\n", " ").splitlines()
        if any(line.startswith("$ ") for line in lines):
            lines = [line.removeprefix("$ ") for line in lines if line.startswith("$ ")]
        return [line for line in lines if shlex.split(line, comments=True)]


def text_of(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def blocks(page: str) -> list[Block]:
    text = text_of(page)
    return [Block(page, text.count("\n", 0, m.start()) + 1, m[1], m[2]) for m in FENCE.finditer(text)]


def in_line(page: str) -> list[str]:
    """Code within sentences and tables."""
    return [code.replace(r"\|", "|") for code in IN_LINE.findall(FENCE.sub("", text_of(page)))]
