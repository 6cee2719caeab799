"""Figures 3 and 4: the what stays while the image moves, the where moves with it; and the nets reconstruct."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from torch import Tensor

from swwae_zoo.analysis.load import Saved, load_saved
from swwae_zoo.config import RunConfig, read_recipe
from swwae_zoo.data import load_images
from swwae_zoo.experiments import shifts
from swwae_zoo.experiments.grids import draw_blocks, one_of_each_class
from swwae_zoo.experiments.runs import Setting, rounds_of, run_once, write_all, write_text
from swwae_zoo.experiments.shifts import SHIFTS, Response
from swwae_zoo.training.figures import reconstruct
from swwae_zoo.utils.files import atomic_write

__all__ = ["figure3", "figure4"]

POOLS = ("soft", "hard")
MEASURED, DRAWN = 1000, 100  # test images


def figure3(setting: Setting) -> None:
    """Trains a net with soft and one with hard pools; writes fig3.json, fig3.md and fig3-soft.png, fig3-hard.png."""
    recipe = read_recipe("fig3")
    test = load_images(recipe.data, "test", data_dir=recipe.data_dir or None)
    measured: dict[str, dict[str, Any]] = {}
    for pool, saved in trained(recipe, setting, "fig3").items():
        responses = {axis: shifts.respond(saved, test.first(MEASURED), axis) for axis in "xy"}
        measured[pool] = numbers(saved, responses)
        plane = int(responses["x"].what[SHIFTS.index(0)].mean(0).argmax())
        with atomic_write(setting.out / f"fig3-{pool}.png") as part:
            scatter(part, responses, plane, pool)
    write_all(setting, "fig3")
    write_text(setting, "fig3.md", table(measured, setting))


def figure4(setting: Setting) -> None:
    """Reconstructions by the nets of Figure 3, of digits and of digits moved sideways; writes fig4-soft.png, fig4-hard.png."""
    recipe = read_recipe("fig3")
    test = load_images(recipe.data, "test", data_dir=recipe.data_dir or None)
    shown = test.images[one_of_each_class(test.labels, 2)]
    for pool, saved in trained(recipe, setting, "fig4").items():
        x = saved.prepare(shown)
        rows = [("input", x), ("reconstruction", reconstruct(saved.model, x))]
        rows += [(f"moved by {shift:+d}", reconstruct(saved.model, shifts.shifted(x, shift, 0))) for shift in (3, -3)]
        with atomic_write(setting.out / f"fig4-{pool}.png") as part:
            draw_blocks(part, [(name, [images]) for name, images in rows], [f"{pool} pooling"])


def trained(recipe: RunConfig, setting: Setting, target: str) -> dict[str, Saved]:
    """The first round's net of each kind of pool."""
    nets: dict[str, Saved] = {}
    for pool in POOLS:
        config = replace(recipe, model_args={**recipe.model_args, "pool": pool})
        for run, _ in rounds_of(config, pool, setting, twin=False):
            run_once(run, pool, setting, pool=pool)
            write_all(setting, target)
            nets.setdefault(pool, load_saved(run.out, "last"))
    return nets


def numbers(saved: Saved, responses: dict[str, Response]) -> dict[str, Any]:
    """Lines of both coordinates for both directions, and how far the what stays."""
    reduction = saved.model.feature_info[-1]["reduction"] // saved.model.stages[-1].pool_size
    pixels = (saved.model.stages[-1].pool_size - 1) * reduction
    lines = {
        axis + along: shifts.line(responses[axis], "xy".index(along), pixels, axis == along)
        for axis in "xy"
        for along in "xy"
    }
    return {
        "lines": lines,
        "change": {axis: shifts.stability(responses[axis]) for axis in "xy"},
        "agreement": {axis: shifts.agreement(responses[axis]) for axis in "xy"},
        "active": {axis: float(shifts.active(responses[axis]).float().mean()) for axis in "xy"},
    }


