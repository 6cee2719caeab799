"""Files damaged by a bit or cut short, and what reads them."""

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any


def damaged(whole: bytes, flips: int = 300, cuts: int = 100) -> list[bytes]:
    """The file with one bit flipped, or its end missing."""
    draw, found = random.Random(0), []
    for _ in range(flips):
        bit = draw.randrange(8 * len(whole))
        found.append(whole[: bit // 8] + bytes([whole[bit // 8] ^ 1 << bit % 8]) + whole[bit // 8 + 1 :])
    return found + [whole[: draw.randrange(len(whole))] for _ in range(cuts)]


def refused(path: Path, read: Callable[[], Any], flips: int = 300, cuts: int = 100) -> int:
    """Damages a file so often; how often that was told. What was read all the same is what was read before."""
    whole, right, told = path.read_bytes(), read(), 0
    for content in damaged(whole, flips, cuts):
        path.write_bytes(content)
        try:
            got = read()
        except ValueError as error:
            told += 1
            assert "\n" not in str(error) and str(error).isprintable()
        else:
            assert got == right, content
    path.write_bytes(whole)
    assert read() == right
    return told
