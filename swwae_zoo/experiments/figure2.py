"""Figure 2: what the where is worth. Reconstructions by unpooling and by upsampling, for pools of 2, 4, 8 and 16."""

from __future__ import annotations

import statistics
from dataclasses import replace
from typing import Any

import torch

from swwae_zoo.analysis.load import load
from swwae_zoo.config import RunConfig, read_recipe
from swwae_zoo.experiments.grids import draw_blocks, one_of_each_class, read_test_images
from swwae_zoo.experiments.pages import table_lines, write_page
from swwae_zoo.experiments.runs import ExperimentSettings, rounds_of, run_folder, run_once
from swwae_zoo.training.figures import reconstruct
from swwae_zoo.utils.files import atomic_write

__all__ = ["figure2"]

WINDOWS = (2, 4, 8, 16)
UNPOOLINGS = {"upsample": "upsampling", "switch": "unpooling"}  # left and right, as in the paper


def figure2(settings: ExperimentSettings) -> None:
    """Trains a net with and without the where for each window; writes fig2.json, fig2.md and fig2.png."""
    recipe = read_recipe("fig2")
    errors: dict[tuple[int, str], list[float]] = {}
    for window in WINDOWS:
        for unpool in UNPOOLINGS:
            for run, _ in rounds_of(variant(recipe, window, unpool), settings):
                record = run_once(run, f"{unpool}-{window}", settings, window=window, unpool=unpool)
                errors.setdefault((window, unpool), []).append(record["test_rec"])
    write_page(settings, "fig2", page(errors))
    draw(recipe, settings)


def variant(recipe: RunConfig, window: int, unpool: str) -> RunConfig:
    """The recipe, written for a window of 2 with its where, for another window or without the where."""
    notation = str(recipe.model_args["notation"]).replace("2p", f"{window}p")
    args: dict[str, Any] = {**recipe.model_args, "notation": notation, "unpool": unpool}
    return replace(recipe, model_args=args)


def page(errors: dict[tuple[int, str], list[float]]) -> list[str]:
    """Mean squared error per pixel on test images, and the error with the where over that without."""
    rows = []
    for window in WINDOWS:
        with_where, without = (statistics.mean(errors[window, unpool]) for unpool in ("switch", "upsample"))
        ratio, rounds = f"{with_where / without:.3f}", str(len(errors[window, "switch"]))
        rows.append((f"{window}×{window}", f"{with_where:.5f}", f"{without:.5f}", ratio, rounds))
    return [
        "# Figure 2: reconstruction with and without the where",
        "",
        'Mean squared error per pixel (0 to 1) on the test images; the paper shows pictures only, "obviously clearer".',
        "",
        *table_lines(("pool", "unpooling (with where)", "upsampling (without)", "with / without", "rounds"), rows),
    ]


def draw(recipe: RunConfig, settings: ExperimentSettings) -> None:
    """One test digit of each class, reconstructed by the first round's nets."""
    shown = one_of_each_class(*read_test_images(recipe))
    rows, prepared = [], torch.empty(0)
    for window in WINDOWS:
        blocks = []
        for unpool in UNPOOLINGS:
            saved = load(run_folder(settings, f"{unpool}-{window}", recipe.seed), "last", "cpu")
            prepared = saved.prepare(shown)
            blocks.append(reconstruct(saved.model, prepared))
        rows.append((f"{window}×{window} pool", blocks))
    with atomic_write(settings.out / "fig2.png") as part:
        draw_blocks(part, [("input", [prepared] * 2), *rows], list(UNPOOLINGS.values()))
