"""Images per second of two processes with one thread each, against one process with two threads.

    python benchmarks/distributed.py [--turns 3] [--steps 40] [--json FILE]

Runs of `swwae train` on random images alternate; the figure of a run is the median rate logged after its first quarter.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from swwae_zoo.utils.provenance import provenance

ONE = ["-m"]
TWO = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m"]


def rate(launch, threads, out, data, steps):
    options = (
        "--recipe swwae_mnist --labels 100 --num-val 20 --batch-size 64 --labeled-batch 32 --warmup-steps 0 --rounds 1 "
        f"--steps {steps} --eval-every {steps} --save-every {steps} --log-every 4 --no-twin --device cpu --amp off "
        "--force"
    )
    flags = ["swwae_zoo.cli", "train", "--data", f"npz:{data}", "--out", str(out), *options.split()]
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    subprocess.run([sys.executable, *launch, *flags], env=environment, check=True, capture_output=True)
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return statistics.median(
        line["images_per_second"] for line in lines if line.get("images_per_second") and line["step"] > steps / 4
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--turns", default=3, type=int)
    parser.add_argument("--steps", default=40, type=int)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    rows = {"one process, two threads": [], "two processes, one thread each": []}
    with tempfile.TemporaryDirectory() as folder:
        rng, data = np.random.default_rng(0), Path(folder) / "random.npz"
        images = rng.integers(0, 256, (2000, 28, 28), dtype=np.uint8)
        np.savez(data, x_train=images, y_train=np.arange(2000) % 10, x_test=images[:100], y_test=np.arange(100) % 10)
        for turn in range(args.turns):
            for (name, own), launch, threads in zip(rows.items(), (ONE, TWO), (2, 1), strict=True):
                own.append(rate(launch, threads, Path(folder) / f"{threads}-{turn}", data, args.steps))
                print(f"{name:32} {own[-1]:8.1f} images/s", flush=True)
    one, two = (statistics.median(own) for own in rows.values())
    print(f"two processes / one: {two / one:.2f}")
    if args.json:
        args.json.write_text(
            json.dumps({**provenance(), "images_per_second": rows, "ratio": two / one}, indent=2) + "\n"
        )


if __name__ == "__main__":
    main()
