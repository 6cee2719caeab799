"""`reproduce`: what `swwae reproduce` does, for any of the paper's figures and tables."""

from __future__ import annotations

import difflib

from swwae_zoo.experiments.figure2 import figure2
from swwae_zoo.experiments.figure3 import figure3, figure4
from swwae_zoo.experiments.figure5 import figure5
from swwae_zoo.experiments.runs import Setting
from swwae_zoo.experiments.tables import reproduce_table
from swwae_zoo.experiments.targets import TABLES, TARGETS
from swwae_zoo.training.signals import Stopped

__all__ = ["reproduce"]


def reproduce(target: str, setting: Setting, rows: str = "") -> None:
    """Does what is not done yet, and writes records, table and picture into ``setting.out``.

    Args:
        target: one of TARGETS.
        rows: patterns of rows, of tables and of Figure 5.

    Raises:
        Stopped: by a signal; everything done is saved.
        ValueError: no such target or row, rows where there are none, data that can't be had, and what runs raise.
    """
    if target not in TARGETS:
        near = difflib.get_close_matches(target, TARGETS, n=1)
        raise ValueError(
            f"got {target!r}{f'; did you mean {near[0]}?' if near else ''}; expected one of {', '.join(TARGETS)}"
        )
    try:
        _run(target, setting, rows)
    except Stopped as stop:
        raise Stopped(
            f"stopped; {setting.out} holds what is done, and the same command goes on from there", stop.exit_code - 128
        ) from None


def _run(target: str, setting: Setting, rows: str) -> None:
    if target in TABLES:
        reproduce_table(target, setting, rows)
    elif target == "fig5":
        figure5(setting, rows)
    elif rows:
        raise ValueError(f"rows: got {rows!r}, but {target} has no rows: leave it out")
    else:
        {"fig2": figure2, "fig3": figure3, "fig4": figure4}[target](setting)
