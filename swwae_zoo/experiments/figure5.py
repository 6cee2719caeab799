"""Figure 5: validation error over lambda, with lambda_rec = lambda_middle and no other regulariser."""

from __future__ import annotations

import statistics
from dataclasses import replace

from matplotlib.figure import Figure

from swwae_zoo.config import read_recipe
from swwae_zoo.experiments.pages import mean_and_spread, table_lines, write_page
from swwae_zoo.experiments.paper import LABELS, TableRow
from swwae_zoo.experiments.runs import ExperimentSettings, read_records, rounds_of, run_once
from swwae_zoo.experiments.tables import chosen_rows
from swwae_zoo.utils.files import atomic_write

__all__ = ["figure5"]

LAMBDAS = {"mnist": (0.0, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0), "svhn": (0.0, 0.1, 0.2, 0.4, 0.8, 1.6)}
CURVES = (
    *(TableRow(f"mnist-{labels}", f"MNIST, N = {labels}", "fig5_mnist", None) for labels in LABELS),
    TableRow("svhn-1000", "SVHN, N = 1000", "fig5_svhn", None),
)
Curve = dict[float, list[float]]  # lambda -> validation error (%) of each round


def figure5(settings: ExperimentSettings, rows: str = "") -> None:
    """Trains each row that was asked for at each lambda, in each round; writes fig5.json, fig5.md and fig5.png."""
    for row in chosen_rows(CURVES, rows):
        data, _, labels = row.key.partition("-")
        recipe = replace(read_recipe(row.recipe), num_labels=int(labels))
        for run, _ in rounds_of(recipe, settings):
            for value in LAMBDAS[data]:
                point = replace(run, lambda_rec=value, lambda_middle=value)
                run_once(point, f"{row.key}-lambda{value:g}", settings)
            write(settings)
    write(settings)


def write(settings: ExperimentSettings) -> None:
    """The page and the picture of everything done so far."""
    curves = {row: curve(row, settings) for row in CURVES}
    lines = [
        "# Figure 5: validation error (%) over λ, lambda_rec = lambda_middle = λ, no other regulariser",
        "",
        "Mean ± standard deviation over rounds. The paper prints a plot without numbers.",
    ]
    for row, points in curves.items():
        if not points:
            lines += ["", f"{row.label}: not run here"]
            continue
        rounds = len(next(iter(points.values())))
        cells = [f"{rounds} rounds", *map(mean_and_spread, points.values())]
        lines += ["", *table_lines([row.label, *(f"λ = {value:g}" for value in points)], [cells])]
    write_page(settings, "fig5", lines)
    with atomic_write(settings.out / "fig5.png") as part:
        draw(curves).savefig(part, dpi=100, format="png")


def curve(row: TableRow, settings: ExperimentSettings) -> Curve:
    """Validation errors of one row's runs, by lambda."""
    found: Curve = {}
    for record in read_records(settings):
        if record["name"].startswith(f"{row.key}-lambda"):
            found.setdefault(record["lambda_rec"], []).append(record["val_error"])
    return dict(sorted(found.items()))


def draw(curves: dict[TableRow, Curve]) -> Figure:
    """MNIST on the left, SVHN on the right, one curve for each number of labels."""
    figure = Figure(figsize=(10, 4), layout="constrained")
    for panel, data, title in zip(figure.subplots(1, 2), LAMBDAS, ("(a) MNIST", "(b) SVHN"), strict=True):
        for row, points in curves.items():
            if row.key.startswith(data) and points:
                means = [statistics.mean(errors) for errors in points.values()]
                spreads = [statistics.stdev(errors) if len(errors) > 1 else 0.0 for errors in points.values()]
                panel.errorbar(list(points), means, spreads, marker="o", capsize=3, label=row.label)
        panel.set(title=title, xlabel="λ of L2rec and of L2M", ylabel="validation error (%)")
        if panel.get_legend_handles_labels()[0]:
            panel.set_xscale("symlog", linthresh=min(value for value in LAMBDAS[data] if value))
            panel.set_ylim(bottom=0)
            panel.grid(alpha=0.3)
            panel.legend()
        else:
            panel.text(0.5, 0.5, "not run here", ha="center", va="center", transform=panel.transAxes)
            panel.set(xticks=[], yticks=[])
    return figure
