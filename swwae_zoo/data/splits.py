"""Seeded class-balanced splits: few labels, held-out validation, and the unlabelled images beside them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from swwae_zoo.data.exclude import read_exclusions
from swwae_zoo.data.leakage import ProgressCallback, leaked
from swwae_zoo.data.load import data_folder, load_images
from swwae_zoo.data.loader import images_on
from swwae_zoo.data.seeds import seeded
from swwae_zoo.data.types import Images, NoSuchSplit, complement


@dataclass(frozen=True, kw_only=True)
class SplitRequest:
    """What `make_splits` is asked for.

    Args:
        data: spec of the labelled set (see `load_images`).
        unlabeled: "same" for the training images of `data`, "none", or another spec.
        num_labels: labelled images; 0 keeps every label that is not validation's.
        num_val: validation images to draw where the set has none of its own: 0 for none, -1 for a tenth of the
            training images but at most 5,000.
        seed: of the round.
        data_dir, img_size, in_chans, bad_images: as for `load_images`; unlabelled images get the channels of `data`.
        exclude: unlabelled images to leave out, "1-based:FILE" or "0-based:FILE" (see `read_exclusions`).
        leakage: which copies of test and validation images to take out of another unlabelled set: "exact", "near" (see
            `leakage.py`), "off" (exact ones of validation images alone), or "auto": near for Tiny Images, of which
            CIFAR is a part, else exact.
        limit: bytes of unlabelled images that may lie in memory.
        labeled_limit: bytes of labelled images, and of test images, that may.
    """

    data: str
    unlabeled: str = "same"
    num_labels: int = 0
    num_val: int = 0
    seed: int = 0
    data_dir: str | None = None
    img_size: int | tuple[int, int] | None = None
    in_chans: int | None = None
    bad_images: str = "refuse"
    exclude: str = ""
    leakage: str = "auto"
    limit: float = float("inf")
    labeled_limit: float = float("inf")


class Splits(NamedTuple):
    """Labelled, unlabelled, validation and test images of one round."""

    labeled: Images
    unlabeled: Images | None
    val: Images | None
    test: Images | None
    num_classes: int
    notes: tuple[str, ...] = ()  # what a user should know was done to the data

    def to(self, device: torch.device, unlabeled: bool = True) -> Splits:
        """The images on `device`, each of them once; the unlabelled ones stay where they are without `unlabeled`."""
        moved: dict[int, Tensor] = {}
        names = ("labeled", "val", "test", "unlabeled") if unlabeled else ("labeled", "val", "test")
        parts = {name: getattr(self, name) for name in names}
        return self._replace(**{name: part and images_on(part, device, moved) for name, part in parts.items()})


def make_splits(request: SplitRequest, tell: ProgressCallback | None = None) -> Splits:
    """The splits of one round; a function of the request alone, and another `seed` is a fresh round.

    The validation images are the set's own, where it has some. Else they are drawn first, then the labelled ones from
    the rest, both with as many of each class.
    Where the classes do not divide the number, some classes, chosen by the seed, give one more than the others.
    With the same seed and `num_val`, more labels contain the fewer. Validation images are in no other split: they
    are taken out of the unlabelled images too, by position when those are the training images, and image by image
    (equal in every pixel, at least) when they are another set. Copies of test images are taken out of another set
    likewise.

    Args:
        tell: called with how far the search for leakage has come (see `leaked`).

    Raises:
        ValueError: no labels, fewer labels than classes, a class with fewer images than asked, and what
            `load_images` raises.
    """
    train = _load(request, request.data, "train", request.in_chans, request.labeled_limit)
    if train.labels is None:
        raise ValueError(
            f"{request.data} has no labels; expected a labelled set, or give it as --unlabeled {request.data}"
        )
    channels, num_classes = train.shape[0], len(train.class_names)
    try:
        test = _load(request, request.data, "test", channels, request.labeled_limit)
    except NoSuchSplit:
        test = None
    try:
        val = _load(request, request.data, "val", channels, request.labeled_limit)
    except NoSuchSplit:
        val = None
    for part, name in ((test, "test"), (val, "validation")):
        if part is not None and part.labels is not None and int(part.labels.max()) >= num_classes:
            raise ValueError(
                f"{request.data}: {name} label {int(part.labels.max())}, expected 0 to {num_classes - 1} as in training"
            )
    notes = train.notes
    num_val = request.num_val if request.num_val >= 0 else tenth(train.labels, num_classes)
    if val is not None and request.num_val > 0:
        notes += (
            f"{request.data}: its own {val.count:,} validation images are used, and no {request.num_val:,} drawn",
        )
    num_val = num_val if val is None else 0
    val_index, labeled_index = draw(train, num_labels=request.num_labels, num_val=num_val, seed=request.seed)
    val = train.select(val_index) if num_val else val
    if request.exclude and request.unlabeled in ("none", "same"):
        raise ValueError(
            f"exclude: got {request.exclude!r} with --unlabeled {request.unlabeled}; expected another unlabelled set"
        )
    if request.unlabeled == "none":
        others = None
    elif request.unlabeled == "same":
        others = train.without(val_index).unlabelled()
    else:
        others = _load(request, request.unlabeled, "unlabeled", channels, request.limit)
        notes += others.notes
        others, done = _cleaned(others, request, val, test, tell)
        notes += done
    few = 2 * len(labeled_index) < train.count
    labeled = train.select(labeled_index) if few else train.without(complement(labeled_index, train.count))
    return Splits(labeled, others, val, test, num_classes, notes)


def tenth(labels: Tensor, num_classes: int) -> int:
    """A tenth of the images, at most 5,000, as many of each class, and at most a third of the smallest class."""
    smallest = int(labels.bincount(minlength=num_classes).min())
    return min(min(5000, len(labels) // 10) // num_classes, smallest // 3) * num_classes


def _load(request: SplitRequest, spec: str, split: str, in_chans: int | None, limit: float) -> Images:
    return load_images(
        spec,
        split,
        data_dir=request.data_dir,
        img_size=request.img_size,
        in_chans=in_chans,
        bad_images=request.bad_images,
        limit=limit,
    )


def draw(train: Images, *, num_labels: int, num_val: int, seed: int) -> tuple[Tensor, Tensor]:
    """Positions of the validation and of the labelled images in `train`, `(num_val,)` and `(num_labels,)`, ascending.

    Raises:
        ValueError: as `make_splits`.
    """
    if train.labels is None:
        raise ValueError(f"{train.name} has no labels to draw from")
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


def _cleaned(
    others: Images, request: SplitRequest, val: Images | None, test: Images | None, tell: ProgressCallback | None
) -> tuple[Images, tuple[str, ...]]:
    """Unlabelled images less those excluded and copies of those held out, and what was done."""
    dropped, notes = [], []
    leakage = request.leakage
    if leakage == "auto":
        leakage = "near" if request.unlabeled.partition(":")[0] == "tinyimages" else "exact"
    held_out = [part for part in (val, test if leakage != "off" else None) if part is not None]
    if request.exclude:
        dropped.append(read_exclusions(request.exclude, others.count))
        notes.append(f"{len(dropped[-1]):,} of {others.count:,} unlabelled images left out as {request.exclude} says")
    if held_out:
        dropped.append(leaked(others, held_out, leakage == "near", data_folder(request.data_dir), tell))
        if len(dropped[-1]):
            kind = "near or exact" if leakage == "near" else "exact"
            notes.append(
                f"{len(dropped[-1]):,} of {others.count:,} unlabelled images left out: {kind} copies of test or "
                "validation images"
            )
    positions = np.unique(np.concatenate(dropped)) if dropped else np.empty(0, np.int64)
    if len(positions) == others.count:
        raise ValueError(
            f"{others.name}: every image is left out; expected some to remain: look at --exclude and --copies"
        )
    return others.without(torch.from_numpy(positions)), tuple(notes)
