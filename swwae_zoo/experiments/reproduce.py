"""`reproduce`: what `swwae reproduce` does, for each of the paper's figures and tables."""

from __future__ import annotations

import difflib

from swwae_zoo.experiments.figure2 import figure2
from swwae_zoo.experiments.figure3 import figure3, figure4
from swwae_zoo.experiments.figure5 import figure5
from swwae_zoo.experiments.paper import TABLES, TARGETS
from swwae_zoo.experiments.runs import ExperimentSettings
from swwae_zoo.experiments.tables import reproduce_table
from swwae_zoo.training.signals import Stopped

__all__ = ["reproduce"]


def reproduce(target: str, settings: ExperimentSettings, rows: str = "") -> None:
    """Runs what is not done yet, and writes records, table and picture into ``settings.out``.

    Args:
        target: one of TARGETS.
        rows: patterns of rows, for tables and Figure 5.

    Raises:
        Stopped: by a signal; everything done is saved.
        ValueError: an unknown target or row, rows where there are none, missing data, and what runs raise.
    """
    if target not in TARGETS:
        near = difflib.get_close_matches(target, TARGETS, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise ValueError(f"got {target!r}{hint}; expected one of {', '.join(TARGETS)}")
    try:
        if target in TABLES:
            reproduce_table(target, settings, rows)
        elif target == "fig5":
            figure5(settings, rows)
        elif rows:
            raise ValueError(f"rows: got {rows!r}, but {target} has no rows: leave it out")
        else:
            {"fig2": figure2, "fig3": figure3, "fig4": figure4}[target](settings)
    except Stopped as stop:
        raise Stopped(
            f"stopped; {settings.out} holds what is done; the same command resumes it", stop.exit_code - 128
        ) from None
