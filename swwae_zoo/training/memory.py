"""Images given from Python, put into an archive: so a run of them can be resumed, run again and reported on."""

from __future__ import annotations

import hashlib
import os
import statistics
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from swwae_zoo.data.load import data_folder
from swwae_zoo.data.readers.pictures import open_picture, pixels_of
from swwae_zoo.utils.files import atomic_write
from swwae_zoo.utils.text import printable

__all__ = ["archived"]

LARGEST = 224  # of the shorter side, where images of several sizes are brought to one
EXPECTED = (
    "a spec such as folder:PATH, (images, labels) as tensors, a torch Dataset of (image, label), or a datasets.Dataset"
)
SPLITS = {"train": "train", "val": "val", "validation": "val", "test": "test"}


def archived(
    data: Any, what: str, img_size: tuple[int, int] | None = None, data_dir: str | os.PathLike[str] | None = None
) -> str:
    """The spec of what is given: text as it is, anything else is written once to `data_dir/python` as an .npz file.

    Args:
        data: a spec; `(images, labels)` or, without labels, images: uint8 (N, C, H, W), C 1 or 3; a sequence (such as
            a torch Dataset) of images or of (image, label), the image a PIL image or a tensor (C, H, W), uint8 or
            floats from 0 to 1; a Hugging Face `datasets.Dataset`; or a dict of these under "train", "val", "test".
        what: "data", which needs labels, or "unlabeled".
        img_size: (H, W) to which images of several sizes are scaled and cropped; by default the middle one of their
            shorter sides, at most 224.

    Raises:
        ValueError: something else, images that are none, or labels that are no whole numbers from 0.
    """
    if isinstance(data, (str, os.PathLike)):
        return os.fspath(data)
    parts = dict(data) if isinstance(data, Mapping) else {"train": data}
    unknown = [name for name in parts if name not in SPLITS]
    if unknown or "train" not in parts:
        raise ValueError(f"{what}: got parts {', '.join(map(str, parts))}; expected train, and val or test beside it")
    arrays: dict[str, np.ndarray] = {}
    for name, part in parts.items():
        images, labels, names = _read(part, f"{what}[{name}]" if len(parts) > 1 else what, img_size)
        arrays[f"x_{SPLITS[name]}"] = images
        img_size = (images.shape[2], images.shape[3])
        if what == "data" and labels is None:
            raise ValueError(f"{what}: got images without labels; give them as unlabeled")
        if what == "data" and labels is not None:
            arrays[f"y_{SPLITS[name]}"] = labels
            if names:
                arrays["class_names"] = np.array(names)
    digest = hashlib.blake2b(digest_size=12)
    for name, array in sorted(arrays.items()):
        digest.update(f"{name} {array.dtype} {array.shape}".encode())
        digest.update(np.ascontiguousarray(array).data)
    path = data_folder(data_dir) / "python" / f"{digest.hexdigest()}.npz"
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(path) as part, open(part, "wb") as file:
            np.savez(file, **arrays)  # pyright: ignore[reportArgumentType]
    return f"npz:{path}"


Part = tuple[np.ndarray, np.ndarray | None, tuple[str, ...]]


def _read(part: Any, what: str, img_size: tuple[int, int] | None) -> Part:
    """Images (N, C, H, W) uint8, labels (N,) int64 or None, and names of the classes or none."""
    if isinstance(part, Tensor) or (isinstance(part, (tuple, list)) and len(part) == 2 and isinstance(part[0], Tensor)):
        images, labels = (part, None) if isinstance(part, Tensor) else part
        if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] not in (1, 3) or not len(images):
            raise ValueError(
                f"{what}: got {images.dtype} images of shape {tuple(images.shape)}, expected torch.uint8 "
                "(N, C, H, W), C 1 or 3"
            )
        return images.cpu().numpy(), None if labels is None else _labels(labels, len(images), what), ()
    if not hasattr(part, "__getitem__") or not hasattr(part, "__len__"):
        raise ValueError(f"{what}: got a {type(part).__name__}, expected {EXPECTED}")
    if not len(part):
        raise ValueError(f"{what}: got no images, expected at least one")
    image_key, label_key, names = _columns(part, what)
    pictures, labels = [], []
    for position in range(len(part)):
        item = part[position]
        if image_key is not None:
            image, label = item[image_key], None if label_key is None else item[label_key]
        else:
            image, label = (
                (item[0], item[1] if len(item) > 1 else None) if isinstance(item, (tuple, list)) else (item, None)
            )
        pictures.append(_picture(image, f"{what}: image {position}"))
        labels.append(label)
    size = img_size or _size([picture.size[::-1] for picture in pictures])
    colour = any(picture.mode == "RGB" for picture in pictures)
    pixels = [pixels_of(picture.convert("RGB") if colour else picture, size) for picture in pictures]
    given = None if any(label is None for label in labels) else _labels(labels, len(pixels), what)
    return np.stack(pixels), given, names or tuple(map(str, getattr(part, "classes", ())))


def _columns(part: Any, what: str) -> tuple[str | None, str | None, tuple[str, ...]]:
    """Names of image and label columns, and of the classes, of a `datasets.Dataset`; None of anything else."""
    features = getattr(part, "features", None)
    if not isinstance(features, Mapping):
        return None, None, ()
    images = [name for name, kind in features.items() if type(kind).__name__ == "Image"]
    labels = [name for name, kind in features.items() if type(kind).__name__ == "ClassLabel"]
    if not images:
        raise ValueError(f"{what}: no column of {', '.join(map(printable, features))} holds images (datasets.Image)")
    label = labels[0] if labels else "label" if "label" in features else None
    return images[0], label, tuple(features[labels[0]].names) if labels else ()


def _picture(image: Any, what: str) -> Image.Image:
    if isinstance(image, Tensor):
        if image.ndim != 3 or image.shape[0] not in (1, 3):
            raise ValueError(f"{what} is a tensor of shape {tuple(image.shape)}, expected (C, H, W), C 1 or 3")
        if image.is_floating_point():
            if not (float(image.min()) >= 0 and float(image.max()) <= 1):
                raise ValueError(
                    f"{what} has values from {float(image.min()):g} to {float(image.max()):g}, expected floats from "
                    "0 to 1 or uint8: leave Normalize out, training does it"
                )
            image = (image * 255).round().to(torch.uint8)
        array = image.to(torch.uint8).cpu().numpy()
        return Image.fromarray(array[0] if len(array) == 1 else np.ascontiguousarray(array.transpose(1, 2, 0)))
    if not isinstance(image, Image.Image):
        raise ValueError(f"{what} is a {type(image).__name__}, expected a PIL image or a tensor (C, H, W)")
    try:
        return open_picture(image, grey=image.mode == "L")[0]
    except ValueError as error:
        raise ValueError(f"{what}: {error}") from error


def _size(sizes: list[tuple[int, int]]) -> tuple[int, int]:
    if len(set(sizes)) == 1:
        return sizes[0]
    side = min(LARGEST, int(statistics.median(min(size) for size in sizes)))
    return side, side


def _labels(labels: Any, count: int, what: str) -> np.ndarray:
    try:
        array = np.asarray(labels.cpu() if isinstance(labels, Tensor) else labels)
    except (TypeError, ValueError):
        array = np.empty(0)
    if array.shape != (count,) or array.dtype.kind not in "iu" or int(array.min()) < 0:
        raise ValueError(f"{what}: got labels of {array.dtype} {array.shape}, expected {count} whole numbers from 0")
    return array.astype(np.int64)
