"""The pictures of a run, as PNG: training curves, and reconstructions beside their inputs."""
from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor

from .swwae import SWWAE

__all__ = ["draw_curves", "draw_reconstructions", "reconstruct", "reconstruct_without_where"]


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
    blind = tuple(None if where is None else _middle_of_window(where, stage.pool_size)
                  for where, stage in zip(encoding.switches, model.stages))
    reconstruction = model.forward_decoder(encoding._replace(switches=blind)).reconstruction.float()
    model.train(training)
    return reconstruction


def _middle_of_window(where: Tensor, pool_size: int) -> Tensor:
    if where.dtype == torch.uint8:
        return torch.full_like(where, (pool_size // 2) * pool_size + pool_size // 2)
    return torch.zeros_like(where)


def draw_reconstructions(path: Path, model: SWWAE, x: Tensor) -> None:
    """A grid of three rows: input, reconstruction from what and where, reconstruction from the what alone.

    Args:
        path: PNG to write.
        model: the net.
        x: (B, C, H, W), as the net takes it; B columns.
    """
    rows = [x.float(), reconstruct(model, x), reconstruct_without_where(model, x)]
    names = ["input", "what + where", "what alone"]
    figure = Figure(figsize=(0.8 * len(x) + 1.2, 2.9), layout="constrained")
    axes = figure.subplots(3, len(x), squeeze=False)
    for row, (images, name) in enumerate(zip(rows, names)):
        axes[row][0].set_ylabel(name, rotation=0, ha="right", va="center")
        for column, image in enumerate(images.cpu()):
            low, high = x[column].min().item(), x[column].max().item()  # one grey scale for all three
            shown = ((image - low) / max(high - low, 1e-6)).clamp(0, 1).permute(1, 2, 0)
            axes[row][column].imshow(shown[..., 0] if shown.shape[2] != 3 else shown, cmap="gray", vmin=0, vmax=1)
            axes[row][column].set(xticks=[], yticks=[])
    figure.savefig(path, dpi=100, format="png")


def draw_curves(path: Path, metrics: list[dict[str, Any]]) -> None:
    """Loss parts and validation error over steps, from the lines of metrics.jsonl."""
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    losses, errors = figure.subplots(1, 2)
    for name in ("nll", "rec", "middle", "l1"):
        points = [(line["step"], line[name]) for line in metrics if name in line]
        if points:
            losses.plot(*zip(*points), label=name)
    losses.set(xlabel="step", ylabel="loss part", yscale="log")
    losses.legend()
    points = [(line["step"], line["val_error"]) for line in metrics if "val_error" in line]
    if points:
        errors.plot(*zip(*points), marker="o", color="tab:red")
    else:
        errors.text(0.5, 0.5, "no validation images", ha="center", va="center", transform=errors.transAxes)
    errors.set(xlabel="step", ylabel="validation error (%)")
    figure.savefig(path, dpi=100, format="png")
