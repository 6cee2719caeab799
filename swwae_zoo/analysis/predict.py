"""Predictions for image files, few or millions: decoded in threads while the net works, never all in memory."""

from __future__ import annotations

import csv
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from swwae_zoo.analysis.load import Prediction, Trained
from swwae_zoo.data.load import BAD_IMAGES
from swwae_zoo.data.readers.pictures import SUFFIXES
from swwae_zoo.data.readers.tree import Tree
from swwae_zoo.utils.files import atomic_write, output_path, user_path
from swwae_zoo.utils.text import printable

__all__ = ["FilePrediction", "ImageFiles", "predict_files", "write_csv"]

LONG = 10_000  # characters of a name in a table's cell: nothing is left out
FORMULA = ("=", "+", "-", "@", "\t", "\r")  # with these a spreadsheet takes a cell for a formula


class FilePrediction(NamedTuple):
    """The likeliest classes of one file, likeliest first."""

    file: Path
    predictions: list[Prediction]


class ImageFiles:
    """The image files that a user named: files as they are, folders with all images below them.

    Folders are walked one after the other, so that a million files take no memory; links, hidden folders, run
    directories and files of other kinds are treated as in `Tree`. Held-out images are images like any other here.

    Args:
        given: paths of files and folders.

    Raises:
        ValueError: one of them is not there; one line.
    """

    def __init__(self, given: Sequence[str | os.PathLike[str]]):
        self.paths = [user_path(path) for path in given]
        self._trees: list[tuple[Path, Tree]] = []
        if not self.paths:
            raise ValueError("got no images: name files or folders")
        for path in self.paths:
            if not path.exists():
                raise ValueError(f"{printable(path)}: no such file or folder")
            if not (path.is_dir() or path.is_file()):
                raise ValueError(f"{printable(path)} is no regular file: expected an image, or a folder of images")

    def __iter__(self) -> Iterator[Path]:
        """Raises ValueError where there is no image at all."""
        found = False
        for path in self.paths:
            if not path.is_dir():
                found = True
                yield path
                continue
            tree = Tree(path, SUFFIXES, by_folder=False)
            self._trees.append((path, tree))
            for _, file in tree.each([path]):
                found = True
                yield file
        if not found:
            raise ValueError(
                f"no images in {', '.join(printable(path) for path in self.paths)}; expected .png, .jpg, .webp or "
                "others that Pillow reads"
            )

    def notes(self) -> list[str]:
        """What was left out, or looks odd, a line each; complete once all files were gone through."""
        return [
            note
            for path, tree in self._trees
            for name in [printable(path)]
            for note in tree.warnings(name) + tree.notes(name)
        ]


def predict_files(
    trained: Trained,
    files: Iterable[Path],
    *,
    top: int = 3,
    batch_size: int = 64,
    amp: str | None = None,
    bad_images: str = "refuse",
    skipped: Callable[[str], None] = lambda line: None,
) -> Iterator[FilePrediction]:
    """Predictions for files, in their order, as soon as each batch is done.

    Args:
        trained: from `load`.
        files: any number of them; a generator is read only so far ahead that the threads have work.
        top: classes for each.
        batch_size: images that go through the net at once.
        amp: mixed precision, as in training by default.
        bad_images: "refuse" ends with an error at the first file that can't be read, "skip" leaves it out.
        skipped: told the name of each that is left out, and why.

    Raises:
        ValueError: a file that can't be read, or a model without a (trained) classifier; one line.
    """
    trained.check_classifier()
    if bad_images not in BAD_IMAGES:
        raise ValueError(f"bad_images: got {bad_images!r}, expected one of {', '.join(BAD_IMAGES)}")
    if batch_size < 1:
        raise ValueError(f"batch_size: got {batch_size}, expected at least 1")
    batch: list[tuple[Path, Tensor]] = []

    def done() -> Iterator[FilePrediction]:
        found = trained.predictions([pixels for _, pixels in batch], top, amp)
        yield from (FilePrediction(file, each) for (file, _), each in zip(batch, found, strict=True))
        batch.clear()

    for file, pixels in _decoded(trained, files, 2 * batch_size):
        if isinstance(pixels, str):
            if bad_images == "refuse":
                raise ValueError(f"{pixels}: repair or remove it, or leave it out with --bad-images skip")
            skipped(pixels)
            continue
        batch.append((file, pixels))
        if len(batch) == batch_size:
            yield from done()
    if batch:
        yield from done()


def _decoded(trained: Trained, files: Iterable[Path], ahead: int) -> Iterator[tuple[Path, Tensor | str]]:
    """Each file's pixels, or what is wrong with it, up to ``ahead`` of them decoded in advance."""

    def read(file: Path) -> Tensor | str:
        try:
            return next(trained.transform.pixels(file))
        except ValueError as error:
            return str(error)

    coming: deque[tuple[Path, Future[Tensor | str]]] = deque()
    pool = ThreadPoolExecutor(min(8, os.cpu_count() or 1))
    try:
        for file in files:
            coming.append((file, pool.submit(read, file)))
            if len(coming) >= ahead:
                first, future = coming.popleft()
                yield first, future.result()
        while coming:
            first, future = coming.popleft()
            yield first, future.result()
    finally:
        pool.shutdown(cancel_futures=True)


@contextmanager
def write_csv(path: str | Path, top: int, inputs: Iterable[Path] = ()) -> Iterator[Callable[[FilePrediction], None]]:
    """Writes a table of predictions row by row; the file is there once the block ends well.

    Control characters of names are escaped, and a cell that a spreadsheet would take for a formula gets an apostrophe
    in front.

    Args:
        path: CSV, UTF-8, with the columns file, class, probability, class_2, probability_2, ...
        top: classes in a row.
        inputs: files that it may not replace.

    Raises:
        ValueError: its folder is not there, or something else than a table is.
        OSError: it can't be written.
    """
    path = output_path(path, (".csv", ".tsv", ".txt"), inputs)
    header = ["file", "class", "probability"]
    header += [f"{name}_{place}" for place in range(2, top + 1) for name in ("class", "probability")]
    with atomic_write(path) as part, open(part, "w", encoding="utf-8", newline="") as file:
        table = csv.writer(file)
        table.writerow(header)

        def write(row: FilePrediction) -> None:
            cells = [_cell(row.file)]
            for name, probability in row.predictions:
                cells += [_cell(name), f"{probability:.6f}"]
            table.writerow(cells)

        yield write


def _cell(text: object) -> str:
    shown = printable(text, LONG)
    return f"'{shown}" if shown.startswith(FORMULA) else shown
