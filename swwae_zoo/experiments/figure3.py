"""Figures 3 and 4: the what stays while the image moves, the where moves with it; and what the nets reconstruct."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from torch import Tensor

from swwae_zoo.analysis.load import Trained, load
from swwae_zoo.config import RunConfig, read_recipe
from swwae_zoo.experiments import shifts
from swwae_zoo.experiments.grids import draw_blocks, one_of_each_class, read_test_images
from swwae_zoo.experiments.pages import table_lines, write_page
from swwae_zoo.experiments.runs import ExperimentSettings, rounds_of, run_folder, run_once, write_records
from swwae_zoo.experiments.shifts import SHIFTS, Response
from swwae_zoo.training.figures import reconstruct
from swwae_zoo.utils.files import atomic_write

__all__ = ["figure3", "figure4"]

MEASURED, DRAWN = 1000, 100  # test images
DIRECTIONS = {"x": "to the right", "y": "down"}


def figure3(settings: ExperimentSettings) -> None:
    """Trains one net with soft and one with hard pools; writes fig3.json, fig3.md, fig3-soft.png and fig3-hard.png."""
    recipe = read_recipe("fig3")
    images = read_test_images(recipe)[0][:MEASURED]
    measured: dict[str, dict[str, Any]] = {}
    for pool, saved in trained(recipe, settings).items():
        responses = {axis: shifts.respond(saved, images, axis) for axis in DIRECTIONS}
        measured[pool] = numbers(saved, responses)
        plane = int(responses["x"].what[SHIFTS.index(0)].mean(0).argmax())
        with atomic_write(settings.out / f"fig3-{pool}.png") as part:
            scatter(part, responses, plane, pool)
    write_page(settings, "fig3", page(measured))


def figure4(settings: ExperimentSettings) -> None:
    """Reconstructs digits, also moved sideways, with the nets of Figure 3; writes fig4-soft.png and fig4-hard.png."""
    recipe = read_recipe("fig3")
    shown = one_of_each_class(*read_test_images(recipe), each=2)
    for pool, saved in trained(recipe, settings).items():
        x = saved.prepare(shown)
        rows = [("input", x), ("reconstruction", reconstruct(saved.model, x))]
        rows += [(f"moved by {shift:+d}", reconstruct(saved.model, shifts.shifted(x, shift, 0))) for shift in (3, -3)]
        with atomic_write(settings.out / f"fig4-{pool}.png") as part:
            draw_blocks(part, [(name, [images]) for name, images in rows], [f"{pool} pooling"])
    write_records(settings, "fig4")


def trained(recipe: RunConfig, settings: ExperimentSettings) -> dict[str, Trained]:
    """The first round's net for each kind of pool."""
    nets: dict[str, Trained] = {}
    for pool in ("soft", "hard"):
        for run, _ in rounds_of(replace(recipe, model_args={**recipe.model_args, "pool": pool}), settings):
            run_once(run, pool, settings, pool=pool)
        nets[pool] = load(run_folder(settings, pool, recipe.seed), "last", "cpu")
    return nets


def numbers(saved: Trained, responses: dict[str, Response]) -> dict[str, Any]:
    """The lines of both coordinates for both directions, and how much the what changes."""
    model: Any = saved.model
    window = model.stages[-1].pool_size
    pixels = (window - 1) * (model.feature_info[-1]["reduction"] // window)
    lines = {
        axis + along: shifts.line(responses[axis], "xy".index(along), pixels, axis == along)
        for axis in DIRECTIONS
        for along in DIRECTIONS
    }
    return {
        "lines": lines,
        "change": {axis: shifts.stability(responses[axis]) for axis in DIRECTIONS},
        "agreement": {axis: shifts.agreement(responses[axis]) for axis in DIRECTIONS},
        "active": {axis: float(shifts.active(responses[axis]).float().mean()) for axis in DIRECTIONS},
    }


def page(measured: dict[str, dict[str, Any]]) -> list[str]:
    """Slopes, R² and how much the what changes, as markdown."""
    slopes, changes = [], []
    for pool, found in measured.items():
        for (axis, along), fit in found["lines"].items():
            ratio, r2 = (f"{fit.slope / fit.ideal:.2f}", f"{fit.r2:.2f}") if fit.ideal else ("–", "–")
            active = f"{found['active'][axis]:.0%}"
            slopes.append((pool, DIRECTIONS[axis], along, f"{fit.slope:+.4f}", f"{fit.ideal:.4f}", ratio, r2, active))
        for axis, change in found["change"].items():
            cells = (f"{value:.3f}" for shift, value in change.items() if shift)
            changes.append((pool, DIRECTIONS[axis], *cells, f"{found['agreement'][axis]:.3f}"))
    return [
        "# Figure 3: what and where of moved digits, in numbers",
        "",
        f"Topmost pool, one 16×16 window, on {MEASURED} test digits moved by {SHIFTS[0]} … {SHIFTS[-1]} pixels. "
        "The where runs from -1 to 1 over the window; its slope is that of a line through where(shift) - where(0) of "
        "every active plane of every digit (active: its what is at least a tenth of the digit's largest at every "
        "shift). Ideal: the where moves as the digit does.",
        "",
        *table_lines(("pool", "moved", "coordinate", "slope", "ideal", "slope / ideal", "R²", "active planes"), slopes),
        "",
        "How much the what changes: |what(shift) - what(0)| / |what(0)|, mean over digits; and the correlation of "
        "what(±3) with what(0).",
        "",
        *table_lines(("pool", "moved", *(f"{shift:+d}" for shift in SHIFTS if shift), "correlation"), changes),
    ]


def scatter(path: Path, responses: dict[str, Response], plane: int, pool: str) -> None:
    """The paper's four panels: what and where of one plane, moved digits over unmoved ones."""
    figure = Figure(figsize=(15, 5.0), layout="constrained")
    panels = figure.subplots(1, 4)
    for panel, letter, (axis, kind) in zip(
        panels, "abcd", ((axis, kind) for axis in "xy" for kind in ("what", "where")), strict=True
    ):
        response = responses[axis]
        for shift, marker in ((3, "o"), (-3, "^")):
            if kind == "what":
                points(panel, response.what[..., plane], shift, marker, "tab:blue", f"{shift:+d} pixels")
                continue
            for along, colour in enumerate(("tab:blue", "tab:red")):
                label = f"{'xy'[along]}, {shift:+d} pixels"
                points(panel, response.where[..., plane, along], shift, marker, colour, label)
        low, high = (min(panel.get_xlim()[0], panel.get_ylim()[0]), max(panel.get_xlim()[1], panel.get_ylim()[1]))
        panel.plot([low, high], [low, high], color="tab:grey", linewidth=0.8, zorder=0)
        panel.set(
            title=f"({letter}) {kind}, moved {'sideways' if axis == 'x' else 'up and down'}",
            xlabel="unmoved digit",
            ylabel="moved digit",
            xlim=(low, high),
            ylim=(low, high),
            aspect="equal",
        )
        panel.legend(fontsize="small", loc="upper center", bbox_to_anchor=(0.5, -0.15), ncol=2)
    figure.suptitle(f"{pool} pooling, plane {plane}")
    figure.savefig(path, dpi=100, format="png")


def points(panel: Any, values: Tensor, shift: int, marker: str, colour: str, label: str) -> None:
    """One point for each digit: its value unmoved and moved."""
    unmoved, moved = (values[SHIFTS.index(each), :DRAWN] for each in (0, shift))
    panel.scatter(
        unmoved, moved, s=14, marker=marker, facecolors="none", edgecolors=colour, linewidths=0.8, label=label
    )
