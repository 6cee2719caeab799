"""Figure 2: what the where is worth.  Reconstructions by unpooling and by upsampling, for pools of 2, 4, 8, 16."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from swwae_zoo.analysis.load import load_saved
from swwae_zoo.config import RunConfig, read_recipe
from swwae_zoo.data import load_images
from swwae_zoo.experiments.grids import draw_blocks, one_of_each_class
from swwae_zoo.experiments.runs import Setting, rounds_of, run_once, write_all, write_text
from swwae_zoo.training.figures import reconstruct
from swwae_zoo.utils.files import atomic_write

__all__ = ["figure2"]

WINDOWS = (2, 4, 8, 16)
KINDS = {"upsample": "upsampling", "switch": "unpooling"}  # left and right, as in the paper


def figure2(setting: Setting) -> None:
    """Trains both kinds for each window; writes fig2.json, fig2.md and fig2.png."""
    recipe = read_recipe("fig2")
    done: dict[tuple[int, str], list[dict[str, Any]]] = {}
    folders: dict[tuple[int, str], str] = {}
    for window in WINDOWS:
        for kind in KINDS:
            name = f"{kind}-{window}"
            for run, _ in rounds_of(variant(recipe, window, kind), name, setting, twin=False):
                done.setdefault((window, kind), []).append(run_once(run, name, setting, window=window, unpool=kind))
                folders.setdefault((window, kind), run.out)
                write_all(setting, "fig2")
    write_text(setting, "fig2.md", table(done, setting))
    draw(recipe, folders, setting)


def variant(recipe: RunConfig, window: int, kind: str) -> RunConfig:
    """The recipe, which is that of window 2 with its where, for another window or without the where."""
    notation = str(recipe.model_args["notation"]).replace("2p", f"{window}p")
    return replace(recipe, model_args={**recipe.model_args, "notation": notation, "unpool": kind})


def table(done: dict[tuple[int, str], list[dict[str, Any]]], setting: Setting) -> str:
    """Mean squared error a pixel on test images, and how many times smaller it is with the where."""
    lines = [
        "# Figure 2: reconstruction with and without the where",
        "",
        'Mean squared error a pixel (0 to 1) on the test images; the paper shows pictures alone, "obviously clearer".',
        "",
        "| pool | unpooling (with where) | upsampling (without) | with / without | rounds |",
        "|---|---|---|---|---|",
    ]
    for window in WINDOWS:
        with_where, without = ([r["test_rec"] for r in done[window, kind]] for kind in ("switch", "upsample"))
        means = [sum(values) / len(values) for values in (with_where, without)]
        lines.append(
            f"| {window}×{window} | {means[0]:.5f} | {means[1]:.5f} | {means[0] / means[1]:.3f} | {len(with_where)} |"
        )
    if setting.quick:
        lines += ["", "A quick check: these are no results."]
    return "\n".join(lines) + "\n"


def draw(recipe: RunConfig, folders: dict[tuple[int, str], str], setting: Setting) -> None:
    """One digit of each class from the test images; the first round's nets."""
    test = load_images(recipe.data, "test", data_dir=recipe.data_dir or None)
    shown = test.images[one_of_each_class(test.labels)]
    rows, prepared = [], torch.empty(0)
    for window in WINDOWS:
        blocks = []
        for kind in KINDS:
            saved = load_saved(folders[window, kind], "last")
            prepared = saved.prepare(shown)
            blocks.append(reconstruct(saved.model, prepared))
        rows.append((f"{window}×{window} pool", blocks))
    with atomic_write(setting.out / "fig2.png") as part:
        draw_blocks(part, [("input", [prepared] * 2), *rows], list(KINDS.values()))
