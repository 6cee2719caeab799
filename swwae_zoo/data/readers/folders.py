"""One's own image files: `folder:PATH`."""

from __future__ import annotations

import logging
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import torch

from swwae_zoo.data.readers.label_file import NAME, Row, classes_of, read_labels
from swwae_zoo.data.readers.pictures import SUFFIXES, Picture, check_range, read_picture, refuse_or_skip, size_of
from swwae_zoo.data.readers.shelf import Shelf
from swwae_zoo.data.readers.tree import Tree, common_folders, folders_in
from swwae_zoo.data.split_names import split_folders
from swwae_zoo.data.types import Images, NoSuchSplit, Request
from swwae_zoo.utils.files import user_path
from swwae_zoo.utils.text import printable

logger = logging.getLogger(__name__)

_BLOCK = 4096  # files decoded before the next are begun


class Layout(NamedTuple):
    """Class folders of each split of a folder."""

    root: Path
    train: Path  # the classes lie in it
    held_out: dict[str, Path]  # "val" and "test" folders

    def classes(self, split: str) -> list[Path]:
        """Folders of a split's classes, sorted; without a test folder the validation images are the test images.

        Raises:
            NoSuchSplit: none of them.
            ValueError: no training classes, or splits that look like classes.
        """
        if split == "train":
            found = [path for path in folders_in(self.train) if path not in self.held_out.values()]
            if not found:
                raise ValueError(
                    f"no class folders in {self.train}; expected {self.train}/CLASS/IMAGE "
                    f"(images without labels go to --unlabeled folder:{self.root})"
                )
            self._check_classes(found)
            return found
        if split == "test":
            folder = self.held_out.get("test", self.held_out.get("val"))
        else:
            folder = self.held_out.get("val") if "test" in self.held_out else None
        found = [] if folder is None else folders_in(folder)
        if not found:
            beside = " (which a folder `test` beside it makes the validation images)" if split == "val" else ""
            raise NoSuchSplit(
                f"{self.root} has no {'validation' if split == 'val' else 'test'} images; expected class folders in "
                f"{self.root}/test or {self.root}/val{beside}"
            )
        strange = sorted({path.name for path in found} - {path.name for path in self.classes("train")})
        if strange:
            names = ", ".join(path.name for path in self.classes("train"))
            raise ValueError(f"{found[0].parent / strange[0]} is no training class; expected {names}")
        return found

    def _check_classes(self, classes: list[Path]) -> None:
        alike = common_folders(classes)
        if alike is not None:
            first, second, names = alike
            raise ValueError(
                f"{first} and {second} hold folders of the same names ({', '.join(names[:3])}), so they are no "
                f"classes: expected {self.train}/CLASS/IMAGE, or call them {self.root}/train and {self.root}/test"
            )


def folder(request: Request) -> Images:
    """Class folders: training images in PATH/train/CLASS/ or PATH/CLASS/, held-out ones in PATH/test and PATH/val.

    A `labels.csv` in PATH or PATH/train takes the place of class folders (see `read_labels`).
    The names of splits are those of `split_names.py`, in any case. The split "unlabeled" is every image under PATH at
    any depth, less held-out ones (a class may be called "test" as long as its images lie right in it). Hidden files and
    run directories of this program are passed over; links are followed as `Tree` says. Images are read as
    `read_picture` does; without an `img_size` they must all have the same size.

    Raises:
        ValueError: no such folder, no images, an unreadable image (with `bad_images="refuse"`), unequal sizes.
        NoSuchSplit: no test or validation images.
    """
    root = user_path(request.option)
    if not request.option or not root.is_dir():
        raise ValueError(f"got {request.spec!r}, but {request.option!r} is not a folder; expected folder:PATH")
    splits = split_folders(folders_in(root))
    layout = Layout(root, splits.pop("train", root), splits)
    folders = [path for path in folders_in(layout.train) if path not in splits.values()]
    table = read_labels(layout.train, bool(folders))
    if request.split == "unlabeled":
        tree = Tree(root, SUFFIXES, [*splits.values()])
        (files,) = tree.files([root])
        held_out = {os.path.realpath(row.file) for row in table or () if row.split != "train"}
        return _read_all([file for file in files if os.path.realpath(file) not in held_out], tree, request)
    if table is not None:
        return _from_table(table, layout, request)
    classes = layout.classes(request.split)
    tree = Tree(root, SUFFIXES, [*splits.values()] if request.split == "train" else [])
    found = tree.files(classes)
    order = {path.name: label for label, path in enumerate(layout.classes("train"))}
    names = tuple(name.encode("utf-8", "backslashreplace").decode() for name in order)
    labels = [order[path.name] for path, files in zip(classes, found, strict=True) for _ in files]
    images = _read_all([file for files in found for file in files], tree, request, labels, names)
    if request.split == "train" and images.labels is not None:
        empty = (images.labels.bincount(minlength=len(names)) == 0).nonzero()[:, 0]
        if len(empty):
            raise ValueError(f"class folder {classes[int(empty[0])]} holds no readable image; add some, or remove it")
    return images


