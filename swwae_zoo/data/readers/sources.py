"""The named data sets: scikit-learn's digits, and what torchvision reads in its published files.

Each loader takes a `Request` and gives an `ImageSet` with the channels the set was published with.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from swwae_zoo.data.readers.download import published
from swwae_zoo.data.seeds import seeded
from swwae_zoo.data.types import ImageSet, Request

DIGITS = tuple("0123456789")
DIGITS_TEST = 500  # of scikit-learn's 1,797, as many of each class


def digits(request: Request) -> ImageSet:
    """scikit-learn's 8x8 digits, 0..16, as 32x32 grey images, 0..255 (bicubic): 1,297 to train, 500 to test."""
    _no_option(request)
    images, labels = _digits()
    in_test = torch.zeros(len(labels), dtype=torch.bool)
    for label in range(10):
        members = (labels == label).nonzero()[:, 0]
        shuffled = members[torch.randperm(len(members), generator=seeded(0, "digits test", label))]
        in_test[shuffled[: DIGITS_TEST // 10]] = True
    whole = ImageSet("digits", images, labels, DIGITS)
    return whole.select((in_test if request.split == "test" else ~in_test).nonzero()[:, 0])


@cache
def _digits() -> tuple[Tensor, Tensor]:
    from sklearn.datasets import load_digits

    pixels, targets = load_digits(return_X_y=True)
    small = torch.from_numpy(pixels).float().view(-1, 1, 8, 8) * (255 / 16)
    images = F.interpolate(small, size=(32, 32), mode="bicubic", align_corners=False)
    return images.round().clamp(0, 255).to(torch.uint8), torch.from_numpy(targets).long()


def mnist(request: Request) -> ImageSet:
    """MNIST, 28x28 grey: 60,000 to train, 10,000 to test."""
    from torchvision.datasets import MNIST

    return _idx_files(request, MNIST)


def fashion_mnist(request: Request) -> ImageSet:
    """Fashion-MNIST, 28x28 grey: 60,000 to train, 10,000 to test."""
    from torchvision.datasets import FashionMNIST

    return _idx_files(request, FashionMNIST)


def cifar10(request: Request) -> ImageSet:
    """CIFAR-10, 32x32 RGB: 50,000 to train, 10,000 to test."""
    from torchvision.datasets import CIFAR10

    return _cifar(request, CIFAR10)


def cifar100(request: Request) -> ImageSet:
    """CIFAR-100 (fine labels), 32x32 RGB: 50,000 to train, 10,000 to test."""
    from torchvision.datasets import CIFAR100

    return _cifar(request, CIFAR100)


def svhn(request: Request) -> ImageSet:
    """SVHN, 32x32 RGB: 73,257 to train (with `svhn:extra` 531,131 more after them), 26,032 to test."""
    from torchvision.datasets import SVHN

    if request.option not in ("", "extra"):
        raise ValueError(f"got {request.spec!r}, expected svhn or svhn:extra")
    parts = ["test"] if request.split == "test" else ["train", "extra"] if request.option else ["train"]

    def read(part: str) -> Any:
        _, file, md5 = SVHN.split_list[part]
        return published(
            f"svhn ({part})",
            request.data_dir,
            [file],
            [(file, md5)],
            lambda root, download: SVHN(root, split=part, download=download),
        )

    read_parts = [read(part) for part in parts]
    images = _joined(_tensor(data.data) for data in read_parts)
    return ImageSet(request.spec, images, _joined(_tensor(data.labels) for data in read_parts).long(), DIGITS)


def stl10(request: Request) -> ImageSet:
    """STL-10, 96x96 RGB: 5,000 to train (1,000 in `stl10:fold=K`, K of 0..9), 8,000 to test, 100,000 unlabelled."""
    from torchvision.datasets import STL10

    match = re.fullmatch(r"(?:fold=([0-9]))?", request.option)
    if match is None:
        raise ValueError(f"got {request.spec!r}, expected stl10 or stl10:fold=K with K of 0 to 9")
    fold = int(match[1]) if match[1] and request.split == "train" else None
    folder = Path(STL10.base_folder)
    files = [str(folder / file) for file, _ in STL10.train_list + STL10.test_list]
    if fold is not None:
        files.append(str(folder / STL10.folds_list_file))
    data = published(
        "stl10",
        request.data_dir,
        files,
        [(STL10.filename, STL10.tgz_md5)],
        lambda root, download: STL10(root, split=request.split, folds=fold, download=download),
    )
    labels = None if data.labels is None or request.split == "unlabeled" else _tensor(data.labels).long()
    return ImageSet(request.spec, _tensor(data.data), labels, STL10_CLASSES)


STL10_CLASSES = ("airplane", "bird", "car", "cat", "deer", "dog", "horse", "monkey", "ship", "truck")


def _idx_files(request: Request, dataset: Any) -> ImageSet:
    _no_option(request)
    raw = Path(dataset.__name__) / "raw"
    data = published(
        request.spec,
        request.data_dir,
        [str(raw / Path(file).stem) for file, _ in dataset.resources],
        [(str(raw / file), md5) for file, md5 in dataset.resources],
        lambda root, download: dataset(root, train=request.split != "test", download=download),
    )
    return ImageSet(request.spec, data.data[:, None], data.targets, tuple(dataset.classes))


def _cifar(request: Request, dataset: Any) -> ImageSet:
    _no_option(request)
    folder = Path(dataset.base_folder)
    names = [file for file, _ in dataset.train_list + dataset.test_list] + [dataset.meta["filename"]]
    data = published(
        request.spec,
        request.data_dir,
        [str(folder / name) for name in names],
        [(dataset.filename, dataset.tgz_md5)],
        lambda root, download: dataset(root, train=request.split != "test", download=download),
    )
    images = _tensor(data.data.transpose(0, 3, 1, 2))
    return ImageSet(request.spec, images, torch.tensor(data.targets), tuple(data.classes))


def _no_option(request: Request) -> None:
    if request.option:
        name = request.spec.split(":")[0]
        raise ValueError(f"got {request.spec!r}, but {name} takes nothing after a colon; expected {name!r}")


def _tensor(array: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(array))


def _joined(parts: Iterable[Tensor]) -> Tensor:
    parts = list(parts)
    return parts[0] if len(parts) == 1 else torch.cat(parts)


SOURCES: dict[str, Callable[[Request], ImageSet]] = {
    "digits": digits,
    "mnist": mnist,
    "fashion_mnist": fashion_mnist,
    "svhn": svhn,
    "stl10": stl10,
    "cifar10": cifar10,
    "cifar100": cifar100,
}
