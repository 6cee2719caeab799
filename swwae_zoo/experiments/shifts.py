"""How what and where respond to a shift of the image: the measurements of Figure 3.

Shapes: N images, C planes of the topmost pool, S shifts. A plane has a where for each window; the nets of Figure 3 have
one window of 16x16, the whole map.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from swwae_zoo.analysis.load import Trained

__all__ = ["Response", "Line", "line", "respond", "shifted", "stability"]

SHIFTS = (-3, -2, -1, 0, 1, 2, 3)


class Response(NamedTuple):
    """what: (S, N, C). where: (S, N, C, 2), x before y, -1 to 1 over the window. The shifts along S are SHIFTS."""

    what: Tensor
    where: Tensor


class Line(NamedTuple):
    """A straight line through where(shift) - where(0), of all active planes and images.

    slope: measured, in units of the where per pixel.
    ideal: the slope of a where that moves as the image does.
    r2: share of the variance that the line explains.
    """

    slope: float
    ideal: float
    r2: float


def shifted(images: Tensor, right: int, down: int) -> Tensor:
    """Images (N, C, H, W) moved by whole pixels and padded with zeros."""
    moved = torch.zeros_like(images)
    height, width = images.shape[-2:]
    moved[..., max(down, 0) : height + min(down, 0), max(right, 0) : width + min(right, 0)] = images[
        ..., max(-down, 0) : height + min(-down, 0), max(-right, 0) : width + min(-right, 0)
    ]
    return moved


@torch.inference_mode()
def respond(saved: Trained, images: Tensor, axis: str) -> Response:
    """What and where of the topmost pool for images moved by each of SHIFTS.

    Args:
        images: (N, C, H, W) uint8.
        axis: "x", to the right, or "y", down.
    """
    whats, wheres = [], []
    model: Any = saved.model
    for shift in SHIFTS:
        prepared = shifted(saved.prepare(images), *((shift, 0) if axis == "x" else (0, shift)))
        parts = [model.forward_encoder(part) for part in prepared.split(250)]
        whats.append(torch.cat([part.whats[-1] for part in parts]).flatten(1))
        places = torch.cat([part.switches[-1] for part in parts])
        wheres.append(
            places.permute(0, 1, 3, 4, 2).flatten(1, 3)
            if places.ndim == 5
            else coordinates(places, model.stages[-1].pool_size)
        )
    return Response(torch.stack(whats).float(), torch.stack(wheres).float())


def coordinates(where: Tensor, window: int) -> Tensor:
    """Hard switches (N, C, h, w) in the form of soft ones: (N, C*h*w, 2), x before y, -1 to 1 over the window."""
    place = where.flatten(1).long()
    return torch.stack((place % window, place // window), -1).float() * (2 / (window - 1)) - 1


def active(response: Response, share: float = 0.1) -> Tensor:
    """(N, C): planes whose what is at least this share of the image's largest at every shift; elsewhere the where
    means nothing."""
    return (response.what >= share * response.what.amax(-1, keepdim=True)).all(0) & (response.what > 0).all(0)


def line(response: Response, along: int, pixels: float, moves: bool = True) -> Line:
    """The line through the coordinate ``along`` (0 for x, 1 for y).

    Args:
        pixels: width of the window in pixels of the image, from its first position to its last.
        moves: whether the images were moved along this coordinate: if not, the ideal is 0.
    """
    where = response.where[..., along]
    change = (where - where[SHIFTS.index(0)])[:, active(response)]
    shift = torch.tensor(SHIFTS, dtype=change.dtype)[:, None].expand_as(change)
    slope = float((shift * change).sum() / (shift * shift).sum())
    left = change - slope * shift
    total = change - change.mean()
    return Line(
        slope, 2 / pixels if moves else 0.0, 1 - float(left.square().sum() / total.square().sum().clamp(min=1e-12))
    )


def stability(response: Response) -> dict[int, float]:
    """shift -> relative change of the what: |what(shift) - what(0)| / |what(0)| over planes, mean over images."""
    base = response.what[SHIFTS.index(0)]
    return {
        shift: float(((response.what[i] - base).norm(dim=1) / base.norm(dim=1).clamp(min=1e-12)).mean())
        for i, shift in enumerate(SHIFTS)
    }


def agreement(response: Response, shifts: Sequence[int] = (-3, 3)) -> float:
    """Correlation of what(shift) with what(0) over images and planes, mean over the shifts."""
    base = response.what[SHIFTS.index(0)].flatten()
    pairs = [torch.stack((response.what[SHIFTS.index(shift)].flatten(), base)) for shift in shifts]
    return float(sum(torch.corrcoef(pair)[0, 1] for pair in pairs) / len(pairs))
