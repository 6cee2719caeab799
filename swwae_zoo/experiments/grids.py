"""Pictures of many small test images, as in the paper's Figures 2 and 4."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from torch import Tensor

from swwae_zoo.config import RunConfig
from swwae_zoo.data import ImageSet, load_images

__all__ = ["draw_blocks", "one_of_each_class", "read_test_images"]

DPI, ZOOM, GAP, BETWEEN, LABEL, TITLE = 100, 2, 2, 24, 150, 26  # in pixels; ZOOM enlarges each image


def read_test_images(recipe: RunConfig) -> tuple[Tensor, Tensor]:
    """The recipe's test images, (N, C, H, W) uint8, and their labels, (N,)."""
    test = load_images(recipe.data, "test", data_dir=recipe.data_dir or None)
    assert isinstance(test, ImageSet) and test.labels is not None, "the figures' data sets fit in memory"
    return test.images, test.labels


def one_of_each_class(images: Tensor, labels: Tensor, each: int = 1) -> Tensor:
    """The first ``each`` images of every class, class by class."""
    return images[torch.cat([(labels == label).nonzero()[:each, 0] for label in labels.unique()])]


def draw_blocks(path: Path, rows: Sequence[tuple[str, Sequence[Tensor]]], titles: Sequence[str]) -> None:
    """Rows of images, in as many blocks side by side as there are titles.

    Args:
        path: PNG to write.
        rows: name of each row and its images for each block, (B, 1, H, W) from 0, black, to 1.
        titles: of the blocks.
    """
    lines = []
    for _, blocks in rows:
        parts = []
        for i, images in enumerate(blocks):
            zoomed = images.float().clamp(0, 1).cpu().repeat_interleave(ZOOM, 2).repeat_interleave(ZOOM, 3)
            framed = F.pad(zoomed, (GAP, GAP, GAP, GAP), value=1.0)
            parts += [torch.ones(framed.shape[2], BETWEEN)] * (i > 0) + [framed[:, 0].permute(1, 0, 2).flatten(1)]
        lines.append(torch.cat(parts, 1))
    picture = torch.cat(lines)
    height, width = picture.shape
    figure = Figure(figsize=((LABEL + width) / DPI, (TITLE + height) / DPI))
    axis = figure.add_axes((LABEL / (LABEL + width), 0, width / (LABEL + width), height / (TITLE + height)))
    axis.imshow(picture.numpy(), cmap="gray", vmin=0, vmax=1, interpolation="none", aspect="auto")
    middles = [(row + 0.5) * height / len(rows) for row in range(len(rows))]
    axis.set(xticks=[], yticks=middles, yticklabels=[name for name, _ in rows])
    axis.tick_params(length=0)
    axis.spines[:].set_visible(False)
    block = (width - BETWEEN * (len(titles) - 1)) / len(titles)
    for i, title in enumerate(titles):
        axis.text(i * (block + BETWEEN) + block / 2, -4, title, ha="center", va="bottom")
    figure.savefig(path, dpi=DPI, format="png")
