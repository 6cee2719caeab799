"""Peak rates of the machine, to compare the rates of a step with."""

from __future__ import annotations

import time

import torch
from torch.utils.flop_counter import FlopCounterMode

from swwae_zoo.bench.steps import TimedStep, synchronize

__all__ = ["copy_bandwidth", "matrix_peak", "step_flops"]


def matrix_peak(device: torch.device, dtype: torch.dtype, size: int = 8192, tries: int = 10) -> float:
    """Floating-point operations per second of a square matrix product of ``size``, the fastest of several."""
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    return 2 * size**3 / _fastest(lambda: a @ b, device, tries)


def copy_bandwidth(device: torch.device, mebibytes: int = 512, tries: int = 10) -> float:
    """Bytes per second, read and written, of a plain copy, the fastest of several."""
    source = torch.empty(mebibytes * 2**20, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2 * source.numel() / _fastest(lambda: target.copy_(source), device, tries)


def step_flops(step: TimedStep) -> int:
    """Floating-point operations of the step's convolutions and matrix products, forward and backward."""
    with FlopCounterMode(display=False) as counter:
        step()
    return counter.get_total_flops()


def _fastest(work, device: torch.device, tries: int) -> float:
    work()
    seconds = []
    for _ in range(tries):
        synchronize(device)
        start = time.perf_counter()
        work()
        synchronize(device)
        seconds.append(time.perf_counter() - start)
    return min(seconds)
