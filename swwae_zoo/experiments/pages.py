"""The markdown page of a target: tables, means with their spread, and the note of a quick check."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence

from swwae_zoo.experiments.runs import ExperimentSettings, write_records
from swwae_zoo.utils.files import atomic_write

__all__ = ["mean_and_spread", "table_lines", "write_page"]


def mean_and_spread(values: Sequence[float | None], spread: float | None = None) -> str:
    """ "8.71 ± 0.34": mean and sample standard deviation; "" without values.

    Args:
        spread: standard deviation to print for a single value.
    """
    known = [value for value in values if value is not None]
    if not known:
        return ""
    spread = statistics.stdev(known) if len(known) > 1 else spread
    return f"{statistics.mean(known):.2f}" + (f" ± {spread:.2f}" if spread is not None else "")


def table_lines(header: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """A markdown table, a line for each row."""
    return [f"| {' | '.join(header)} |", "|" + "---|" * len(header), *(f"| {' | '.join(row)} |" for row in rows)]


def write_page(settings: ExperimentSettings, target: str, lines: Sequence[str]) -> None:
    """Writes OUT/TARGET.md with these lines, and OUT/TARGET.json with all records."""
    write_records(settings, target)
    note = ["", "A quick check: these are no results."] if settings.quick else []
    with atomic_write(settings.out / f"{target}.md") as part:
        part.write_text("\n".join([*lines, *note]) + "\n", encoding="utf-8")
