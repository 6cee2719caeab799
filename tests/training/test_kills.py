"""SIGKILL at random moments: what is left goes on to the bytes of an unbroken run, and nothing is left over.

Four kinds: one run, rounds with their twins, a set being unpacked, and two runs beside each other on one set that both
unpack.  `pytest -m slow tests/training/test_kills.py` kills 100 times, 25 of each kind; a sample is in the suite.
"""

import random
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from swwae_zoo.config import RunConfig, to_toml
from swwae_zoo.training.rounds import train_rounds
from swwae_zoo.utils.json_files import read_json

pytestmark = pytest.mark.usefixtures("one_thread")
CONFIG = RunConfig(
    model_args={"notation": "(4)3c-2p-(4)3c-2p-10fc", "img_size": 32, "drop_rate": 0.5},
    num_labels=50,
    num_val=50,
    steps=12,
    batch_size=24,
    labeled_batch=16,
    eval_every=4,
    save_every=3,
    log_every=2,
    augment="shift",
    ema=0.9,
)
SWWAE = "import sys\nsys.argv = ['swwae', *ARGS]\nfrom swwae_zoo.cli.main import app\napp()\n"
UNPACK = """
import time
from swwae_zoo.data.readers.shelf import Shelf
real = Shelf.add
Shelf.add = lambda self, *args: (time.sleep(0.002), real(self, *args))[1]
from swwae_zoo.data import load_images
load_images(SPEC, "unlabeled", limit=0, data_dir=DATA)
"""
EXACT = ("last/model.safetensors", "best/model.safetensors", "last/config.json", "best/config.json")


class Kills:
    """Starts processes and kills them.

    left: how many more; draw: when.
    """

    def __init__(self, child: Callable[..., Any], log: Path, count: int, seed: int):
        self.child, self.log, self.left, self.draw = child, log, count, random.Random(seed)
        self.span = 1.0  # seconds, about what a process lives

    def run(self, *jobs: tuple[str, dict[str, Any]], allowed: tuple[int, ...] = (0,)) -> list[int]:
        """Starts the jobs at once; kills one or all of them after a while, or lets them end.

        Returns:
            Their exit codes.
        """
        processes = [self.child(code, **names) for code, names in jobs]
        if self.left:
            time.sleep(self.draw.expovariate(1 / self.span))
            for process in processes if self.draw.random() < 0.5 else [self.draw.choice(processes)]:
                if process.is_alive() and self.left:
                    process.kill()
                    self.left -= 1
        for process in processes:
            process.join(300)
            assert process.exitcode in (*allowed, -signal.SIGKILL), self.log.read_text()
        return [process.exitcode for process in processes]


def train(out: Path, config: RunConfig) -> tuple[str, dict[str, Any]]:
    """The job that begins a run, or goes on with it."""
    if (out / "config.toml").exists():
        return SWWAE, {"ARGS": ["train", "--resume", "--out", str(out)]}
    recipe = out.with_suffix(".toml")
    recipe.write_text(to_toml(replace(config, out=str(out))))
    return SWWAE, {"ARGS": ["train", "--recipe", str(recipe)]}


def assert_same(a: Path, b: Path) -> None:
    """Weights, configurations and results are equal to the last bit, and so is the state of training."""
    for file in EXACT:
        assert (a / file).read_bytes() == (b / file).read_bytes(), (a, file)
    states = [torch.load(run / "checkpoint.pt", weights_only=True) for run in (a, b)]
    assert states[0]["step"] == states[1]["step"]
    for key, value in states[0]["model"].items():
        assert torch.equal(value, states[1]["model"][key]), key
    results = [{**read_json(run / "result.json", dict, ""), "seconds": 0} for run in (a, b)]
    assert results[0] == results[1]


def assert_nothing_left(folder: Path) -> None:
    left = [path for path in folder.rglob("*") if path.name.startswith(".") or path.name.endswith((".part", ".tmp"))]
    assert not left, left


def one_run(folder: Path, kills: Kills, whole: Path) -> None:
    out = folder / "run"
    while not (out / "result.json").exists():
        kills.run(train(out, CONFIG))
    assert_same(out, whole / "run")


