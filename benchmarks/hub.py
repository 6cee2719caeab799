"""Seconds to push and pull each variant against the tests' Hub on loopback, beside a plain copy and the bare client.

    python benchmarks/hub.py [--repeats 3]

The bare client is huggingface_hub's own upload_folder and snapshot_download of the same files; what push and pull add is
the work of loading the weights back and of checking their sums.  Every figure is the least of the repeats.
"""
from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
from hub_server.fixtures import TOKEN, OnePath, make_run  # noqa: E402

VARIANTS = ("swwae_mnist", "swwae_svhn", "swwae_stl10", "swwae_cifar_vgg")
BARE = """
import time
from huggingface_hub import HfApi
api = HfApi(token={token!r})
api.create_repo({repo!r})
start = time.perf_counter()
api.upload_folder(repo_id={repo!r}, folder_path={folder!r})
pushed = time.perf_counter()
api.snapshot_download({repo!r}, local_dir={out!r})
answer = [pushed - start, time.perf_counter() - pushed]
"""


def timed(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def measure(path: OnePath, model: str, folder: Path, turn: int) -> dict[str, float]:
    """One push and pull of fresh weights, the same by the bare client, and a copy."""
    run, name = folder / f"{model}-{turn}", f"zoo/{model}-{turn}"
    make_run(run, model, args={})
    took = {"push": timed(lambda: path.push(run, name))}
    out = folder / "out"
    took["pull"] = timed(lambda: path.client.swwae("pull", name, "--out", out))
    make_run(folder / "other", model, args={})  # other weights: those just sent are known already
    bare = path.client.tell(do="run", token=TOKEN, code=BARE.format(
        token=TOKEN, repo=f"{name}-bare", folder=str(folder / "other" / "last"), out=str(folder / "bare")))
    took["bare push"], took["bare pull"] = bare
    file = run / "last" / "model.safetensors"
    took["copy"] = timed(lambda: shutil.copyfile(file, folder / "copy"))
    for made in (out, folder / "bare", folder / "other", run):
        shutil.rmtree(made)
    return took


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--repeats", type=int, default=3)
    repeats = parser.parse_args().repeats
    for use_xet in (False, True):
        with tempfile.TemporaryDirectory() as home:
            folder = Path(home)
            path = OnePath(folder, use_xet)
            with path.hub:
                path.client.load("swwae_mnist")  # imports what it needs
                for model in VARIANTS:
                    turns = [measure(path, model, folder, turn) for turn in range(repeats)]
                    least = {key: round(min(turn[key] for turn in turns), 3) for key in turns[0]}
                    print(json.dumps({"path": "xet" if use_xet else "lfs", "model": model, **least}), flush=True)
            path.client.close()


if __name__ == "__main__":
    main()
