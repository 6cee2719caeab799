"""Sums of the loss parts between two lines of metrics.jsonl, kept where the losses are computed."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

__all__ = ["Meter"]


class Meter:
    """Means of loss parts over steps, and images a second.

    Adding waits for no device: only `bad_parts` and `means` read numbers back.  It is part of a checkpoint, so that
    a resumed run writes the lines an unbroken one writes.
    """

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self.totals: dict[str, Tensor] = {}
        self.steps = self.images = 0
        self.seconds = 0.0

    def add(self, parts: dict[str, Tensor], images: int) -> None:
        """One step's parts, scalars, detached."""
        for name, value in parts.items():
            self.totals[name] = self.totals[name] + value if name in self.totals else value.clone()
        self.steps += 1
        self.images += images

    def bad_parts(self) -> list[str]:
        """Names of the parts that were NaN or infinite in a step since `reset`; "loss" if only their sum was."""
        bad = [name for name, total in self.totals.items() if not math.isfinite(total)]
        return [name for name in bad if name != "loss"] or bad

    def means(self) -> dict[str, float]:
        return {name: float(total) / self.steps for name, total in self.totals.items()}

    @property
    def images_per_second(self) -> float:
        return self.images / max(self.seconds, 1e-9)

    def state_dict(self) -> dict[str, Any]:
        totals = {name: float(total) for name, total in self.totals.items()}  # exact: a double holds any float32
        return {"totals": totals, "steps": self.steps, "images": self.images, "seconds": self.seconds}

    def load_state_dict(self, state: dict[str, Any], device: torch.device) -> None:
        self.totals = {name: torch.tensor(total, device=device) for name, total in state["totals"].items()}
        self.steps, self.images, self.seconds = state["steps"], state["images"], state["seconds"]
