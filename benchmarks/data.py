"""Time that a training step waits for its images, on the device and read ahead from a memory-mapped file.

    python benchmarks/data.py [--model swwae_cifar_vgg] [--device cuda] [--json FILE]

A step asks for its batch (the time it waits), prepares it on the device and trains on it. The file has the layout of
Tiny Images, contains --images random records and lies in the page cache.
"""

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from swwae_zoo.bench import BenchSettings, TimedStep
from swwae_zoo.data import Augmentation, ImageSet, IndexStream, Preprocess, RandomView, StreamedImages, load_images
from swwae_zoo.utils.provenance import provenance


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="swwae_cifar_vgg")
    parser.add_argument("--device", default="cpu", type=torch.device)
    parser.add_argument("--amp", default="off")
    parser.add_argument("--batch-size", default=32, type=int)
    parser.add_argument("--images", default=100_000, type=int)
    parser.add_argument("--steps", default=10, type=int)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    step = TimedStep("swwae", args.model, {}, BenchSettings(args.batch_size, args.device, args.amp))
    prepare, view = Preprocess(32, mean=0.5, std=0.25), RandomView(Augmentation(shift=2, mirror=True), (32, 32))

    def synchronize():
        if args.device.type == "cuda":
            torch.cuda.synchronize()

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "tiny_images.bin"
        rng = np.random.default_rng(0)
        with path.open("wb") as file:
            for start in range(0, args.images, 10_000):
                file.write(rng.integers(0, 256, (min(10_000, args.images - start), 3072), dtype=np.uint8).data)
        store = load_images(f"tinyimages:{path}", "unlabeled", in_chans=step.images.shape[1])
        whole = ImageSet("resident", store.images)
        kinds = {"resident": whole.to(args.device), "mapped": StreamedImages(store, args.device)}
        streams = {name: IndexStream(store.count, args.batch_size, 0) for name in kinds}
        times = {name: {"wait": [], "prepare": [], "step": []} for name in kinds}
        for name, images in kinds.items():
            images.follow(streams[name])
        random = torch.Generator().manual_seed(0)
        for turn in range(args.steps + 2):
            for name, images in kinds.items():
                synchronize()
                marks = [time.perf_counter()]
                batch, _ = images.batch(streams[name].next())
                synchronize()
                marks.append(time.perf_counter())
                views = prepare.normalise(view(prepare.fit(batch), random))
                step.images = views.contiguous(memory_format=torch.channels_last)
                synchronize()
                marks.append(time.perf_counter())
                step()
                synchronize()
                marks.append(time.perf_counter())
                if turn >= 2:
                    for part, (a, b) in zip(
                        ("wait", "prepare", "step"), zip(marks, marks[1:], strict=False), strict=True
                    ):
                        times[name][part].append(1000 * (b - a))
    rows = {name: {part: statistics.median(values) for part, values in own.items()} for name, own in times.items()}
    for name, own in rows.items():
        whole = sum(own.values())
        waiting, preparing = (f"{own[part]:7.3f} ms, {own[part] / whole:.2%}" for part in ("wait", "prepare"))
        print(f"{name:9} step {own['step']:9.2f} ms   waiting {waiting}   preparing {preparing}")
    if args.json:
        args.json.write_text(json.dumps({**provenance(), "milliseconds": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
