"""Seconds to push and pull each variant against the tests' Hub on loopback, beside the bare client and a plain copy.

    python benchmarks/hub.py [--repeats 7] [--models swwae_cifar_vgg …] [--json FILE]

The bare client is huggingface_hub's own upload_folder and snapshot_download of the same files. Push and pull add
loading the weights back, verifying checksums, and asking what the Hub holds. Ours and the bare client alternate, with
new weights each time; figures are median, minimum and maximum over the turns.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
from hub_server.fixtures import TOKEN, OnePath, make_run  # noqa: E402

from swwae_zoo.utils.provenance import provenance  # noqa: E402

VARIANTS = ("swwae_mnist", "swwae_svhn", "swwae_stl10", "swwae_cifar_vgg")
OURS = """
import time, swwae_zoo
start = time.perf_counter()
swwae_zoo.push({run!r}, {repo!r}, token={token!r})
pushed = time.perf_counter()
swwae_zoo.pull({repo!r}, {out!r}, token={token!r})
answer = [pushed - start, time.perf_counter() - pushed]
"""
BARE = """
import time
from huggingface_hub import HfApi
api = HfApi(token={token!r})
api.create_repo({repo!r})
start = time.perf_counter()
api.upload_folder(repo_id={repo!r}, folder_path={run!r} + "/last")
pushed = time.perf_counter()
api.snapshot_download({repo!r}, local_dir={out!r})
answer = [pushed - start, time.perf_counter() - pushed]
"""


def measure(path: OnePath, model: str, folder: Path, turn: int) -> dict[str, float]:
    """One push and pull of fresh weights, the same by the bare client, and a copy."""
    took: dict[str, float] = {}
    kinds = [("", OURS), ("client's ", BARE)]
    for kind, code in kinds if turn % 2 else kinds[::-1]:
        run, out = folder / "run", folder / "out"
        make_run(run, model, args={})
        took[f"{kind}push"], took[f"{kind}pull"] = path.client.tell(
            do="run",
            token=TOKEN,
            code=code.format(token=TOKEN, repo=f"zoo/{model}-{turn}{kind[:1]}", run=str(run), out=str(out)),
        )
        file = run / "last" / "model.safetensors"
        start = time.perf_counter()
        shutil.copyfile(file, folder / "copy")
        took["copy"] = time.perf_counter() - start
        took["megabytes"] = file.stat().st_size / 1e6
        shutil.rmtree(run)
        shutil.rmtree(out)
    return took


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--models", nargs="+", default=VARIANTS)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    rows = []
    for use_xet in (False, True):
        with tempfile.TemporaryDirectory() as home:
            folder = Path(home)
            path = OnePath(folder, use_xet)
            with path.hub:
                path.client.load("swwae_mnist")  # imports what it needs
                for model in args.models:
                    turns = [measure(path, model, folder, turn) for turn in range(args.repeats + 1)][
                        1:
                    ]  # the first is for warmth
                    spread = {
                        key: [round(what([turn[key] for turn in turns]), 4) for what in (statistics.median, min, max)]
                        for key in turns[0]
                    }
                    size = spread.pop("megabytes")[0]
                    share = {
                        f"client's share of {way}": round(
                            statistics.median(
                                (turn[f"client's {way}"] - turn["copy"]) / (turn[way] - turn["copy"]) for turn in turns
                            ),
                            2,
                        )
                        for way in ("push", "pull")
                    }
                    rows.append(
                        {"path": "xet" if use_xet else "lfs", "model": model, "megabytes": size, **share, **spread}
                    )
                    print(json.dumps(rows[-1], ensure_ascii=False), flush=True)
            path.client.close()
    if args.json:
        known = provenance()
        versions = {**known["versions"], **{name: version(name) for name in ("huggingface_hub", "hf_xet")}}
        args.json.write_text(
            json.dumps(
                {
                    "command": "hub.py " + " ".join(sys.argv[1 : sys.argv.index("--json")]),
                    "commit": known["commit"],
                    "versions": versions,
                    "machine": known["machine"],
                    "seconds: median, least, most": rows,
                },
                indent=1,
                ensure_ascii=False,
            )
            + "\n",
            encoding="utf-8",
        )


if __name__ == "__main__":
    main()
