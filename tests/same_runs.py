"""Whether two run directories hold the same run, to the last bit."""

import json
from pathlib import Path
from typing import Any

import torch

from swwae_zoo.utils.json_files import read_json, unsealed


def same(a: Any, b: Any, path: str = "") -> None:
    """Asserts that two checkpoints are equal to the last bit, but for the time they took."""
    if path.split("/")[-1] == "seconds":
        return
    if isinstance(a, torch.Tensor):
        assert a.dtype == b.dtype and a.stride() == b.stride() and torch.equal(a, b), path
    elif isinstance(a, dict):
        assert a.keys() == b.keys(), path
        for key in a:
            same(a[key], b[key], f"{path}/{key}")
    elif isinstance(a, (list, tuple)):
        assert len(a) == len(b), path
        for i, (x, y) in enumerate(zip(a, b, strict=False)):
            same(x, y, f"{path}/{i}")
    else:
        assert a == b, path


def metrics(run: Path) -> list[dict[str, Any]]:
    lines = [unsealed(json.loads(line)) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name != "images_per_second"} for line in lines]


def assert_same_run(a: Path, b: Path) -> None:
    same(*(torch.load(run / "checkpoint.pt", weights_only=True) for run in (a, b)))
    assert metrics(a) == metrics(b)
    for name in ("last/model.safetensors", "best/model.safetensors", "last/config.json", "best/config.json"):
        assert (a / name).read_bytes() == (b / name).read_bytes(), name
    results = [read_json(run / "result.json", dict, "") for run in (a, b)]
    assert [{**result, "seconds": 0} for result in results][0] == {**results[1], "seconds": 0}
