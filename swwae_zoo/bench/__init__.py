"""What a SWWAE step costs: time, memory and where they go, beside the plain convnet's and plain PyTorch's.

With a decoder of the encoder's size, twice the convnet's time is the floor.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from swwae_zoo.bench.limits import copy_bandwidth, matrix_peak, step_flops
from swwae_zoo.bench.memory import LiveBytes
from swwae_zoo.bench.parts import shares
from swwae_zoo.bench.steps import ROWS, Setting, Step
from swwae_zoo.models._registry import check_model_name

__all__ = ["ROWS", "LiveBytes", "Setting", "Step", "bench", "machine_limits"]


def bench(
    name: str,
    model_args: Mapping[str, Any] | None = None,
    setting: Setting = Setting(),
    steps: int = 10,
    rows: Sequence[str] = ("convnet", "swwae"),
) -> dict[str, dict[str, Any]]:
    """Times training steps of all rows, turn about; the median counts.

    Args:
        name: as `timm.create_model` takes it.
        model_args: arguments for it.
        setting: see `Setting`.
        steps: timed steps of each.
        rows: of ROWS, see `steps.py`.

    Returns:
        For each row "milliseconds" of a step, "fastest" of them, "images_per_second", "mebibytes" at its peak (weights,
        gradients and optimiser state among them; None where compiled steps can't be looked into), "shares" of the
        step's parts (empty for compiled steps off CUDA) and "gigaflops" of its convolutions and products (None compiled).

    Raises:
        ValueError: an unknown model or row, or a model without a decoder or classifier.
    """
    check_model_name(name)
    unknown = [row for row in rows if row not in ROWS]
    if unknown:
        raise ValueError(f"rows: got {unknown[0]!r}, expected of {', '.join(ROWS)}")
    cuda = setting.device.type == "cuda"
    results: dict[str, dict[str, Any]] = {}
    pairs: list[Step] = []
    for row in rows:
        before = torch.cuda.memory_allocated(setting.device) if cuda else 0
        step = Step(row, name, model_args or {}, setting)
        pairs.append(step)
        for _ in range(3):  # makes the optimiser's state, chooses kernels, compiles
            step()
        peak = step.peak_bytes(before)
        compiled = row.endswith("-compiled")
        results[row] = {
            "mebibytes": None if peak is None else peak / 2**20,
            "gigaflops": None if compiled else step_flops(step) / 1e9,
            "shares": {} if compiled and not cuda else shares(step),
        }
    times = [[step.seconds() for step in pairs] for _ in range(steps)]
    for step, own in zip(pairs, zip(*times, strict=True), strict=True):
        seconds = statistics.median(own)
        results[step.row].update(
            milliseconds=1000 * seconds, fastest=1000 * min(own), images_per_second=setting.batch_size / seconds
        )
    return results


def machine_limits(setting: Setting) -> dict[str, float]:
    """Measured peak of matrix products ("flops", in the precision of the setting) and of a copy ("copy_bytes"), a second."""
    cuda = setting.device.type == "cuda"
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16, "off": torch.float32}[setting.amp]
    size = 8192 if cuda else 1024
    return {
        "flops": matrix_peak(setting.device, dtype, size),
        "copy_bytes": copy_bandwidth(setting.device, 2048 if cuda else 256),
    }
