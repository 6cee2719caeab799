"""Everything that wants a GPU, in one command that stops itself in time and writes its results as they come.

    python benchmarks/gpu.py --out OUT --data DATA [--minutes 9] [--parts bench,pools,data,mnist,cifar] [--tiny]

The package has to be installed (without network: pip install --no-deps --no-build-isolation -e .).

In the order of their worth, each part in a process of its own, so that one that fails takes none of the others along:

    bench   training steps of all variants in bf16 and fp32, ours beside plain PyTorch's, eager and compiled
    pools   pools and unpools beside torch's and beside a copy
    data    waiting for resident and for memory-mapped images
    mnist   Tables 5 and 4 and MNIST with all labels, five rounds of each row (`swwae reproduce`)
    cifar   the CIFAR-10 row of Table 3, three rounds beside its twin; its weights lie in OUT/table3/runs

DATA holds MNIST and CIFAR-10 as torchvision lays them out. A training run that is cut off goes on with the same command:
what is finished is not run again. Recipes cut to what a CPU can do are worth lengthening on a GPU. --tiny does a little of everything, to see that it runs.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
VARIANTS = ("swwae_mnist", "swwae_svhn", "swwae_cifar_vgg", "swwae_stl10")


def commands(part, out, device, tiny):
    """(name, seconds it should get at most, arguments for python), in order."""
    swwae = ["-m", "swwae_zoo.cli"]
    if part == "bench":
        for model in VARIANTS:
            batch = {"swwae_stl10": 256}.get(model, 1024)
            few = (
                ["--batch-size", "4", "--steps", "1", "--rows", "convnet,swwae,plain"]
                if tiny
                else ["--batch-size", str(batch), "--rows", "all"]
            )
            yield (
                f"bench-{model}",
                150,
                [
                    *swwae,
                    "bench",
                    model,
                    "--amp",
                    "off" if tiny else "bf16,off",
                    "--device",
                    device,
                    "--out",
                    str(out / f"bench-{model}"),
                    *few,
                ],
            )
    elif part == "pools":
        yield (
            "pools",
            60,
            [
                str(HERE / "pools.py"),
                "--device",
                device,
                "--json",
                str(out / "pools.json"),
                *(["--turns", "1"] if tiny else []),
            ],
        )
    elif part == "data":
        few = (
            ["--images", "1000", "--batch-size", "4", "--steps", "1"]
            if tiny
            else ["--batch-size", "1024", "--amp", "bf16"]
        )
        yield "data", 90, [str(HERE / "data.py"), "--device", device, "--json", str(out / "data.json"), *few]
    elif part == "mnist":
        for target, rows, seconds in (
            ("table5", "drop-100", 300),
            ("table4", "swwae-100,sfx-100", 400),
            ("mnist_full", "", 200),
        ):
            yield target, seconds, reproduce(target, out, device, 5, rows if tiny else "", tiny)
    elif part == "cifar":
        yield "table3", 600, reproduce("table3", out, device, 3, "cifar10", tiny)
    else:
        raise SystemExit(f"unknown part {part!r}")


def reproduce(target, out, device, rounds, rows, tiny):
    return ["-m", "swwae_zoo.cli", "reproduce", target, "--device", device, "--out", str(out / target), "--rounds", str(1 if tiny else rounds),
            *(["--rows", rows] if rows else []), *(["--quick"] if tiny else [])]  # fmt: skip


def run(arguments, seconds, data, log):
    """The exit code; interrupted, so that it saves, when its time is over."""
    process = subprocess.Popen(
        [sys.executable, *arguments], stdout=log, stderr=subprocess.STDOUT, env={**os.environ, "SWWAE_DATA": str(data)}
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


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=9)
    parser.add_argument("--parts", default="bench,pools,data,mnist,cifar")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tiny", action="store_true")
    args = parser.parse_args()
    end, done = time.monotonic() + 60 * args.minutes, []
    args.out.mkdir(parents=True, exist_ok=True)
    for part in args.parts.split(","):
        for name, seconds, arguments in commands(part, args.out, args.device, args.tiny):
            left = end - time.monotonic() - 25
            if left < 10:
                done.append({"name": name, "result": "not begun"})
                continue
            start = time.monotonic()
            with (args.out / f"{name}.log").open("a") as log:
                result = run(arguments, min(seconds, left), args.data, log)
            done.append({"name": name, "result": result, "seconds": round(time.monotonic() - start, 1)})
            print(done[-1], flush=True)
            (args.out / "summary.json").write_text(json.dumps(done, indent=2) + "\n")


if __name__ == "__main__":
    main()
