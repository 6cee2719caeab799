"""The picture of a search: error over trials, and each parameter against the error."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator, StrMethodFormatter

from swwae_zoo.experiments.ranges import Range

__all__ = ["draw_search"]

DPI, COLUMNS = 100, 4
DONE, EARLY, BEST = "tab:blue", "0.65", "tab:orange"


class Record(Protocol):
    """A trial as the picture needs it."""

    @property
    def number(self) -> int: ...
    @property
    def state(self) -> str: ...
    @property
    def val_error(self) -> float | None: ...
    @property
    def values(self) -> dict[str, float]: ...


def draw_search(path: Path, records: Sequence[Record], space: Sequence[Range]) -> None:
    """One panel with the errors over trials, and one for each parameter.

    Args:
        path: PNG to write.
        records: in the order of their numbers.
        space: what was searched.
    """
    rows = math.ceil(len(space) / COLUMNS)
    width, height = 11, 3.5 + 2.7 * rows
    figure = Figure(figsize=(width, height))
    figure.subplots_adjust(0.7 / width, 0.5 / height, 1 - 0.3 / width, 1 - 0.4 / height, wspace=0.25, hspace=0.3)
    grid = figure.add_gridspec(1 + rows, COLUMNS, height_ratios=[1.25] + [1] * rows)
    judged = [record for record in records if record.val_error is not None]
    done = [record for record in judged if record.state == "done"]
    early = [record for record in judged if record.state != "done"]
    best = min(done, key=lambda record: (_error(record), record.number), default=None)
    top = max(map(_error, done), default=None)

    over = figure.add_subplot(grid[0, :])
    _points(over, [r.number for r in done], [_error(r) for r in done], [r.number for r in early], early, best)
    lowest, course = math.inf, []
    for record in done:
        lowest = min(lowest, _error(record))
        course.append(lowest)
    over.step([r.number for r in done], course, where="post", color=BEST, linewidth=1, label="best so far")
    failed = [record.number for record in records if record.state == "failed"]
    for i, number in enumerate(failed):
        over.axvline(number, color="tab:red", linestyle=":", linewidth=1, label="failed" if i == 0 else None)
    over.set(xlabel="trial", ylabel="validation error (%)")
    over.xaxis.set_major_locator(MaxNLocator(integer=True))
    if over.get_legend_handles_labels()[0]:
        over.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=5, frameon=False)
    for place, one in enumerate(space):
        axis = figure.add_subplot(grid[1 + place // COLUMNS, place % COLUMNS])
        mine = [record for record in done if one.key in record.values]
        others = [record for record in early if one.key in record.values]
        _points(
            axis,
            [r.values[one.key] for r in mine],
            [_error(r) for r in mine],
            [r.values[one.key] for r in others],
            others,
            best,
            one.key,
        )
        axis.set(xlabel=one.key.removeprefix("model_args."), ylabel="error (%)" if place % COLUMNS == 0 else "")
        if one.log:
            axis.set_xscale("log")
            if one.high / one.low <= 10:  # powers of ten alone would be too few
                axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
                axis.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
                axis.xaxis.set_minor_locator(NullLocator())
        axis.set_xlim(*_with_margin(one))
    for axis in figure.axes:
        axis.grid(alpha=0.3)
        if top is not None:  # a run that was stopped early may lie far above all that finished
            low = min(map(_error, done))
            axis.set_ylim(max(0.0, low - 0.1 * (top - low) - 0.2), top + 0.15 * (top - low) + 0.2)
    figure.savefig(path, dpi=DPI, format="png")


def _error(record: Record) -> float:
    return math.nan if record.val_error is None else record.val_error


def _points(
    axis: Any,
    at: list[float] | list[int],
    errors: list[Any],
    early_at: list[float] | list[int],
    early: Sequence[Record],
    best: Record | None,
    key: str = "",
) -> None:
    if early:
        axis.scatter(early_at, [_error(r) for r in early], marker="x", s=22, color=EARLY, label="stopped early")
    if at:
        axis.scatter(at, errors, s=22, color=DONE, label="finished")
    if best is not None:
        place = best.values.get(key) if key else best.number
        if place is not None:
            axis.scatter([place], [best.val_error], marker="*", s=160, color=BEST, zorder=3, label="best")


def _with_margin(one: Range) -> tuple[float, float]:
    if one.log:
        factor = (one.high / one.low) ** 0.04
        return one.low / factor, one.high * factor
    margin = 0.04 * (one.high - one.low)
    return one.low - margin, one.high + margin
