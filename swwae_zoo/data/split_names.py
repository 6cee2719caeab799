"""By which names of files and folders their images belong to a split: one list for every reader."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path

WORDS = {
    "test": ("test", "testing", "eval", "evaluation"),
    "val": ("val", "valid", "validation", "dev"),
    "unlabeled": ("unlabeled", "unlabelled", "unsupervised"),
    "train": ("train", "training"),
}
_ANYWHERE = {
    split: re.compile(rf"(?<![a-z])(?:{'|'.join(words)})(?![a-z])", re.IGNORECASE) for split, words in WORDS.items()
}
_WHOLE = {split: re.compile(rf"(?:{'|'.join(words)})[\W\d_]*", re.IGNORECASE) for split, words in WORDS.items()}


def split_of_file(path: Path) -> str | None:
    """The split that any part of a relative path names, test before val before train; None where none does.

    `default/test/0000.parquet` is "test", `val-0.parquet` "val", `latest-0.parquet` None.
    """
    return next((split for split, word in _ANYWHERE.items() if any(word.search(part) for part in path.parts)), None)


def split_of_folder(name: str) -> str | None:
    """The split that a folder is called by, all of its name but digits and punctuation: `Testing`, `val2017`."""
    return next((split for split, word in _WHOLE.items() if word.fullmatch(name)), None)


def split_folders(folders: Iterable[Path]) -> dict[str, Path]:
    """Those of the folders beside each other that hold splits, by split; a class may be called "test" as well.

    A folder called by a split is one where it holds folders itself, or where a folder of training images and one of
    held-out ones lie beside each other, or where it is the only one.

    Raises:
        ValueError: two folders of one split.
    """
    folders = list(folders)
    named = [
        (split, folder) for folder in folders if (split := split_of_folder(folder.name)) not in (None, "unlabeled")
    ]
    beside = len({split == "train" for split, _ in named}) == 2
    found: dict[str, Path] = {}
    for split, folder in named:
        if not (beside or (split == "train" and len(folders) == 1) or holds_folders(folder)):
            continue
        if split in found:
            raise ValueError(
                f"{found[split]} and {folder} are both {split} images by their names; expected one of them"
            )
        found[split] = folder
    return found


def holds_folders(folder: Path) -> bool:
    with os.scandir(folder) as entries:
        return any(entry.is_dir() and not entry.name.startswith(".") for entry in entries)
