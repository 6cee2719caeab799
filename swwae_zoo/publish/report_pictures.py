"""The pictures of a run's page, as data: URIs that follow the page into light and dark."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Sequence

import matplotlib
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from swwae_zoo.publish.judgement import Bin
from swwae_zoo.training.figures import SWWAE_COLOUR, lay_out

__all__ = ["drawing", "photo", "plot_calibration"]

INK = "#010203"  # what is drawn in it takes the page's colour of text
STYLE = "<style>svg{color:#1f2328}@media(prefers-color-scheme:dark){svg{color:#e6edf3}}</style>"
SIZE = (4.8, 3.2)  # inches: still readable where a phone shows it at 360 pixels
LEAST = 64  # pixels: smaller images are enlarged, each pixel as a square


def drawing(plot: Callable[..., None], *given: object) -> str:
    """An SVG of what ``plot(axes, *given)`` draws."""
    inks = ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color")
    with matplotlib.rc_context({**dict.fromkeys(inks, INK), "axes.facecolor": "none", "svg.hashsalt": "swwae"}):
        figure = Figure(figsize=SIZE)
        plot(figure.subplots(), *given)
        lay_out(figure)
        file = io.StringIO()
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None})
    text = file.getvalue()
    text = text[text.index("<svg") :].replace(INK, "currentColor")
    head = text.index(">") + 1
    return _uri("image/svg+xml", (text[:head] + STYLE + text[head:]).encode())


def plot_calibration(axis: Axes, bins: Sequence[Bin]) -> None:
    """Reliability diagram: accuracy over confidence, with dots as large as their share of the images."""
    axis.plot([0, 1], [0, 1], color="tab:gray", linestyle="--", linewidth=1, label="as sure as right")
    total = sum(each.count for each in bins)
    at = [each.confidence for each in bins]
    values = [each.accuracy for each in bins]
    axis.plot(at, values, color=SWWAE_COLOUR, label="this net")
    axis.scatter(at, values, s=[20 + 280 * each.count / total for each in bins], color=SWWAE_COLOUR, alpha=0.6)
    axis.set(xlabel="confidence", ylabel="share that is right", xlim=(0, 1.03), ylim=(0, 1.05))
    axis.grid(alpha=0.3)


def photo(image: Tensor) -> str:
    """A PNG of one image.

    Args:
        image: (C, H, W) uint8, or floats from 0 to 1; of other than 3 channels the first is shown.
    """
    if image.dtype != torch.uint8:
        image = image.float().clamp(0, 1).mul(255).round().to(torch.uint8)
    image = (image if image.shape[0] == 3 else image[:1]).cpu()
    zoom = -(-LEAST // max(image.shape[1:]))
    pixels = image.repeat_interleave(zoom, 1).repeat_interleave(zoom, 2).permute(1, 2, 0).squeeze(2).contiguous()
    file = io.BytesIO()
    Image.fromarray(pixels.numpy()).save(file, format="PNG")
    return _uri("image/png", file.getvalue())


def _uri(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"
