"""Error against the number of labels, a curve for each kind of run: what unlabelled images save in labels."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullLocator

from swwae_zoo.config import RunConfig, read_run_recipe
from swwae_zoo.publish.trained import read_result
from swwae_zoo.training.figures import DPI, SWWAE_COLOUR, TERM_COLOURS, TWIN_COLOUR, lay_out
from swwae_zoo.training.places import rounds_in
from swwae_zoo.training.run_directory import RunDirectory
from swwae_zoo.training.trainer import lambdas_of
from swwae_zoo.utils.files import atomic_write, output_path, user_path
from swwae_zoo.utils.text import printable

__all__ = ["draw_label_curve"]

ALONE = "labelled images alone"


class Point(NamedTuple):
    """One net: the curve that it belongs to, number of its labels, and test (else validation) error in %."""

    curve: str
    labels: int
    error: float


def draw_label_curve(places: Sequence[str | Path], out: str | Path) -> Path:
    """Draws a picture of the errors of finished runs over their number of labels; a line goes through the means.

    Args:
        places: runs of `swwae train` (all their rounds and twins), or the TARGET.json of `swwae reproduce`.
        out: PNG to write.

    Raises:
        ValueError: a place holds no finished run with an error, or there are fewer than two numbers of labels; `out`
            can't be written, or is a file of another kind.
    """
    path = output_path(out, (".png",))
    points = [point for place in places for point in _points_of(place)]
    counts = sorted({point.labels for point in points})
    if len(counts) < 2:
        raise ValueError(
            f"got runs with {counts[0]:,} labels alone: expected at least two numbers of labels, of runs with other "
            "--labels"
        )
    figure = Figure(figsize=(6, 4))
    axis = figure.subplots()
    colours = {"": TWIN_COLOUR}
    for curve in sorted({point.curve for point in points}):
        of_curve = [point for point in points if point.curve == curve]
        row = curve.removesuffix(ALONE).removesuffix(", ")  # a row and its twin have one colour
        colour = colours.setdefault(row, (SWWAE_COLOUR, *TERM_COLOURS)[(len(colours) - 1) % (1 + len(TERM_COLOURS))])
        at = sorted({point.labels for point in of_curve})
        means = [statistics.mean(point.error for point in of_curve if point.labels == count) for count in at]
        axis.plot(at, means, color=colour, label=curve, linestyle="--" if row != curve else "-")
        axis.scatter(*zip(*(point[1:] for point in of_curve), strict=True), color=colour, s=12)
    axis.set(xlabel="labels", ylabel="error (%)", xscale="log")
    axis.set_ylim(bottom=0)
    axis.set_xticks(counts)
    axis.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:,.0f}"))
    axis.xaxis.set_minor_locator(NullLocator())
    axis.grid(alpha=0.3)
    lay_out(figure)
    with atomic_write(path) as part:
        figure.savefig(part, dpi=DPI, format="png")
    return path


def _points_of(place: str | Path) -> Iterator[Point]:
    home = user_path(place)
    found = list(_of_table(home) if home.is_file() else _of_runs(home))
    if not found:
        raise ValueError(
            f"{printable(place)} holds no finished run with an error: expected the folder of `swwae train`"
        )
    yield from found


def _of_runs(home: Path) -> Iterator[Point]:
    for each in rounds_in(home) or [home]:
        result = read_result(each / "result.json") or {}
        error = next((result[key] for key in ("test_error", "val_error") if result.get(key) is not None), None)
        if error is not None:
            config = read_run_recipe(each / "config.toml")
            labels = config.num_labels or _all_labels(each)
            yield Point(_terms(config), labels, error)


def _all_labels(home: Path) -> int:
    """Number of labelled images of a run that took all of them, by run.json: of several rounds, by the one above."""
    for folder in (home, home.parent):
        found: Any = RunDirectory(folder, resume=True).read_json("run.json") or {}
        for key in ("data", "labeled", "images"):
            found = found.get(key) if isinstance(found, dict) else None
        if isinstance(found, int) and found > 0:
            return found
    raise ValueError(f"{printable(home / 'run.json')} does not say how many labels there were")


def _of_table(file: Path) -> Iterator[Point]:
    """Rows are told apart by their names, less the number of labels at the end."""
    try:
        records: list[dict[str, Any]] = json.loads(file.read_text(encoding="utf-8"))
        for each in records:
            labels = int(each["recipe"]["num_labels"])
            name = str(each["name"]).removesuffix(f"-{labels}") + (f", {ALONE}" if each["twin"] else "")
            error = each["val_error"] if each["test_error"] is None else each["test_error"]
            if error is not None and labels:
                yield Point(printable(name, 60), labels, float(error))
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"{printable(file)}: expected the TARGET.json of `swwae reproduce`") from error


def _terms(config: RunConfig) -> str:
    """The terms of the loss beside the classifier's, in words."""
    others = [term.label.partition(",")[0] for term in lambdas_of(config).active if term.name != "nll"]
    return f"+ {' + '.join(others)}" if others else ALONE
