"""Seeded class-balanced splits: few labels, held-out validation, and the unlabelled images beside them."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from swwae_zoo.data.exclude import read_exclusions
from swwae_zoo.data.leakage import Progress
from swwae_zoo.data.leakage import copies as find_copies
from swwae_zoo.data.load import data_folder, load_images
from swwae_zoo.data.seeds import seeded
from swwae_zoo.data.store import ImageStore
from swwae_zoo.data.types import ImageSet, NoSuchSplit


class Splits(NamedTuple):
    """What one round trains on, chooses by and is judged by."""

    labeled: ImageSet
    unlabeled: ImageSet | ImageStore | None
    val: ImageSet | None
    test: ImageSet | None
    num_classes: int
    notes: tuple[str, ...] = ()  # what a user should know was done to the data


def make_splits(
    *,
    data: str,
    unlabeled: str = "same",
    num_labels: int = 0,
    num_val: int = 0,
    seed: int = 0,
    data_dir: str | None = None,
    img_size: int | tuple[int, int] | None = None,
    in_chans: int | None = None,
    bad_images: str = "refuse",
    exclude: str = "",
    copies: str = "auto",
    limit: float = float("inf"),
    tell: Progress | None = None,
) -> Splits:
    """The splits of one round; a function of its arguments alone, and another `seed` is a fresh round.

    The validation images are drawn first, then the labelled ones from the rest, both with as many of each class.
    Where the classes do not divide the number, some classes, chosen by the seed, give one more than the others.
    With the same seed and `num_val`, more labels contain the fewer. Validation images are in no other split: they
    are taken out of the unlabelled images too, by position when those are the training images, and image by image
    (equal in every pixel, at least) when they are another set. Copies of test images are taken out of another set
    likewise.

    Args:
        data: spec of the labelled set (see `load_images`).
        unlabeled: "same" for the training images of `data`, "none", or another spec.
        num_labels: labelled images; 0 keeps every label that is not validation's.
        num_val: validation images, 0 for none, -1 for a tenth of the training images but at most 5,000.
        seed: of the round.
        data_dir, img_size, in_chans, bad_images, limit: as for `load_images`; unlabelled images get the channels of `data`.
        exclude: unlabelled images to leave out, "1-based:FILE" or "0-based:FILE" (see `read_exclusions`).
        copies: which copies of test and validation images to take out of another unlabelled set: "exact", "near" (see
            `copies.py`), "off" (exact ones of validation images alone), or "auto": near for Tiny Images, of which CIFAR
            is a part, else exact.
        tell: told how far the search for copies has come.

    Raises:
        ValueError: no labels, fewer labels than classes, a class with fewer images than asked, and what
            `load_images` raises.
    """
    options = {"data_dir": data_dir, "img_size": img_size, "bad_images": bad_images}
    train = load_images(data, "train", in_chans=in_chans, **options)
    if train.labels is None:
        raise ValueError(f"{data} has no labels; expected a labelled set, or give it as --unlabeled {data}")
    options["in_chans"] = train.images.shape[1]
    try:
        test = load_images(data, "test", **options)
    except NoSuchSplit:
        test = None
    num_classes = len(train.class_names)
    if test is not None and test.labels is not None and int(test.labels.max()) >= num_classes:
        raise ValueError(f"{data}: test label {int(test.labels.max())}, expected 0 to {num_classes - 1} as in training")

    if num_val < 0:
        num_val = tenth(len(train.images), num_classes)
    val_index, labeled_index = draw(train, num_labels=num_labels, num_val=num_val, seed=seed)
    val = train.select(val_index) if num_val else None
    notes: tuple[str, ...] = ()
    if exclude and unlabeled in ("none", "same"):
        raise ValueError(f"exclude: got {exclude!r} with --unlabeled {unlabeled}; expected another unlabelled set")
    if unlabeled == "none":
        others = None
    elif unlabeled == "same":
        others = (train if val is None else train.select(_complement(val_index, len(train.images)))).unlabelled()
    else:
        others = load_images(unlabeled, "unlabeled", limit=limit, **options)
        if copies == "auto":
            copies = "near" if unlabeled.partition(":")[0] == "tinyimages" else "exact"
        held_out = [part.images for part in (val, test if copies != "off" else None) if part is not None]
        others, notes = _cleaned(others, exclude, held_out, copies, data_folder(data_dir), tell)
    labeled = train if len(labeled_index) == len(train.images) else train.select(labeled_index)
    return Splits(labeled, others, val, test, num_classes, notes)


def tenth(count: int, num_classes: int) -> int:
    """A tenth of `count` images, at most 5,000 and as many of each class."""
    return min(5000, count // 10) // num_classes * num_classes


def draw(train: ImageSet, *, num_labels: int, num_val: int, seed: int) -> tuple[Tensor, Tensor]:
    """Positions of the validation and of the labelled images in `train`, `(num_val,)` and `(num_labels,)`, ascending.

    Raises:
        ValueError: as `make_splits`.
    """
    num_classes = len(train.class_names)
    if min(num_labels, num_val) < 0:
        raise ValueError(f"got {num_labels} labels and {num_val} validation images, expected 0 or more")
    if 0 < num_labels < num_classes:
        raise ValueError(
            f"got {num_labels} labels for {num_classes} classes of {train.name}, "
            f"expected at least one a class, or 0 for every label"
        )
    val_quota = _quotas(num_val, num_classes, seed, "val")
    label_quota = _quotas(num_labels, num_classes, seed, "labels")
    val_parts, label_parts = [], []
    for label, name in enumerate(train.class_names):
        members = (train.labels == label).nonzero()[:, 0]
        shuffled = members[torch.randperm(len(members), generator=seeded(seed, "split", label))]
        num_held, num_asked = val_quota[label], label_quota[label] if num_labels else 1
        if num_held > len(members):
            raise ValueError(
                f"class {name!r} of {train.name} has {len(members)} images, got {num_held} asked for validation; "
                f"lower num_val"
            )
        if num_asked > len(members) - num_held:
            less = f" ({num_held} more held out for validation)" if num_held else ""
            raise ValueError(
                f"class {name!r} of {train.name} has {len(members) - num_held} labelled images{less}, got "
                f"{num_asked} asked; lower {'num_labels' if num_labels else 'num_val'}"
            )
        val_parts.append(shuffled[:num_held])
        label_parts.append(shuffled[num_held : num_held + label_quota[label] if num_labels else None])
    return torch.cat(val_parts).sort().values, torch.cat(label_parts).sort().values


def _quotas(total: int, num_classes: int, seed: int, purpose: str) -> list[int]:
    """`total` over the classes, none more than one above another: (7, 3 classes) -> 2, 3, 2 in a seeded order."""
    each, rest = divmod(total, num_classes)
    favoured = torch.randperm(num_classes, generator=seeded(seed, purpose))[:rest].tolist()
    return [each + (label in favoured) for label in range(num_classes)]


def _complement(index: Tensor, n: int) -> Tensor:
    kept = torch.ones(n, dtype=torch.bool)
    kept[index] = False
    return kept.nonzero()[:, 0]


def _cleaned(
    others: ImageSet | ImageStore,
    exclude: str,
    held_out: list[Tensor],
    copies: str,
    folder: Path,
    tell: Progress | None,
) -> tuple[ImageSet | ImageStore, tuple[str, ...]]:
    """Unlabelled images less those excluded and copies of those held out, and what was done."""
    total = others.total if isinstance(others, ImageStore) else others.count
    dropped, notes = [], []
    if exclude:
        dropped.append(read_exclusions(exclude, total))
        notes.append(f"{len(dropped[-1]):,} of {total:,} unlabelled images left out as {exclude} says")
    if held_out:
        dropped.append(find_copies(others, torch.cat(held_out), copies == "near", folder, tell))
        if len(dropped[-1]):
            kind = "near or exact" if copies == "near" else "exact"
            notes.append(
                f"{len(dropped[-1]):,} of {total:,} unlabelled images left out: {kind} copies of test or validation images"
            )
    positions = np.unique(np.concatenate(dropped)) if dropped else np.empty(0, np.int64)
    if len(positions) == total:
        raise ValueError(
            f"{others.name}: every image is left out; expected some to remain: look at --exclude and --copies"
        )
    if not len(positions):
        return others, tuple(notes)
    if isinstance(others, ImageStore):
        return others.without(positions), tuple(notes)
    return others.select(_complement(torch.from_numpy(positions), total)), tuple(notes)
