"""Images in Parquet, as Hugging Face data sets keep them: `parquet:PATH`."""

from __future__ import annotations

from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch

from swwae_zoo.data.readers.folders import read_image
from swwae_zoo.data.readers.shelf import Shelf
from swwae_zoo.data.store import ImageStore
from swwae_zoo.data.types import ImageSet, NoSuchSplit, Request

IMAGES, LABELS = ("image", "img", "images", "x"), ("label", "labels", "fine_label", "class", "y")
_ROWS = 1024


def parquet(request: Request) -> ImageSet | ImageStore:
    """A file, or every .parquet below a folder; those whose name says test or validation are the test images.

    The image column is a struct with `bytes`, or bytes, of an encoded image (as Hugging Face's `Image` feature keeps
    them), or lists of the pixels, (H, W) or (H, W, C). Labels are whole numbers from 0; the unlabelled split needs none.

    Raises:
        ValueError: no pyarrow, no such file, no image column, an unreadable image, unequal sizes.
        NoSuchSplit: no test files.
    """
    files = _files(request)
    shelf = Shelf(request, files)
    store = shelf.found()
    if store is not None:
        return store
    try:
        labels = _fill(files, request, shelf)
    except BaseException:
        shelf.drop()
        raise
    if not shelf.count:
        raise ValueError(f"{request.spec} holds no images")
    images = shelf.close()
    if request.split == "unlabeled" or not labels:
        return images
    if len(labels) != images.count or not all(isinstance(label, int) and label >= 0 for label in labels):
        raise ValueError(f"{request.spec}: labels are missing or no whole numbers from 0; expected one for each image")
    return images._replace(labels=torch.tensor(labels), class_names=tuple(map(str, range(max(labels) + 1))))


def _fill(files: list[Path], request: Request, shelf: Shelf) -> list[Any]:
    """Puts every image on the shelf -> the labels, as far as there are any."""
    labels: list[Any] = []
    expected = sum(_opened(file).metadata.num_rows for file in files)
    for name, rows in _tables(files):
        image_key, label_key = _column(rows, IMAGES), _column(rows, LABELS)
        if image_key is None:
            raise ValueError(f"{name} has no image column; expected one called {' or '.join(IMAGES)}")
        for cell in rows[image_key].to_pylist():
            image = _decoded(cell, request)
            if isinstance(image, str):
                raise ValueError(f"{name}: image {shelf.count} cannot be read ({image})")
            if shelf.count and image.shape != shelf.shape:
                raise ValueError(
                    f"{name} has images of {image.shape[1]}x{image.shape[2]} and {shelf.shape[1]}x{shelf.shape[2]}; "
                    "expected one size: write them at one"
                )
            shelf.add(image, expected)
        if label_key is not None and request.split != "unlabeled":
            labels += rows[label_key].to_pylist()
    return labels


def _files(request: Request) -> list[Path]:
    path = Path(request.option).expanduser()
    if not request.option or not path.exists():
        raise ValueError(
            f"got {request.spec!r}, but there is no {request.option!r}; expected parquet:PATH, a file or a folder"
        )
    if path.is_file():
        if request.split == "test":
            raise NoSuchSplit(f"{path} is one file, without test images")
        return [path]
    every = sorted(path.rglob("*.parquet"))
    held_out = [file for file in every if any(word in file.name.lower() for word in ("test", "valid"))]
    files = held_out if request.split == "test" else [file for file in every if file not in held_out]
    if not files:
        if request.split == "test":
            raise NoSuchSplit(f"{path} has no test-*.parquet")
        raise ValueError(f"no .parquet in {path} but test files; expected train-*.parquet")
    return files


def _tables(files: list[Path]) -> Iterator[tuple[Path, Any]]:
    for file in files:
        opened = _opened(file)
        wanted = [name for name in opened.schema_arrow.names if name in IMAGES + LABELS]
        try:
            for rows in opened.iter_batches(_ROWS, columns=wanted):
                yield file, rows
        except OSError as error:  # pyarrow's own errors are OSErrors or ValueErrors
            raise _unreadable(file, error) from error
        finally:
            opened.close()


def _opened(file: Path) -> Any:
    try:
        from pyarrow import parquet as pq
    except ImportError:
        raise ValueError("parquet: needs pyarrow: pip install 'swwae_zoo[parquet]'") from None
    try:
        return pq.ParquetFile(file)
    except (OSError, ValueError) as error:
        raise _unreadable(file, error) from error


def _unreadable(file: Path, error: Exception) -> ValueError:
    return ValueError(f"{file} cannot be read as Parquet ({' '.join(str(error).split()):.200}); copy it again")


def _column(rows: Any, names: tuple[str, ...]) -> str | None:
    return next((name for name in names if name in rows.schema.names), None)


def _decoded(cell: Any, request: Request) -> np.ndarray | str:
    """`(C, H, W)` uint8, or what is wrong with it."""
    mode = "L" if request.in_chans == 1 else "RGB"
    if isinstance(cell, dict):
        cell = cell.get("bytes") or "an image kept outside the file, of which there is only the path"
    if isinstance(cell, str):
        return cell
    if isinstance(cell, bytes):
        return read_image(BytesIO(cell), mode, request.img_size)
    array = np.asarray(cell)
    if array.dtype == object or array.ndim not in (2, 3) or array.min() < 0 or array.max() > 255:
        return f"got {type(cell).__name__}, expected an encoded image or pixels of 0 to 255"
    array = array.astype(np.uint8)
    return array[None] if array.ndim == 2 else np.ascontiguousarray(array.transpose(2, 0, 1))
