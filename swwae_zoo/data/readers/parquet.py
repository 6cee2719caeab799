"""Images in Parquet, as Hugging Face data sets keep them: `parquet:PATH`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from swwae_zoo.data.bounds import checked_labels, checked_pixels
from swwae_zoo.data.readers.pictures import Picture, check_range, read_picture
from swwae_zoo.data.readers.shelf import Shelf
from swwae_zoo.data.readers.tree import Tree
from swwae_zoo.data.split_names import split_of_file
from swwae_zoo.data.types import Images, NoSuchSplit, Request
from swwae_zoo.utils.files import user_path
from swwae_zoo.utils.text import printable

IMAGES, LABELS = ("image", "img", "images", "x"), ("label", "labels", "fine_label", "class", "y")
_ROWS = 256


def parquet(request: Request) -> Images:
    """A file, or every .parquet below a folder, those of each split by the words of `split_names.py` in their paths.

    The image column is a struct with `bytes`, or bytes, of an encoded image (as Hugging Face's `Image` feature keeps
    them), or lists of the pixels, (H, W), (H, W, C) or (C, H, W). Labels are whole numbers from 0; the unlabelled split
    needs none. Classes are called as the file's Hugging Face features say.

    Raises:
        ValueError: no pyarrow, no such file, no image column, an unreadable image, unequal sizes.
        NoSuchSplit: no test or validation files.
    """
    files, notes = _files(request)
    with Shelf(request, files) as shelf:
        images = shelf.found()
        if images is None:
            labels, names = _fill(files, request, shelf)
            if not shelf.count:
                raise ValueError(f"{request.spec} holds no images")
            images = shelf.close(labels, names)
    images.notes = notes
    return images


def _fill(files: list[Path], request: Request, shelf: Shelf) -> tuple[Tensor | None, tuple[str, ...]]:
    """Puts every image on the shelf -> the labels and class names, as far as there are any."""
    cells: list[Any] = []
    names: tuple[str, ...] = ()
    used = 0.0
    expected = 0
    for file in files:
        with _opened(file) as table:
            expected += table.metadata.num_rows
    for file in files:
        with _opened(file) as table:
            image_key, label_key = _columns(table.schema_arrow, request)
            names = names or _class_names(table.schema_arrow, label_key)
            for rows in table.iter_batches(_ROWS, columns=[key for key in (image_key, label_key) if key]):
                for cell in rows.column(rows.schema.names.index(image_key)).to_pylist():
                    picture = decoded(f"image {shelf.count}", cell, request)
                    if shelf.count and picture.pixels.shape != shelf.shape:
                        _, height, width = picture.pixels.shape
                        raise ValueError(
                            f"images of {height}x{width} and {shelf.shape[1]}x{shelf.shape[2]}; expected one size: "
                            "write them at one, or pass img_size"
                        )
                    used = max(used, picture.used)
                    shelf.add(picture.pixels, expected)
                if label_key:
                    cells += rows.column(rows.schema.names.index(label_key)).to_pylist()
    if shelf.count:
        check_range(used, request.spec)
    if not cells:
        return None, ()
    if len(cells) != shelf.count or None in cells:
        raise ValueError(f"{request.spec}: labels are missing; expected one for each image")
    labels = checked_labels(f"{request.spec}: the labels", _whole_numbers(cells))
    highest = int(labels.max())
    return labels, names if highest < len(names) else tuple(map(str, range(highest + 1)))


def _whole_numbers(cells: list[int]) -> np.ndarray:
    return np.array(cells, np.uint64 if max(cells) >= 2**63 else np.int64)


def _files(request: Request) -> tuple[list[Path], tuple[str, ...]]:
    path = user_path(request.option)
    if not request.option or not path.exists():
        raise ValueError(
            f"got {request.spec!r}, but there is no {request.option!r}; expected parquet:PATH, a file or a folder"
        )
    if path.is_file():
        if request.split in ("test", "val"):
            raise NoSuchSplit(f"{path} is one file, without {request.split} images")
        return [path], ()
    if not path.is_dir():
        raise ValueError(f"{path} is no regular file and no folder; expected parquet:PATH, a file or a folder")
    tree = Tree(path, {".parquet"}, by_folder=False)
    (every,) = tree.files([path])
    splits = {file: split_of_file(file.relative_to(path)) for file in every}
    wanted = {"test": ("test",), "val": ("val",), "train": ("train", None), "unlabeled": ("train", "unlabeled", None)}
    if request.split == "test" and "test" not in splits.values():
        wanted["test"] = ("val",)
    if request.split == "val" and "test" not in splits.values():
        wanted["val"] = ()
    files = [file for file, split in splits.items() if split in wanted[request.split]]
    if not files:
        if request.split in ("test", "val"):
            raise NoSuchSplit(f"{path} has no {request.split}-*.parquet")
        raise ValueError(f"no .parquet in {path} but test files; expected train-*.parquet")
    return files, tuple(tree.warnings(request.spec))


@contextmanager
def _opened(file: Path) -> Iterator[Any]:
    """The file opened by pyarrow; what is wrong with it, found whenever, in one line with its name."""
    try:
        import pyarrow
        from pyarrow import parquet as pq
    except ImportError:
        raise ValueError("parquet: needs pyarrow: pip install 'swwae_zoo[parquet]'") from None
    refusals = (OSError, ValueError, LookupError, TypeError, ArithmeticError, MemoryError, pyarrow.ArrowException)
    try:
        with pq.ParquetFile(file) as table:
            yield table
    except refusals as error:
        why = printable(" ".join(str(error).split()) or type(error).__name__)
        if isinstance(error, ValueError) and not isinstance(error, pyarrow.ArrowException):  # our own
            raise ValueError(f"{file}: {why}") from error
        raise ValueError(f"{file} cannot be read as Parquet ({why}); copy it again") from error


def _columns(schema: Any, request: Request) -> tuple[str, str | None]:
    """The columns of images and of labels, after a look at their types."""
    import pyarrow.types as of

    def find(names: tuple[str, ...]) -> str | None:
        key = next((name for name in names if name in schema.names), None)
        if key is not None and schema.names.count(key) > 1:
            raise ValueError(f"it holds the column {key!r} {schema.names.count(key)} times; expected one")
        return key

    image_key, label_key = find(IMAGES), find(LABELS) if request.split != "unlabeled" else None
    if image_key is None:
        raise ValueError(f"no image column; expected one called {' or '.join(IMAGES)}")
    kind = schema.field(image_key).type
    encoded = next((field.type for field in kind if field.name == "bytes"), kind) if of.is_struct(kind) else kind
    pixels = kind
    while of.is_list(pixels) or of.is_large_list(pixels) or of.is_fixed_size_list(pixels):
        pixels = pixels.value_type
    is_pixels = pixels is not kind and (of.is_integer(pixels) or of.is_floating(pixels))
    if not (is_pixels or of.is_binary(encoded) or of.is_large_binary(encoded)):
        raise ValueError(
            f"column {image_key!r} is {printable(kind, 80)}; expected encoded images as bytes, or lists of pixels"
        )
    if label_key is not None and not of.is_integer(schema.field(label_key).type):
        raise ValueError(
            f"column {label_key!r} is {printable(schema.field(label_key).type, 80)}; expected whole numbers from 0"
        )
    return image_key, label_key


def _class_names(schema: Any, label_key: str | None) -> tuple[str, ...]:
    """As Hugging Face's features in the file's metadata name them, else none."""
    try:
        names = json.loads(schema.metadata[b"huggingface"])["info"]["features"][label_key]["names"]
    except (TypeError, KeyError, ValueError, RecursionError):
        return ()
    return tuple(names) if isinstance(names, list) and all(isinstance(name, str) for name in names) else ()


def decoded(what: str, cell: Any, request: Request) -> Picture:
    """An image as a table keeps it: a struct with `bytes`, bytes, or lists of pixels.

    Raises:
        ValueError: what is wrong with it; `what` is its name.
    """
    if isinstance(cell, dict):
        cell = cell.get("bytes")
    if cell is None:
        raise ValueError(f"{what} cannot be read (there is no image in the file, at most a path to one)")
    if isinstance(cell, bytes):
        try:
            return read_picture(BytesIO(cell), request.in_chans == 1, request.img_size)
        except ValueError as error:
            raise ValueError(f"{what} cannot be read ({error})") from error
    array = checked_pixels(what, cell)
    if array.ndim == 2:
        return Picture(array[None])
    if array.ndim != 3 or not {array.shape[0], array.shape[2]} & {1, 3}:
        raise ValueError(f"{what} has shape {array.shape}; expected (H, W), (H, W, C) or (C, H, W), C 1 or 3")
    return Picture(np.ascontiguousarray(array.transpose(2, 0, 1)) if array.shape[2] in (1, 3) else array)
