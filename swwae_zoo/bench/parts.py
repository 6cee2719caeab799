"""Shares of a step's time by kind of work, from the self time of each operator in torch's profiler."""

from __future__ import annotations

from torch.profiler import ProfilerActivity, profile

from swwae_zoo.bench.steps import TimedStep, synchronize

__all__ = ["WORK_PATTERNS", "shares"]

# The first pattern found in the name of an operator or kernel decides.
WORK_PATTERNS = {
    "pools": (
        "swwae_zoo",
        "max_pool",
        "max_unpool",
        "_pool_kernel",
        "_put_kernel",
        "_pick_kernel",
        "_SwitchPool",
        "_Put",
        "_Pick",
    ),
    "convolutions": (
        "conv",
        "Winograd",
        "_Narrow",
        "bmm",
        "cudnn",
        "cutlass",
        "xmma",
        "implicit",
        "gemm",
        "sm90",
        "nchwtonhwc",
        "nhwctonchw",
        "col2im",
        "im2col",
    ),
    "normalisation": ("batch_norm", "bn_", "batchnorm"),
    "head": ("addmm", "aten::mm", "log_softmax", "nll_loss", "cross_entropy"),
    "optimiser": ("adam", "Optimizer", "foreach"),
}
REST = "pointwise, losses, copies"


def shares(step: TimedStep) -> dict[str, float]:
    """Share of each kind of work in one step, summing to 1: device time on a GPU, operators' self time on a CPU."""
    cuda = step.device.type == "cuda"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if cuda else [])]
    with profile(activities=activities, acc_events=True) as profiled:  # without acc_events torch 2.11 warns
        step()
        synchronize(step.device)
    times = dict.fromkeys((*WORK_PATTERNS, REST), 0.0)
    for event in profiled.key_averages():
        times[_part(event.key)] += event.self_device_time_total if cuda else event.self_cpu_time_total
    total = sum(times.values())
    return {part: time / total for part, time in times.items()} if total else {}


def _part(name: str) -> str:
    return next(
        (
            part
            for part, patterns in WORK_PATTERNS.items()
            if any(p in name or p.islower() and p in name.lower() for p in patterns)
        ),
        REST,
    )
