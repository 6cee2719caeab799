"""The pictures of a run, as PNG: training curves, and reconstructions beside their inputs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogFormatter
from torch import Tensor

from swwae_zoo.loss import TERMS
from swwae_zoo.models._base import SWWAE

__all__ = [
    "Curve",
    "across_classes",
    "draw_curves",
    "draw_reconstructions",
    "draw_views",
    "lay_out",
    "plot_errors",
    "plot_losses",
    "reconstruct",
    "reconstruct_without_where",
]

DPI = 100
SWWAE_COLOUR, TWIN_COLOUR = "tab:red", "tab:gray"  # in every picture
TERM_COLOURS = tuple(f"tab:{name}" for name in ["blue", "orange", "green", "purple", "brown", "pink", "olive", "cyan"])
CELL, GAP, LABEL = 80, 3, 110  # pixels: least width of an image, white around it, and left of all for the rows' names


@torch.no_grad()
def reconstruct(model: SWWAE, x: Tensor) -> Tensor:
    """x~ (B, C, H, W) from what and where, in eval mode."""
    training = model.training
    model.eval()
    reconstruction = model.forward_decoder(model.forward_encoder(x)).reconstruction.float()
    model.train(training)
    return reconstruction


@torch.no_grad()
def reconstruct_without_where(model: SWWAE, x: Tensor) -> Tensor:
    """x~ (B, C, H, W) by the same decoder when the where is thrown away: each what is put at the middle
    of its window, so that only the what can tell where things are."""
    training = model.training
    model.eval()
    encoding = model.forward_encoder(x)
    reconstruction = model.forward_decoder(model.forget_where(encoding)).reconstruction.float()
    model.train(training)
    return reconstruction


def draw_reconstructions(path: Path, model: SWWAE, x: Tensor) -> None:
    """A grid of three rows: input, reconstruction from what and where, reconstruction from the what alone.

    Each column has one grey (or colour) scale, its input's darkest to brightest, so that the rows compare and
    normalised images look as they did before.

    Args:
        path: PNG to write.
        model: the net.
        x: (B, C, H, W), as the net takes it, B > 0 columns; of other than 3 channels the first is shown.
    """
    rows = {
        "input": x.float(),
        "what + where": reconstruct(model, x),
        "what alone": reconstruct_without_where(model, x),
    }
    low, high = (x.float().flatten(1).aminmax(dim=1)[side].view(-1, 1, 1, 1) for side in (0, 1))
    _draw_grid(path, {name: (images - low) / (high - low).clamp(min=1e-6) for name, images in rows.items()})


def draw_views(path: Path, rows: dict[str, Tensor]) -> None:
    """A grid of images as the network is shown them: a row for each kind of view, a column for each image.

    Args:
        path: PNG to write.
        rows: name -> (B, C, H, W) from 0 to 1, B > 0; of other than 3 channels the first is shown.
    """
    _draw_grid(path, rows)


def _draw_grid(path: Path, rows: dict[str, Tensor]) -> None:
    grid = torch.stack([images.float() for images in rows.values()]).clamp(0, 1)
    grid = (grid if grid.shape[2] == 3 else grid[:, :, :1].expand(-1, -1, 3, -1, -1)).cpu()  # (rows, B, 3, H, W)
    zoom = math.ceil(CELL / grid.shape[4])  # whole, so that every pixel is as large as the next
    grid = grid.repeat_interleave(zoom, 3).repeat_interleave(zoom, 4)
    grid = F.pad(grid, (GAP, GAP, GAP, GAP), value=1.0).permute(0, 3, 1, 4, 2).flatten(0, 1).flatten(1, 2)
    height, width = grid.shape[:2]
    figure = Figure(figsize=((LABEL + width) / DPI, height / DPI), dpi=DPI)
    figure.figimage(grid.numpy(), xo=LABEL)
    for row, name in enumerate(rows):
        place = (LABEL - 2 * GAP) / (LABEL + width), 1 - (row + 0.5) / len(rows)
        figure.text(*place, name, ha="right", va="center")
    figure.savefig(path, dpi=DPI, format="png")


def draw_curves(path: Path, metrics: list[dict[str, Any]]) -> None:
    """Loss terms (logarithmic) and validation error over steps, from the lines of metrics.jsonl."""
    validated = any("val_error" in line for line in metrics)
    figure = Figure(figsize=(9 if validated else 5, 3.6))
    losses, *errors = figure.subplots(1, 2 if validated else 1, squeeze=False)[0]
    plot_losses(losses, metrics)
    for axis in errors:
        plot_errors(axis, [Curve("after that step", SWWAE_COLOUR, metrics)], lowest=True)
    lay_out(figure)
    figure.savefig(path, dpi=DPI, format="png")


class Curve(NamedTuple):
    """Validation error of one run: name in the legend ("": none), colour, lines of metrics.jsonl, one of many runs."""

    label: str
    colour: str
    metrics: Sequence[Mapping[str, Any]]
    thin: bool = False


class PlainNumbers(LogFormatter):
    """0.06 instead of 6 x 10^-2, which is cut off at the left."""

    def __call__(self, x: float, pos: int | None = None) -> str:
        return f"{x:g}" if super().__call__(x, pos) else ""


def plot_losses(axis: Axes, metrics: Sequence[Mapping[str, Any]]) -> None:
    """Loss terms over steps, logarithmic; each term has the same colour in every picture."""
    for place, term in enumerate(TERMS.values()):
        at, means = _curve(metrics, term.name)
        if at:
            colour = TERM_COLOURS[place % len(TERM_COLOURS)]
            axis.plot(at, means, label=term.label, color=colour, marker="o" if len(at) == 1 else None)
    axis.set(xlabel="step", ylabel="training loss")
    if any(value > 0 for line in axis.lines for value in np.asarray(line.get_ydata())):
        axis.set_yscale("log")
        axis.yaxis.set_major_formatter(PlainNumbers())
        axis.yaxis.set_minor_formatter(PlainNumbers(minor_thresholds=(1.5, 0.5)))
    axis.grid(alpha=0.3)


def plot_errors(axis: Axes, curves: Sequence[Curve], lowest: bool = False) -> None:
    """Validation errors over steps.

    Args:
        lowest: draw the lowest value of each named curve as a line, and name it too.
    """
    for curve in curves:
        steps, values = _curve(curve.metrics, "val_error")
        if not steps:
            continue
        width, size = (1.0, 2) if curve.thin else (1.5, 4)
        axis.plot(
            steps, values, color=curve.colour, label=curve.label or None, marker="o", markersize=size, linewidth=width
        )
        if lowest and curve.label:
            low = min(values)
            name = f"lowest: {low:.2f} % at step {steps[values.index(low)]}"
            axis.axhline(low, color=curve.colour, linestyle=":", label=name)
    axis.set(xlabel="step", ylabel="validation error (%)")
    axis.set_ylim(bottom=0)
    axis.set_xlim(left=0)
    axis.grid(alpha=0.3)


def lay_out(figure: Figure) -> None:
    """Places the axes of a figure in a row, each with its legend above it, and makes room for what the legends need.

    A legend has as many columns as its axis is wide, so that none touches its neighbour or is cut off.
    """
    width, height = figure.get_size_inches()
    axes = figure.axes

    def adjust(top: float) -> None:
        between = 0.8 / max((width - 0.95 - 0.8 * (len(axes) - 1)) / len(axes), 0.1)  # of an axis's width
        figure.subplots_adjust(
            left=0.8 / width, right=1 - 0.15 / width, bottom=0.5 / height, top=1 - top / height, wspace=between
        )

    adjust(0.4)
    tallest = 0.0
    for axis in axes:
        count = len(axis.get_legend_handles_labels()[0])
        for columns in range(count, 0, -1):
            legend = axis.legend(
                loc="lower center",
                bbox_to_anchor=(0.5, 1),
                ncols=columns,
                frameon=False,
                columnspacing=1.2,
                borderaxespad=0.2,
            )
            extent = legend.get_window_extent()
            if extent.width <= axis.bbox.width or columns == 1:
                tallest = max(tallest, extent.height / figure.dpi)
                break
    top = max(0.4, tallest + 0.1)
    height += top - 0.4
    figure.set_size_inches(width, height)
    adjust(top)


def across_classes(labels: Tensor | None, total: int, count: int = 16) -> Tensor:
    """Positions of up to ``count`` images that take turns among the classes: the first of each, then the second, ...

    Args:
        labels: (total,) int64, or None: then the first images are taken.

    Returns:
        (min(count, total),) int64, on the CPU, in the order of the turns.
    """
    if labels is None:
        return torch.arange(min(count, total))
    labels = labels.cpu()
    order = labels.argsort(stable=True)
    counts = labels.bincount()
    turn = torch.empty_like(labels)  # how many of its class stand before an image
    turn[order] = torch.arange(total) - (counts.cumsum(0) - counts)[labels[order]]
    return (turn * len(counts) + labels).argsort()[:count]


def _curve(metrics: Sequence[Mapping[str, Any]], name: str) -> tuple[list[int], list[float]]:
    points = [(line["step"], line[name]) for line in metrics if name in line]
    return [step for step, _ in points], [value for _, value in points]