def stored_sizes(path: str, most: int = 100) -> list[tuple[int, int]]:
    """(height, width) of up to `most` images below a folder, evenly chosen, from their headers alone.

    Raises:
        ValueError: no such folder.
    """
    root = user_path(path)
    if not path or not root.is_dir():
        raise ValueError(f"got 'folder:{path}', but {path!r} is not a folder; expected folder:PATH")
    (files,) = Tree(root, SUFFIXES).files([root])
    sizes = (size_of(file) for file in files[:: max(1, len(files) // most)][:most])
    return [size for size in sizes if size is not None]


def _from_table(table: list[Row], layout: Layout, request: Request) -> Images:
    """Images and labels as `labels.csv` has them: the training folder's own, or that of the split's folder."""
    names = classes_of(table)
    for split, folder in layout.held_out.items():
        table += [row._replace(split=split) for row in read_labels(folder) or ()]
    wanted = request.split
    if all(row.split != "test" for row in table):  # as `Layout.classes`: then validation images are the test images
        wanted = {"test": "val", "val": "none"}.get(wanted, wanted)
    rows = [row for row in table if row.split == wanted]
    if not rows and request.split != "train":
        raise NoSuchSplit(f"{layout.root} has no {request.split} images; its {NAME} names none")
    order = {name: label for label, name in enumerate(names)}
    strange = next((row for row in rows if row.label not in order), None)
    if strange is not None:
        raise ValueError(f"{strange.file} is of class {strange.label!r}, which is no training class")
    tree = Tree(layout.root, SUFFIXES)
    files, labels = [row.file for row in rows], [order[row.label] for row in rows]
    special = [file for file in files if file.exists() and not file.is_file()]
    if special:
        raise ValueError(f"{special[0]} is no regular file; take its line out of {NAME}")
    return _read_all(files, tree, request, labels, names)


def _read_all(
    files: list[Path], tree: Tree, request: Request, labels: list[int] | None = None, class_names: tuple[str, ...] = ()
) -> Images:
    """Decode in threads; `labels`, one a file, are those of the files that can be read in the set that is returned."""
    for line in tree.warnings(request.spec):
        logger.warning("%s", line)
    if not files:
        raise ValueError(
            f"no images for {request.spec} ({request.split}); expected .png, .jpg, .webp or others that Pillow reads"
        )
    with Shelf(request, files) as shelf:
        images = shelf.found()
        if images is None:
            kept, bad = _decode(files, request, shelf)
            refuse_or_skip(bad, len(files), request.spec, request.bad_images == "skip" and bool(kept))
            images = shelf.close(None if labels is None else torch.tensor(labels)[kept], class_names)
    images.notes = tuple(tree.notes(request.spec))
    if labels is not None and images.count == len(files):  # none was left out
        images.files = tuple(os.path.relpath(file, request.option) for file in files)
    return images


def _decode(files: list[Path], request: Request, shelf: Shelf) -> tuple[list[int], list[str]]:
    """Puts every readable file on the shelf -> their positions, and what is wrong with the others."""

    def read(file: Path) -> Picture | str:
        try:
            return read_picture(file, request.in_chans == 1, request.img_size)
        except ValueError as error:
            return str(error)

    first, used, kept, bad = None, [], [], []
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        for start in range(0, len(files), _BLOCK):  # a whole map would decode far ahead of a slow disk
            block = files[start : start + _BLOCK]
            for position, (file, picture) in enumerate(zip(block, pool.map(read, block), strict=True), start):
                if isinstance(picture, str):
                    bad.append(f"{printable(file)} ({picture})")
                    continue
                _, height, width = picture.pixels.shape
                if first is None:
                    first = file
                elif picture.pixels.shape != shelf.shape:
                    raise ValueError(
                        f"{file} is {height}x{width} and {first} {shelf.shape[1]}x{shelf.shape[2]} "
                        f"(height x width); expected one size: pass img_size, and they are scaled and cropped to it"
                    )
                shelf.add(picture.pixels, len(files))
                used.append(picture.used)
                kept.append(position)
    if used:
        check_range(max(used), f"{request.spec} ({request.split})")
    return kept, bad
