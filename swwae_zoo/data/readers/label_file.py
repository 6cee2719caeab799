"""Labels of a folder's images from a table beside them, `labels.csv`, in place of class folders."""

from __future__ import annotations

import csv
import os
from pathlib import Path
from typing import NamedTuple

from swwae_zoo.data.split_names import split_of_folder
from swwae_zoo.utils.text import printable

NAME = "labels.csv"


class Row(NamedTuple):
    """One image. split: "train" where the table does not say."""

    file: Path
    label: str
    split: str


def read_labels(folder: Path, classes: bool = False) -> list[Row] | None:
    """The rows of `folder/labels.csv`, sorted by file; None where there is no such table.

    Its first line names the columns: `file` (relative to the folder), `label`, and perhaps `split`.

    Args:
        classes: there are class folders as well, so a table of other columns is about something else.

    Raises:
        ValueError: no such columns, an empty or second label of an image, a file outside the folder, a split that
            has no known name; with the line.
    """
    path = folder / NAME
    if not path.is_file():
        return None
    rows: dict[str, Row] = {}
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            columns = {(name or "").strip().lower(): name for name in reader.fieldnames or ()}
            if not {"file", "label"} <= columns.keys():
                if classes:
                    return None
                raise ValueError(f"its first line names {', '.join(columns) or 'nothing'}; expected file,label")
            for cells in reader:
                texts = {key: (cells.get(name) or "").strip() for key, name in columns.items()}
                row = _row(folder, texts, reader.line_num)
                key = os.path.normpath(row.file)
                if rows.setdefault(key, row) != row:
                    raise ValueError(
                        f"line {reader.line_num}: {texts['file']} is there twice, with another label or split"
                    )
    except (OSError, ValueError, csv.Error) as error:
        raise ValueError(f"{path}: {printable(error, 600)}") from error
    return sorted(rows.values(), key=lambda row: row.file.parts)


def _row(folder: Path, texts: dict[str, str], line: int) -> Row:
    for column in ("file", "label"):
        if not texts[column]:
            raise ValueError(f"line {line}: no {column}; expected one for each image")
    split = split_of_folder(texts["split"]) if texts.get("split") else "train"
    if split not in ("train", "val", "test"):
        raise ValueError(f"line {line}: got the split {texts['split']!r}, expected train, val or test")
    file = folder / texts["file"]
    if "\0" in texts["file"] or not Path(os.path.normpath(file)).is_relative_to(os.path.normpath(folder)):
        raise ValueError(f"line {line}: {texts['file']!r} is not inside {folder}; expected a path relative to it")
    return Row(file, texts["label"], split)


def classes_of(rows: list[Row]) -> tuple[str, ...]:
    """Labels in the order of their numbers: as whole numbers where all of them are, else as text."""
    names = {row.label for row in rows}
    return tuple(sorted(names, key=int if all(name.isdecimal() and len(name) < 19 for name in names) else str))
