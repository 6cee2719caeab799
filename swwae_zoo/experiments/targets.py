"""What can be reproduced.  No torch here, so that `swwae reproduce --help` answers at once."""

from pathlib import Path

FIGURES = ("fig2", "fig3", "fig4", "fig5")
TABLES = ("table1", "table2", "table3", "table4", "table5", "mnist_full", "svhn_full")
TARGETS = FIGURES + TABLES


def folder_of(target: str, quick: bool) -> Path:
    """Where a target's runs lie unless told otherwise; Figure 4 shows the nets of Figure 3."""
    return Path("runs") / ("reproduce-quick" if quick else "reproduce") / {"fig4": "fig3"}.get(target, target)