def rounds_with_twins(folder: Path, kills: Kills, whole: Path) -> None:
    out = folder / "rounds"
    while not (out / "results.json").exists():
        kills.run(train(out, replace(CONFIG, rounds=2, twin=True, steps=6)))
    for name in ("seed0", "seed0-twin", "seed1", "seed1-twin"):
        assert_same(out / name, whole / "rounds" / name)


def unpacking(folder: Path, kills: Kills, whole: Path) -> None:
    names = {"SPEC": f"npz:{whole / 'set.npz'}", "DATA": str(folder)}
    while (
        kills.run(*[(UNPACK, names)] * kills.draw.choice((1, 2)))[-1] != 0 or kills.left and kills.draw.random() < 0.2
    ):
        pass
    kept = [sorted((each / "stores").iterdir()) for each in (folder, whole)]
    assert [file.suffix for file in kept[0]] == [file.suffix for file in kept[1]] == [".bin", ".json"]
    assert kept[0][0].read_bytes() == kept[1][0].read_bytes()


def beside(whole: Path, folder: Path) -> RunConfig:
    return replace(CONFIG, unlabeled=f"npz:{whole / 'set.npz'}", unlabeled_store="disk", data_dir=str(folder))


def two_runs(folder: Path, kills: Kills, whole: Path) -> None:
    """Both unpack one set to one place, and a third process tries to write where the first one does."""
    outs = [folder / "a", folder / "b"]
    while not all((out / "result.json").exists() for out in outs):
        jobs = [train(out, beside(whole, folder)) for out in outs if not (out / "result.json").exists()]
        second = kills.draw.random() < 0.3 and (outs[0] / "config.toml").exists()
        kills.run(*jobs, *(jobs[:1] if second else ()), allowed=(0, 2))  # 2: being written by another process
    for out in outs:
        assert_same(out, whole / "beside")
    assert len(list((folder / "stores").iterdir())) == 2


KINDS = [one_run, rounds_with_twins, unpacking, two_runs]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Callable[..., None]], Path]:
    """The folder of unbroken runs, of the kinds that were asked for."""
    folder = tmp_path_factory.mktemp("whole")
    images = np.random.default_rng(0).integers(0, 256, (400, 32, 32, 1), dtype=np.uint8)
    np.savez(folder / "set.npz", images=images)

    def make(kind: Callable[..., None]) -> Path:
        if kind is one_run and not (folder / "run").exists():
            train_rounds(replace(CONFIG, out=str(folder / "run")))
        elif kind is rounds_with_twins and not (folder / "rounds").exists():
            train_rounds(replace(CONFIG, rounds=2, twin=True, steps=6, out=str(folder / "rounds")))
        elif kind is two_runs and not (folder / "beside").exists():
            train_rounds(replace(beside(folder, folder), out=str(folder / "beside")))
        elif kind is unpacking and not (folder / "stores").exists():
            from swwae_zoo.data import load_images

            load_images(f"npz:{folder / 'set.npz'}", "unlabeled", limit=0, data_dir=folder)
        return folder

    return make


def kill(kind: Callable[..., None], count: int, folder: Path, child: Callable[..., Any], whole: Path) -> int:
    """Runs of one kind until there were so many kills; returns how many runs it took."""
    kills, turns = Kills(child, folder / "stderr", count, seed=count), 0
    while kills.left:
        place = folder / f"{kind.__name__}{turns}"
        place.mkdir()
        kind(place, kills, whole)
        assert_nothing_left(place)
        turns += 1
    return turns


@pytest.mark.parametrize("kind", KINDS)
def test_killed(kind: Callable[..., None], tmp_path: Path, child: Callable[..., Any], whole: Any) -> None:
    kill(kind, 2, tmp_path, child, whole(kind))


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("kind", KINDS)
def test_killed_often(kind: Callable[..., None], tmp_path: Path, child: Callable[..., Any], whole: Any) -> None:
    turns = kill(kind, 25, tmp_path, child, whole(kind))
    print(f"{kind.__name__}: 25 kills in {turns} runs")
