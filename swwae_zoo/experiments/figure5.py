"""Figure 5: validation error over lambda, where lambda_rec = lambda_middle and no other regulariser is used."""

from __future__ import annotations

import statistics
from dataclasses import replace
from typing import Any

from matplotlib.figure import Figure

from swwae_zoo.config import RunConfig, read_recipe
from swwae_zoo.experiments.rows import LABELS, Row
from swwae_zoo.experiments.runs import Setting, keep, read_records, rounds_of, run_once, write_all, write_text
from swwae_zoo.experiments.study import search
from swwae_zoo.experiments.tables import chosen_rows
from swwae_zoo.utils.files import atomic_write

__all__ = ["figure5"]

GRIDS = {"mnist": (0.0, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0), "svhn": (0.0, 0.1, 0.2, 0.4, 0.8, 1.6)}
ROWS = tuple(Row(f"mnist-{labels}", f"MNIST, N = {labels}", "fig5_mnist", None) for labels in LABELS) + (
    Row("svhn-1000", "SVHN, N = 1000", "fig5_svhn", None),
)


def figure5(setting: Setting, rows: str = "") -> None:
    """Trains every row asked for at every lambda of its grid, in each round; writes fig5.json, fig5.md and fig5.png."""
    for row in chosen_rows(ROWS, rows):
        data, _, labels = row.key.partition("-")
        recipe = setting.applied_to(replace(read_recipe(row.recipe), num_labels=int(labels)))
        points = [{"lambda": value, "seed": recipe.seed + i} for i in range(recipe.rounds) for value in GRIDS[data]]
        for record in search(
            row.key, points, lambda point, row=row, recipe=recipe: _run(row, recipe, point, setting), setting
        ):
            keep(record, setting)
        write(setting)
    write(setting)


def _run(row: Row, recipe: RunConfig, point: dict[str, float], setting: Setting) -> dict[str, Any]:
    """One round at one lambda."""
    config = replace(recipe, seed=int(point["seed"]), lambda_rec=point["lambda"], lambda_middle=point["lambda"])
    name = f"{row.key}-lambda{point['lambda']:g}"
    run, _ = next(rounds_of(config, name, replace(setting, rounds=1), twin=False))
    return run_once(run, name, setting)


def write(setting: Setting) -> None:
    write_all(setting, "fig5")
    curves = {row: curve(row, setting) for row in ROWS}
    lines = [
        "# Figure 5: validation error (%) over λ, lambda_rec = lambda_middle = λ, no other regulariser",
        "",
        "Mean ± standard deviation over rounds. The paper prints a plot without numbers.",
        "",
    ]
    for row, points in curves.items():
        lines += (
            [
                f"| {row.label} | " + " | ".join(f"λ = {value:g}" for value in points) + " |",
                "|---|" + "---|" * len(points),
            ]
            if points
            else []
        )
        cells = [f"{mean:.2f}" + (f" ± {spread:.2f}" if count > 1 else "") for mean, spread, count in points.values()]
        lines += (
            [f"| {points[next(iter(points))][2]} rounds | " + " | ".join(cells) + " |", ""]
            if points
            else [f"{row.label}: not run here", ""]
        )
    if setting.quick:
        lines += ["A quick check: these are no results.", ""]
    write_text(setting, "fig5.md", "\n".join(lines))
    with atomic_write(setting.out / "fig5.png") as part:
        draw(curves).savefig(part, dpi=100, format="png")


def curve(row: Row, setting: Setting) -> dict[float, tuple[float, float, int]]:
    """lambda -> mean, sample standard deviation (0 for one round) and number of rounds of the validation error."""
    found: dict[float, list[float]] = {}
    for record in read_records(setting):
        if record["name"].startswith(f"{row.key}-lambda"):
            found.setdefault(record["lambda_rec"], []).append(record["val_error"])
    return {
        value: (statistics.mean(e), statistics.stdev(e) if len(e) > 1 else 0.0, len(e))
        for value, e in sorted(found.items())
    }


def draw(curves: dict[Row, dict[float, tuple[float, float, int]]]) -> Figure:
    """MNIST on the left, SVHN on the right, a curve for each number of labels."""
    figure = Figure(figsize=(10, 4), layout="constrained")
    for panel, data in zip(figure.subplots(1, 2), GRIDS, strict=False):
        for row, points in curves.items():
            if row.key.startswith(data) and points:
                means, spreads, _ = zip(*points.values(), strict=False)
                panel.errorbar(list(points), means, spreads, marker="o", capsize=3, label=row.label)
        panel.set(
            title={"mnist": "(a) MNIST", "svhn": "(b) SVHN"}[data],
            xlabel="λ of L2rec and of L2M",
            ylabel="validation error (%)",
        )
        if panel.get_legend_handles_labels()[0]:
            panel.set_xscale("symlog", linthresh=min(value for value in GRIDS[data] if value))
            panel.set_ylim(bottom=0)
            panel.grid(alpha=0.3)
            panel.legend()
        else:
            panel.text(0.5, 0.5, "not run here", ha="center", va="center", transform=panel.transAxes)
            panel.set(xticks=[], yticks=[])
    return figure
