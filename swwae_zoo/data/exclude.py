"""A list of images to leave out, from a file."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from swwae_zoo.utils.files import user_path
from swwae_zoo.utils.text import printable

_NUMBER = re.compile(r"[+-]?[0-9]{1,18}")
_SPEC = re.compile(r"([01])-based:(.+)", re.DOTALL)


def read_exclusions(spec: str, total: int) -> np.ndarray:
    """Positions `(K,)` int64 from 0, ascending, each once.

    Args:
        spec: "1-based:FILE" or "0-based:FILE", for nobody can tell from the numbers. FILE is text, one number a line
            (empty lines and what follows a # are passed over), or .npy with whole numbers of one dimension.
        total: images there are; every number has to be one of them.

    Raises:
        ValueError: another spec, an unreadable file, a number that is none or out of range (with its line).
    """
    match = _SPEC.fullmatch(spec)
    if match is None:
        raise ValueError(f"exclude: got {spec!r}, expected 1-based:FILE (its first image is 1) or 0-based:FILE (0)")
    base, path = int(match[1]), user_path(match[2])
    if not path.is_file():
        raise ValueError(f"exclude: {printable(path)} is not a file; expected one number a line, or a .npy of them")
    name = printable(path)
    numbers, lines = _from_npy(path) if path.suffix == ".npy" else _from_text(path)
    wrong = (numbers < base) | (numbers >= total + base)
    if wrong.any():
        at = int(wrong.argmax())
        where = f"entry {at}" if lines is None else f"line {lines[at]}"
        raise ValueError(
            f"exclude: {name}, {where}: got {numbers[at]}, expected {base} to {total + base - 1}, {base}-based"
        )
    return np.unique(numbers).astype(np.int64) - base


def _from_npy(path: Path) -> tuple[np.ndarray, None]:
    try:
        numbers = np.load(path, allow_pickle=False, mmap_mode="r")  # its header may claim more than there is
    except Exception as error:  # NumPy's parser of headers raises whatever it stumbles on, tokenize's errors among it
        raise ValueError(f"exclude: {printable(path)} is no NumPy array ({printable(error, 200)})") from error
    if not isinstance(numbers, np.ndarray) or numbers.ndim != 1 or not np.issubdtype(numbers.dtype, np.integer):
        raise ValueError(f"exclude: {printable(path)} is no array of whole numbers, (K,)")
    return numbers, None


def _from_text(path: Path) -> tuple[np.ndarray, np.ndarray]:
    numbers, lines = [], []
    with path.open(encoding="utf-8", errors="replace") as file:
        for line, text in enumerate(file, 1):
            entry = text.partition("#")[0].strip()
            if not entry:
                continue
            if not _NUMBER.fullmatch(entry):
                raise ValueError(
                    f"exclude: {printable(path)}, line {line}: got {entry[:40]!r}, expected a whole number"
                )
            numbers.append(int(entry))
            lines.append(line)
    return np.array(numbers, np.int64), np.array(lines, np.int64)
