"""What a run's user left open, chosen from the data: image size of a wrapped backbone, length of the training."""

from __future__ import annotations

import math
import statistics
from dataclasses import replace

from timm.models import get_pretrained_cfg

from swwae_zoo.config import RunConfig, starts_trained
from swwae_zoo.data import Splits, load_images
from swwae_zoo.data.readers.folders import stored_sizes

__all__ = ["stored_size", "with_length", "with_size"]

STEP_DOWN = 32  # pixels of the image that one pixel of the deepest map stands for, in most backbones
LEAST, LARGEST = 2 * STEP_DOWN, 224  # of the shorter side: a map of one pixel has no where
PASSES, LEAST_STEPS, MOST_STEPS = 20, 2000, 20000
LEAST_FROM_WEIGHTS = 500  # steps of a net that starts from weights that have learnt


def with_size(config: RunConfig) -> RunConfig:
    """The recipe with an img_size, where it wraps a backbone and names none.

    Images are trained on as they are stored, within what the backbone needs: shorter side from 64 to 224 pixels, both
    a multiple of 32, in the images' own proportions where all have the same.
    """
    args = config.model_args
    if config.model.partition(".")[0] != "swwae_wrap" or args.get("img_size"):
        return config
    cfg = get_pretrained_cfg(str(args.get("backbone", "resnet18")), allow_unregistered=True)
    if cfg is not None and cfg.fixed_input_size:
        return replace(config, model_args={**args, "img_size": list(cfg.input_size[1:])})
    size = size_for(_stored(config))
    return config if size is None else replace(config, model_args={**args, "img_size": size})


def size_for(stored: list[tuple[int, int]]) -> int | list[int] | None:
    """Training size for images of these sizes (height, width): `size_for([(64, 96)]) == [64, 96]`."""
    if not stored:
        return None
    ratios = [height / width for height, width in stored]
    alike = max(ratios) <= 1.1 * min(ratios) and min(ratios) >= 1 / 3 and max(ratios) <= 3
    short = statistics.median(min(size) for size in stored)
    short = min(max(short, LEAST), LARGEST)
    ratio = statistics.median(ratios) if alike else 1.0
    height, width = (short * max(1.0, ratio), short * max(1.0, 1 / ratio))
    sides = [max(LEAST, round(side / STEP_DOWN) * STEP_DOWN) for side in (height, width)]
    return sides[0] if sides[0] == sides[1] else sides


def _stored(config: RunConfig) -> list[tuple[int, int]]:
    """(height, width) of labelled images as they are stored; none where they can't be read without a size."""
    name, _, option = config.data.partition(":")
    if name == "folder":
        return stored_sizes(option)
    try:
        return [load_images(config.data, "train", data_dir=config.data_dir or None).shape[1:]]
    except ValueError:  # of several sizes, or not there at all: whoever reads them with a size says so
        return []


def with_length(config: RunConfig, splits: Splits) -> RunConfig:
    """The recipe with a number of steps where it says -1: twenty passes over the unlabelled images (the labelled ones
    where there are no others), but from 2,000 (from trained weights 500) to 20,000 steps."""
    if config.steps >= 0:
        return config
    count, batch = len(splits.labeled), config.labeled_batch
    if splits.unlabeled is not None:
        count, batch = splits.unlabeled.count, config.batch_size
    least = LEAST_FROM_WEIGHTS if starts_trained(config.model_args, config.init) else LEAST_STEPS
    return replace(config, steps=min(max(PASSES * math.ceil(count / batch), least), MOST_STEPS))


def stored_size(config: RunConfig, splits: Splits) -> str:
    """Size of the labelled images as they are stored, in words: "64x96", or "32x32 to 480x640"."""
    if config.data.startswith("folder:"):
        sizes = sorted(set(stored_sizes(config.data.partition(":")[2])), key=lambda size: size[0] * size[1])
    else:
        sizes = [splits.labeled.shape[1:]]
    ends = [f"{height}x{width}" for height, width in sizes]
    return " to ".join([ends[0], ends[-1]] if len(ends) > 1 else ends)
