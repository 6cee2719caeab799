"""The pictures of a run, as PNG: training curves, and reconstructions beside their inputs."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from torch import Tensor

from swwae_zoo.loss import TERMS
from swwae_zoo.models._base import SWWAE

__all__ = ["draw_curves", "draw_reconstructions", "draw_views", "reconstruct", "reconstruct_without_where"]

DPI = 100
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
    steps, values = _curve(metrics, "val_error")
    width, height = (9 if steps else 5, 3.6)
    figure = Figure(figsize=(width, height))
    losses, *errors = figure.subplots(1, 2 if steps else 1, squeeze=False)[0]
    figure.subplots_adjust(
        left=0.65 / width, right=1 - 0.15 / width, bottom=0.5 / height, top=1 - 0.4 / height, wspace=0.18
    )
    for name, label in ((term.name, term.label) for term in TERMS.values()):
        at, means = _curve(metrics, name)
        if at:
            losses.plot(at, means, label=label, marker="o" if len(at) == 1 else None)
    losses.set(xlabel="step", ylabel="training loss (mean since the point before)")
    if losses.lines:
        losses.legend(
            loc="lower center", bbox_to_anchor=(0.5, 1), ncols=len(losses.lines), frameon=False
        )  # off the curves
    if any(value > 0 for line in losses.lines for value in line.get_ydata()):
        losses.set_yscale("log")
    losses.grid(alpha=0.3)

    for axis in errors:
        axis.plot(steps, values, marker="o", color="tab:red", label="after that step")
        lowest = min(values)
        axis.axhline(
            lowest,
            color="tab:grey",
            linestyle=":",
            label=f"lowest: {lowest:.2f} % at step {steps[values.index(lowest)]}",
        )
        axis.set(xlabel="step", ylabel="validation error (%)")
        axis.set_ylim(bottom=0)
        axis.set_xlim(left=0)
        axis.grid(alpha=0.3)
        axis.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=2, frameon=False)
    figure.savefig(path, dpi=DPI, format="png")


def _curve(metrics: list[dict[str, Any]], name: str) -> tuple[list[int], list[float]]:
    points = [(line["step"], line[name]) for line in metrics if name in line]
    return [step for step, _ in points], [value for _, value in points]