def table(measured: dict[str, dict[str, Any]], setting: Setting) -> str:
    """Slopes, R2 and stability as markdown."""
    names = {"x": "to the right", "y": "down"}
    lines = [
        "# Figure 3: what and where of moved digits, in numbers",
        "",
        f"Of the topmost pool, one 16×16 window, on {MEASURED} test digits moved by {SHIFTS[0]} … {SHIFTS[-1]} pixels. The where runs from "
        "-1 to 1 over the window; its slope is that of a line through where(shift) - where(0) of every active plane of every digit "
        "(what at least a tenth of the digit's largest at every shift). Ideal: it moves as the digit does.",
        "",
        "| pool | moved | coordinate | slope | ideal | slope / ideal | R² | active planes |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for pool, found in measured.items():
        for key, fit in found["lines"].items():
            ratio, r2 = (f"{fit.slope / fit.ideal:.2f}", f"{fit.r2:.2f}") if fit.ideal else ("–", "–")
            lines.append(
                f"| {pool} | {names[key[0]]} | {key[1]} | {fit.slope:+.4f} | {fit.ideal:.4f} | {ratio} | {r2} | {found['active'][key[0]]:.0%} |"
            )
    lines += [
        "",
        "How far the what stays: |what(shift) - what(0)| / |what(0)|, mean over digits; and the correlation of what(±3) with what(0).",
        "",
        "| pool | moved | " + " | ".join(f"{shift:+d}" for shift in SHIFTS if shift) + " | correlation |",
        "|---|---|" + "---|" * len(SHIFTS),
    ]
    for pool, found in measured.items():
        for axis, change in found["change"].items():
            cells = " | ".join(f"{value:.3f}" for shift, value in change.items() if shift)
            lines.append(f"| {pool} | {names[axis]} | {cells} | {found['agreement'][axis]:.3f} |")
    if setting.quick:
        lines += ["", "A quick check: these are no results."]
    return "\n".join(lines) + "\n"


def scatter(path: Path, responses: dict[str, Response], plane: int, pool: str) -> None:
    """The paper's four panels: what and where of one plane, moved digits over unmoved ones, sideways and up and down."""
    figure = Figure(figsize=(15, 5.0), layout="constrained")
    panels = figure.subplots(1, 4)
    titles = (
        "(a) what, moved sideways",
        "(b) where, moved sideways",
        "(c) what, moved up and down",
        "(d) where, moved up and down",
    )
    for i, (axis, kind) in enumerate((axis, kind) for axis in "xy" for kind in ("what", "where")):
        panel, response = panels[i], responses[axis]
        for shift, marker in ((3, "o"), (-3, "^")):
            if kind == "what":
                _points(panel, response.what[..., plane], shift, marker, "tab:blue", f"{shift:+d} pixels")
            else:
                for along, colour in ((0, "tab:blue"), (1, "tab:red")):
                    _points(
                        panel,
                        response.where[..., plane, along],
                        shift,
                        marker,
                        colour,
                        f"{'xy'[along]}, {shift:+d} pixels",
                    )
        low, high = (min(panel.get_xlim()[0], panel.get_ylim()[0]), max(panel.get_xlim()[1], panel.get_ylim()[1]))
        panel.plot([low, high], [low, high], color="tab:grey", linewidth=0.8, zorder=0)
        panel.set(
            title=titles[i],
            xlabel="unmoved digit",
            ylabel="moved digit",
            xlim=(low, high),
            ylim=(low, high),
            aspect="equal",
        )
        panel.legend(fontsize="small", loc="upper center", bbox_to_anchor=(0.5, -0.15), ncol=2)
    figure.suptitle(f"{pool} pooling, plane {plane}")
    figure.savefig(path, dpi=100, format="png")


def _points(panel: Any, values: Tensor, shift: int, marker: str, colour: str, label: str) -> None:
    """One point a digit: its value unmoved and moved."""
    panel.scatter(
        values[SHIFTS.index(0), :DRAWN],
        values[SHIFTS.index(shift), :DRAWN],
        s=14,
        marker=marker,
        facecolors="none",
        edgecolors=colour,
        linewidths=0.8,
        label=label,
    )
