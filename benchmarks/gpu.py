"""Everything that needs a GPU, in one command that stops itself in time and writes results as they come.

    python benchmarks/gpu.py --out OUT --data DATA [--minutes 9] [--parts bench,pools,semi,data,mnist,cifar] [--tiny]

The package must be installed (without network: pip install --no-deps --no-build-isolation -e .). The parts, most
valuable first; each command runs in its own process, so that a failure stops no other:

    bench   training steps of all variants in bf16 and fp32, ours beside plain PyTorch's, eager and compiled; with
            consistency too
    pools   pooling and unpooling beside torch's and beside a copy
    semi    learning from unlabelled images, each with its twin: MNIST with 100 to 3,000 labels, CIFAR-10 with 4,000 and
            all labels, at a quarter of swwae_cifar_vgg's width and whole; the weights are in OUT/semi-*
    data    waiting for images on the device and for memory-mapped ones
    mnist   Tables 5 and 4 and MNIST with all labels, five rounds of each row (`swwae reproduce`)
    cifar   the CIFAR-10 row of Table 3, three rounds and their twins; the weights are in OUT/table3/runs

DATA contains MNIST and CIFAR-10 in torchvision's layout. The same command resumes a training run that was cut off, and
repeats no finished one. Recipes that were cut to what a CPU can do are worth more steps on a GPU. --tiny does a little
of everything, to check that it runs.
"""

import argparse
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).resolve().parent
VARIANTS = ("swwae_mnist", "swwae_svhn", "swwae_cifar_vgg", "swwae_stl10")
PARTS = ("bench", "pools", "semi", "data", "mnist", "cifar")


class Command(NamedTuple):
    """seconds: the most it may take. arguments: for python; --device and the path of its output follow."""

    name: str
    seconds: int
    arguments: str
    output: str


def commands(part: str, tiny: bool) -> Iterator[Command]:
    """The commands of one part, in order."""
    if part == "bench":
        for model in VARIANTS:
            size = "--batch-size 4 --steps 1 --amp off --rows convnet,swwae,plain"
            if not tiny:
                size = f"--batch-size {256 if model == 'swwae_stl10' else 1024} --amp bf16,off --rows all"
            name = f"bench-{model}"
            yield Command(name, 150, f"-m swwae_zoo.cli bench {model} {size}", f"--out {name}")
        size = "--batch-size 4 --steps 1 --amp off" if tiny else "--batch-size 512 --amp bf16,off"
        rows = "--rows consistency,plain-consistency"
        yield Command(
            "bench-consistency", 90, f"-m swwae_zoo.cli bench swwae_mnist {rows} {size}", "--out bench-consistency"
        )
    elif part == "pools":
        yield Command("pools", 60, f"{script('pools.py')} {'--turns 1' * tiny}", "--json pools.json")
    elif part == "semi":
        for labels in (100, 1000, 600, 3000):
            yield train(f"semi-mnist-{labels}", 120, f"--model swwae_mnist --labels {labels}", 3, tiny)
        yield train("semi-cifar-quarter", 300, "--recipe cifar_quarter", 3, tiny)
        yield train("semi-cifar-4000", 500, "--model swwae_cifar_vgg", 1, tiny)
        yield train("semi-cifar-all", 500, "--model swwae_cifar_vgg --labels 0", 1, tiny)
    elif part == "data":
        size = "--images 1000 --batch-size 4 --steps 1" if tiny else "--batch-size 1024 --amp bf16"
        yield Command("data", 90, f"{script('data.py')} {size}", "--json data.json")
    elif part == "mnist":
        yield reproduce("table5", 300, "--rows drop-100" if tiny else "", 5, tiny)
        yield reproduce("table4", 400, "--rows swwae-100,sfx-100" if tiny else "", 5, tiny)
        yield reproduce("mnist_full", 200, "", 5, tiny)
    else:
        yield reproduce("table3", 600, "--rows cifar10", 3, tiny)


def script(name: str) -> str:
    return shlex.quote(str(HERE / name))


def reproduce(target: str, seconds: int, rows: str, rounds: int, tiny: bool) -> Command:
    size = "--rounds 1 --quick" if tiny else f"--rounds {rounds}"
    return Command(target, seconds, f"-m swwae_zoo.cli reproduce {target} {rows} {size}", f"--out {target}")


def train(name: str, seconds: int, flags: str, rounds: int, tiny: bool) -> Command:
    size = (
        "--rounds 1 --steps 2 --warmup-steps 0 --batch-size 8 --labeled-batch 4 --num-val 100"
        if tiny
        else f"--rounds {rounds}"
    )
    return Command(name, seconds, f"-m swwae_zoo.cli train {flags} --twin {size}", f"--out {name}")


def run(command: Command, seconds: float, args: argparse.Namespace) -> int | str:
    """The exit code. When its time is over, the command is interrupted, so that it saves its state."""
    option, output = command.output.split()
    arguments = [*shlex.split(command.arguments), "--device", args.device, option, str(args.out / output)]
    if " train " in command.arguments and (args.out / output).exists():
        arguments.append("--resume")
    with (args.out / f"{command.name}.log").open("a") as log:
        process = subprocess.Popen(
            [sys.executable, *arguments],
            stdout=log,
            stderr=subprocess.STDOUT,
            env={**os.environ, "SWWAE_DATA": str(args.data)},
        )
        try:
            return process.wait(seconds)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGINT)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
        return "out of time"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=9)
    parser.add_argument("--parts", default=",".join(PARTS))
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tiny", action="store_true")
    args = parser.parse_args()
    parts = args.parts.split(",")
    unknown = set(parts) - set(PARTS)
    if unknown:
        parser.error(f"--parts: got {', '.join(sorted(unknown))}, expected of {', '.join(PARTS)}")
    end, done = time.monotonic() + 60 * args.minutes, []
    args.out.mkdir(parents=True, exist_ok=True)
    for command in (command for part in parts for command in commands(part, args.tiny)):
        left = end - time.monotonic() - 25
        start = time.monotonic()
        result = run(command, min(command.seconds, left), args) if left >= 10 else "not begun"
        done.append({"name": command.name, "result": result, "seconds": round(time.monotonic() - start, 1)})
        print(done[-1], flush=True)
        (args.out / "summary.json").write_text(json.dumps(done, indent=2) + "\n")


if __name__ == "__main__":
    main()
