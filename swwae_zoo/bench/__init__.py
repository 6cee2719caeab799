"""The cost of a SWWAE training step, in time and memory, beside the plain convnet's and a SWWAE in plain PyTorch.

The decoder is as large as the encoder, so about twice the convnet's time is the least a step can take.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from swwae_zoo.bench.consistency import CONSISTENCY_KINDS, ConsistencyStep
from swwae_zoo.bench.limits import copy_bandwidth, matrix_peak, step_flops
from swwae_zoo.bench.memory import LiveBytes
from swwae_zoo.bench.parts import shares
from swwae_zoo.bench.steps import STEP_KINDS, BenchSettings, TimedStep
from swwae_zoo.models._registry import check_model_name

ROWS = (*STEP_KINDS, *CONSISTENCY_KINDS)

__all__ = ["ROWS", "STEP_KINDS", "BenchSettings", "LiveBytes", "TimedStep", "bench", "machine_limits"]


def bench(
    name: str,
    model_args: Mapping[str, Any] | None = None,
    settings: BenchSettings | None = None,
    steps: int = 10,
    rows: Sequence[str] = ("convnet", "swwae"),
) -> dict[str, dict[str, Any]]:
    """Times training steps of several kinds in alternation.

    Args:
        name: model name for `timm.create_model`.
        model_args: its arguments.
        settings: see `BenchSettings`.
        steps: timed steps of each kind.
        rows: some of ROWS, see `steps.py` and `consistency.py`.

    Returns:
        For each kind: "milliseconds" (median) and "fastest" of a step, "images_per_second", "mebibytes" at its peak,
        with weights, gradients and optimiser state (None for compiled steps off CUDA), "shares" of the kinds of work
        (empty for those) and "gigaflops" of its convolutions and matrix products (None for compiled steps).

    Raises:
        ValueError: an unknown model or kind of step, or a model without a decoder or classifier.
    """
    settings = settings or BenchSettings()
    check_model_name(name)
    unknown = [row for row in rows if row not in ROWS]
    if unknown:
        raise ValueError(f"rows: got {unknown[0]!r}, expected of {', '.join(ROWS)}")
    cuda = settings.device.type == "cuda"
    results: dict[str, dict[str, Any]] = {}
    timed: list[TimedStep] = []
    for row in rows:
        before = torch.cuda.memory_allocated(settings.device) if cuda else 0
        make = ConsistencyStep if row in CONSISTENCY_KINDS else TimedStep
        step = make(row, name, model_args or {}, settings)
        timed.append(step)
        for _ in range(3):  # creates the optimiser state, selects kernels, compiles
            step()
        peak = step.peak_bytes(before)
        compiled = row.endswith("-compiled")
        results[row] = {
            "mebibytes": None if peak is None else peak / 2**20,
            "gigaflops": None if compiled else step_flops(step) / 1e9,
            "shares": {} if compiled and not cuda else shares(step),
        }
    times = [[step.seconds() for step in timed] for _ in range(steps)]
    for step, own in zip(timed, zip(*times, strict=True), strict=True):
        seconds = statistics.median(own)
        results[step.row].update(
            milliseconds=1000 * seconds, fastest=1000 * min(own), images_per_second=settings.batch_size / seconds
        )
    return results


def machine_limits(settings: BenchSettings) -> dict[str, float]:
    """Measured peak rates per second: "flops" of matrix products in the chosen precision, "copy_bytes" of a copy."""
    cuda = settings.device.type == "cuda"
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16, "off": torch.float32}[settings.amp]
    size = 8192 if cuda else 1024
    return {
        "flops": matrix_peak(settings.device, dtype, size),
        "copy_bytes": copy_bandwidth(settings.device, 2048 if cuda else 256),
    }
