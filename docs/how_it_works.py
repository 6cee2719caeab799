"""Draws docs/how-it-works.png: what goes up, down and sideways in a Stacked What-Where Auto-Encoder.

python docs/how_it_works.py
"""

from __future__ import annotations

from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

INK, WHAT, WHERE, LOSS = "#1f2328", "#1f77b4", "#e8710a", "#2ca02c"
UP, DOWN, MIDDLE = 1.7, 8.3, 5.0  # the columns of encoder and decoder, and between them
HALF_WIDTH, HALF = 1.6, 0.36  # of a box
FIRST, POOL, STEP, STAGES = 1.5, 0.82, 2.45, 3  # first stage above the image, a pool above its convolutions, the next


def box(axis: Axes, x: float, y: float, text: str, colour: str = INK) -> None:
    corner, size = (x - HALF_WIDTH, y - HALF), (2 * HALF_WIDTH, 2 * HALF)
    axis.add_patch(
        FancyBboxPatch(corner, *size, boxstyle="round,pad=0,rounding_size=0.15", fc="white", ec=colour, lw=1.6)
    )
    axis.text(x, y, text, ha="center", va="center", color=colour, fontsize=12)


def arrow(axis: Axes, start: tuple[float, float], end: tuple[float, float], colour: str, both: bool = False) -> None:
    line = {WHERE: "--", LOSS: ":"}.get(colour, "-")
    style = "<|-|>" if both else "-|>"
    axis.add_patch(
        FancyArrowPatch(
            start, end, arrowstyle=style, mutation_scale=15, color=colour, lw=1.8, ls=line, shrinkA=0, shrinkB=0
        )
    )


def word(axis: Axes, x: float, y: float, text: str, colour: str, side: str = "center") -> None:
    axis.text(x, y, text, ha=side, va="center", color=colour, fontsize=12)


def draw() -> Figure:
    """The picture, 1,056 x 984 pixels."""
    figure = Figure(figsize=(8.8, 8.2), facecolor="white")
    axis = figure.add_axes((0, 0, 1, 1))
    axis.set(xlim=(-0.1, 10.1), ylim=(-0.95, 10.05))
    axis.axis("off")
    axis.text(UP, -0.7, "encoder, upwards", ha="center", va="center", color=INK, fontsize=13, fontweight="bold")
    axis.text(DOWN, -0.7, "decoder, downwards", ha="center", va="center", color=INK, fontsize=13, fontweight="bold")
    inner = UP + HALF_WIDTH, DOWN - HALF_WIDTH
    box(axis, UP, 0, "image x")
    box(axis, DOWN, 0, "reconstruction x̃")
    arrow(axis, (inner[0], 0), (inner[1], 0), LOSS, both=True)
    word(axis, MIDDLE, 0.24, "L2rec: x̃ close to x", LOSS)
    top = HALF  # of what has been drawn
    for stage in range(1, STAGES + 1):
        y = FIRST + (stage - 1) * STEP
        gap = (top + y - HALF) / 2
        arrow(axis, (UP, top), (UP, y - HALF), WHAT if stage > 1 else INK)
        arrow(axis, (DOWN, y - HALF), (DOWN, top), INK)
        if stage > 1:
            word(axis, UP + 0.15, gap, f"what {stage - 1}", WHAT, "left")
            arrow(axis, (UP + 1.2, gap), (DOWN - 0.15, gap), LOSS, both=True)
            word(axis, MIDDLE, gap + 0.24, f"L2M {stage - 1}: close in the middle", LOSS)
        box(axis, UP, y, "convolutions, ReLU")
        box(axis, DOWN, y, "convolutions")
        box(axis, UP, y + POOL, f"max pool {stage}", WHAT)
        box(axis, DOWN, y + POOL, f"unpool {stage}", WHERE)
        arrow(axis, (inner[0], y + POOL), (inner[1], y + POOL), WHERE)
        word(axis, MIDDLE, y + POOL + 0.24, f"where {stage}: position in the window", WHERE)
        top = y + POOL + HALF
    bend, classifier = top + 0.45, top + 0.9 + HALF
    arrow(axis, (UP, top), (UP, classifier - HALF), WHAT)
    word(axis, UP + 0.15, bend, f"what {STAGES}", WHAT, "left")
    axis.plot([UP + 1.15, DOWN], [bend, bend], color=WHAT, lw=1.8)
    arrow(axis, (DOWN, bend), (DOWN, top), WHAT)
    box(axis, UP, classifier, "classifier")
    word(axis, inner[0] + 0.2, classifier, "NLL: the label, for images that have one", LOSS, "left")
    return figure


if __name__ == "__main__":
    draw().savefig(Path(__file__).with_name("how-it-works.png"), dpi=120)
