"""`reproduce`: what `swwae reproduce` does, for any of the paper's figures and tables."""
from __future__ import annotations

import difflib

from .figure2 import figure2
from .figure3 import figure3, figure4
from .runs import Setting
from .targets import TARGETS

__all__ = ["reproduce"]


def reproduce(target: str, setting: Setting, rows: str = "") -> None:
    """Does what is not done yet, and writes records, table and picture into ``setting.out``."""
    draw = {"fig2": figure2, "fig3": figure3, "fig4": figure4}
    if target not in TARGETS:
        near = difflib.get_close_matches(target, TARGETS, n=1)
        raise ValueError(f"got {target!r}{f'; did you mean {near[0]}?' if near else ''}; expected one of {', '.join(TARGETS)}")
    draw[target](setting)
