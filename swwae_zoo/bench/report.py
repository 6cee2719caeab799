"""The measurements of `swwae bench` as JSON and as a bar chart."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from swwae_zoo.utils.files import atomic_write
from swwae_zoo.utils.provenance import provenance

__all__ = ["draw", "write"]


def write(folder: Path, groups: list[dict[str, Any]]) -> None:
    """Writes bench.json (figures, command, commit, machine, versions) and bench.png into ``folder``.

    Args:
        groups: "model", "amp", "batch_size" and "rows" (what `bench` returns) of each comparison.
    """
    folder.mkdir(parents=True, exist_ok=True)
    measured = {**provenance(), "groups": groups}
    with atomic_write(folder / "bench.json") as part:
        part.write_text(json.dumps(measured, indent=2) + "\n", encoding="utf-8")
    with atomic_write(folder / "bench.png") as part:
        draw(part, measured)


def draw(path: Path, measured: dict[str, Any]) -> None:
    """Bar chart of images per second: a panel for each model and precision, a colour for each kind of step."""
    groups, machine = measured["groups"], measured["machine"]
    rows = list(dict.fromkeys(row for group in groups for row in group["rows"]))
    figure = Figure(figsize=(1.2 + 2.8 * len(groups), 3.8), layout="constrained")
    axes = figure.subplots(1, len(groups), squeeze=False)
    for axis, group in zip(axes[0], groups, strict=True):
        for i, row in enumerate(rows):
            own = group["rows"].get(row)
            if own is not None:
                bar = axis.bar(i, own["images_per_second"], color=f"C{i}")
                axis.bar_label(bar, [f"{own['images_per_second']:,.3g}"], fontsize=7)
        axis.set_xticks(range(len(rows)), rows, rotation=60, ha="right", fontsize=7)
        axis.set_title(
            f"{group['model']}, {group['amp'].replace('off', 'fp32')}\n{group['batch_size']} images", fontsize=8
        )
        axis.tick_params(axis="y", labelsize=7)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0][0].set_ylabel("images a second")
    where = (
        machine["gpu"]
        if groups[0]["device"].startswith("cuda")
        else f"{machine['processor']}, {machine['threads']} thread{'s' * (machine['threads'] > 1)}"
    )
    figure.suptitle(f"Training steps: {where}, torch {measured['versions']['torch']}", fontsize=9)
    figure.savefig(path, dpi=150, format="png")
