"""Everything that wants a GPU, in one command that stops itself in time and writes its results as they come.

    python benchmarks/gpu.py --out OUT --data DATA [--minutes 9] [--parts bench,pools,data,mnist,cifar] [--tiny]

The package has to be installed (without network: pip install --no-deps --no-build-isolation -e .).

In the order of their worth, each part in a process of its own, so that one that fails takes none of the others along:

    bench   training steps of all variants in bf16 and fp32, ours beside plain PyTorch's, eager and compiled
    pools   pools and unpools beside torch's and beside a copy
    data    waiting for resident and for memory-mapped images
    mnist   the MNIST recipe with 100, 600, 1,000 and 3,000 labels, each beside its lambda = 0 twin
    cifar   the CIFAR-10 recipe beside its twin

DATA holds MNIST and CIFAR-10 as torchvision lays them out. A training run that is cut off goes on with the same command:
what is finished is not run again. --tiny does a little of everything, to see that it runs.
"""

import argparse
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
VARIANTS = ("swwae_mnist", "swwae_svhn", "swwae_cifar_vgg", "swwae_stl10")
LABELS = (100, 600, 1000, 3000)


def commands(part, out, data, device, tiny):
    """(name, seconds it should get at most, arguments for python), in order."""
    swwae = ["-m", "swwae_zoo.cli"]
    if part == "bench":
        for model in VARIANTS:
            batch = {"swwae_stl10": 256}.get(model, 1024)
            few = ["--batch-size", "4", "--steps", "1", "--rows", "convnet,swwae,plain"] if tiny else ["--batch-size", str(batch), "--rows", "all"]
            yield f"bench-{model}", 150, [*swwae, "bench", model, "--amp", "off" if tiny else "bf16,off", "--device", device, "--out", str(out / f"bench-{model}"), *few]
    elif part == "pools":
        yield "pools", 60, [str(HERE / "pools.py"), "--device", device, "--json", str(out / "pools.json"), *(["--turns", "1"] if tiny else [])]
    elif part == "data":
        few = ["--images", "1000", "--batch-size", "4", "--steps", "1"] if tiny else ["--batch-size", "1024", "--amp", "bf16"]
        yield "data", 90, [str(HERE / "data.py"), "--device", device, "--json", str(out / "data.json"), *few]
    elif part == "mnist":
        for labels in LABELS:
            few = ["--steps", "2", "--rounds", "1", "--num-val", "100", "--batch-size", "4"] if tiny else []
            yield f"mnist-{labels}", 240, train(out / f"mnist-{labels}", data, device, [
                "--model", "swwae_mnist", "--labels", str(labels), "--rounds", "5", "--twin", *few])  # fmt: skip
    elif part == "cifar":
        few = ["--steps", "1", "--batch-size", "4", "--labeled-batch", "4", "--rounds", "1"] if tiny else []
        yield "cifar10", 600, train(out / "cifar10", data, device, ["--model", "swwae_cifar_vgg", "--twin", *few])
    else:
        raise SystemExit(f"unknown part {part!r}")


def train(out, data, device, flags):
    resume = ["--resume"] if (out / "config.toml").exists() else []
    amp = [] if device == "cpu" else ["--amp", "bf16"]
    return ["-m", "swwae_zoo.cli", "train", *flags, *amp, "--device", device, "--data-dir", str(data), "--out", str(out), *resume]


def run(name, arguments, seconds, log):
    """The exit code; interrupted, so that it saves, when its time is over."""
    process = subprocess.Popen([sys.executable, *arguments], stdout=log, stderr=subprocess.STDOUT)
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
        for name, seconds, arguments in commands(part, args.out, args.data, args.device, args.tiny):
            left = end - time.monotonic() - 25
            if left < 10:
                done.append({"name": name, "result": "not begun"})
                continue
            start = time.monotonic()
            with (args.out / f"{name}.log").open("a") as log:
                result = run(name, arguments, min(seconds, left), log)
            done.append({"name": name, "result": result, "seconds": round(time.monotonic() - start, 1)})
            print(done[-1], flush=True)
            (args.out / "summary.json").write_text(json.dumps(done, indent=2) + "\n")


if __name__ == "__main__":
    main()
