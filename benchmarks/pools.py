"""Time of pooling and unpooling, forward and backward, beside torch's own pair and a plain copy.

    MALLOC_MMAP_MAX_=0 MALLOC_TRIM_THRESHOLD_=100000000000 python benchmarks/pools.py [--device cuda] [--json FILE]

The variables keep glibc from returning freed memory, so that no time is spent on clearing new pages. For each precision
and layout of 64x64x32x32 maps and 2x2 windows, alternating in one run, the median and the fastest turn of:

    ours     switch_pool2d, switch_unpool2d, and both backward passes
    torch    max_pool2d(return_indices=True), max_unpool2d, and both backward passes
    copy     a copy of the bytes that these four must read and write, once each, into existing memory
    clone    the same copy into new memory, like the output of every operator
"""

import argparse
import json
import statistics
import time
from pathlib import Path

import torch
import torch.nn.functional as F

from swwae_zoo.layers.pooling import switch_pool2d, switch_unpool2d
from swwae_zoo.utils.provenance import provenance

SHAPE, WINDOW = (64, 64, 32, 32), 2


def ours(x, gradient):
    what, where = switch_pool2d(x, WINDOW)
    torch.autograd.backward(switch_unpool2d(what, where, WINDOW), gradient)


def theirs(x, gradient):
    what, index = F.max_pool2d(x, WINDOW, return_indices=True)
    torch.autograd.backward(F.max_unpool2d(what, index, WINDOW), gradient)


def measure(dtype, layout, device, turns):
    x = torch.randn(SHAPE, device=device).to(dtype).to(memory_format=layout).requires_grad_()
    gradient = torch.randn(SHAPE, device=device).to(dtype).to(memory_format=layout)
    whole, pooled = x.nbytes, x.nbytes // WINDOW**2
    switches = x.numel() // WINDOW**2
    # each of the four passes over the map once, over the pooled map once, and over the switches once
    source = torch.empty(2 * (whole + pooled + switches), dtype=torch.uint8, device=device).random_()
    target = torch.empty_like(source)
    works = {
        "ours": lambda: ours(x, gradient),
        "torch": lambda: theirs(x, gradient),
        "copy": lambda: target.copy_(source),
        "clone": lambda: source.clone(),
    }
    times = {name: [] for name in works}
    for turn in range(turns + 2):
        for name, work in works.items():
            x.grad = None
            if device.type == "cuda":
                torch.cuda.synchronize()
            start = time.perf_counter()
            work()
            if device.type == "cuda":
                torch.cuda.synchronize()
            if turn >= 2:
                times[name].append(1000 * (time.perf_counter() - start))
    return {name: (statistics.median(values), min(values)) for name, values in times.items()}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu", type=torch.device)
    parser.add_argument("--turns", default=31, type=int)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    rows = []
    for dtype in (torch.float32, torch.bfloat16):
        for layout in (torch.contiguous_format, torch.channels_last):
            own = measure(dtype, layout, args.device, args.turns)
            name = (
                f"{str(dtype).removeprefix('torch.')}, {'channels-last' if layout == torch.channels_last else 'NCHW'}"
            )
            rows.append({"maps": name, **{work: median for work, (median, _) in own.items()},
                         "fastest": {work: fastest for work, (_, fastest) in own.items()}})  # fmt: skip
            medians, fastest = zip(*(own[work] for work in ("ours", "torch", "copy", "clone")), strict=True)
            for kind, (mine, theirs, copy, clone) in (("median", medians), ("fastest", fastest)):
                print(f"{name:24} {kind:8} ours {mine:6.2f} ms   torch {theirs:6.2f}   torch/ours {theirs / mine:5.2f}"
                      f"   ours/copy {mine / copy:4.2f}   ours/clone {mine / clone:4.2f}", flush=True)  # fmt: skip
    if args.json:
        args.json.write_text(json.dumps({**provenance(), "milliseconds": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
