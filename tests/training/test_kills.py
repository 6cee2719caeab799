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
from typing import Any, NamedTuple

import numpy as np
import pytest
from same_runs import assert_same_run

from swwae_zoo.config import RunConfig, to_toml
from swwae_zoo.data import load_images
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
ROUNDS = replace(CONFIG, rounds=2, twin=True, steps=6)
SWWAE = "import sys\nsys.argv = ['swwae', *ARGS]\nfrom swwae_zoo.cli.main import app\napp()\n"
UNPACK = """
import time
from swwae_zoo.data.readers.shelf import Shelf
real = Shelf.add
Shelf.add = lambda self, *args: (time.sleep(0.002), real(self, *args))[1]
from swwae_zoo.data import load_images
load_images(SPEC, "unlabeled", limit=0, data_dir=DATA)
"""


class Whole(NamedTuple):
    """Where the unbroken runs lie, and what one takes."""

    folder: Path
    seconds: float


class Kills:
    """Starts processes and kills them while they work.

    left: how many more; draw: when.
    """

    def __init__(self, child: Callable[..., Any], folder: Path, count: int, seed: int):
        self.child, self.folder, self.left, self.draw, self.started = child, folder, count, random.Random(seed), 0

    def run(self, *jobs: tuple[str, dict[str, Any]], span: float, allowed: tuple[int, ...] = (0,)) -> list[int]:
        """Starts the jobs at once, and kills one or all of them at a moment of their work, or lets them end.

        Args:
            span: seconds that the work takes.
            allowed: exit codes of those that were not killed.

        Returns:
            The exit codes.
        """
        processes = []
        for code, names in jobs:
            begun = self.folder / f"begun{self.started}"
            self.started += 1
            process = self.child(f"open({str(begun)!r}, 'w').close()\n{code}", **names)
            processes.append(process)
            while not begun.exists() and process.is_alive():
                time.sleep(0.002)
        if self.left:
            time.sleep(self.draw.uniform(0, 1.5 * span))
            for process in processes if self.draw.random() < 0.5 else [self.draw.choice(processes)]:
                if process.is_alive() and self.left:
                    process.kill()
                    self.left -= 1
        for process in processes:
            process.join(300)
            assert process.exitcode in (*allowed, -signal.SIGKILL), (self.folder / "stderr").read_text()
        return [process.exitcode for process in processes]


def train(out: Path, config: RunConfig) -> tuple[str, dict[str, Any]]:
    """The job that begins a run, or goes on with it."""
    if (out / "config.toml").exists():
        return SWWAE, {"ARGS": ["train", "--resume", "--out", str(out)]}
    recipe = out.with_suffix(".toml")
    recipe.write_text(to_toml(replace(config, out=str(out))))
    return SWWAE, {"ARGS": ["train", "--recipe", str(recipe)]}


def assert_nothing_left(folder: Path) -> None:
    left = [path for path in folder.rglob("*") if path.name.startswith(".") or path.name.endswith((".part", ".tmp"))]
    assert not left, left


def one_run(folder: Path, kills: Kills, whole: Whole) -> None:
    out = folder / "run"
    while kills.run(train(out, CONFIG), span=whole.seconds) != [0]:  # as a user does; --resume of a whole run tidies up
        pass
    assert_same_run(out, whole.folder / "run")


def rounds_with_twins(folder: Path, kills: Kills, whole: Whole) -> None:
    out = folder / "rounds"
    while kills.run(train(out, ROUNDS), span=whole.seconds) != [0]:
        pass
    assert len(read_json(out / "results.json", list, "")) == 4
    for name in ("seed0", "seed0-twin", "seed1", "seed1-twin"):
        assert_same_run(out / name, whole.folder / "rounds" / name)


def unpacked(folder: Path, whole: Path) -> None:
    """Whoever uses the set next removes what processes killed beside the last one left."""
    load_images(f"npz:{whole / 'set.npz'}", "unlabeled", limit=0, data_dir=folder)


def unpacking(folder: Path, kills: Kills, whole: Whole) -> None:
    names = {"SPEC": f"npz:{whole.folder / 'set.npz'}", "DATA": str(folder)}
    while kills.run(*[(UNPACK, names)] * kills.draw.choice((1, 2)), span=whole.seconds)[-1] != 0:
        pass
    unpacked(folder, whole.folder)
    kept = [sorted((each / "stores").iterdir()) for each in (folder, whole.folder)]
    assert [file.suffix for file in kept[0]] == [file.suffix for file in kept[1]] == [".bin", ".json"]
    assert kept[0][0].read_bytes() == kept[1][0].read_bytes()


def beside(whole: Path, folder: Path) -> RunConfig:
    return replace(CONFIG, unlabeled=f"npz:{whole / 'set.npz'}", unlabeled_store="disk", data_dir=str(folder))


def two_runs(folder: Path, kills: Kills, whole: Whole) -> None:
    """Both unpack one set to one place, and sometimes a third process tries to write where the first one does."""
    outs = left = [folder / "a", folder / "b"]
    while left:
        jobs = [train(out, beside(whole.folder, folder)) for out in left]
        third = kills.draw.random() < 0.3 and (left[0] / "config.toml").exists()
        codes = kills.run(*jobs, *(jobs[:1] if third else ()), span=whole.seconds, allowed=(0, 2))
        assert third or 2 not in codes  # 2: another one writes
        # The third one may have ended the run after the first was refused, or been killed after the first ended.
        whole_now = [code == 0 and not (third and turn == 0) for turn, code in enumerate(codes[: len(left)])]
        left = [out for out, done in zip(left, whole_now, strict=True) if not done]
    for out in outs:
        assert_same_run(out, whole.folder / "beside")
    assert len(list((folder / "stores").iterdir())) == 2


KINDS = [one_run, rounds_with_twins, unpacking, two_runs]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Callable[..., None]], Whole]:
    """The folder of unbroken runs, with those of the kind that is asked for."""
    folder = tmp_path_factory.mktemp("whole")
    images = np.random.default_rng(0).integers(0, 256, (400, 32, 32, 1), dtype=np.uint8)
    np.savez(folder / "set.npz", images=images)
    # What is loaded at first use takes longer than a run, and a moment is drawn from the time of one.
    train_rounds(replace(CONFIG, steps=1, out=str(folder / "first")))

    def make(kind: Callable[..., None]) -> Whole:
        start = time.monotonic()
        if kind is one_run:
            train_rounds(replace(CONFIG, out=str(folder / "run")), force=True)
        elif kind is rounds_with_twins:
            train_rounds(replace(ROUNDS, out=str(folder / "rounds")), force=True)
        elif kind is two_runs:
            train_rounds(replace(beside(folder, folder), out=str(folder / "beside")), force=True)
        else:
            unpacked(folder, folder)
        return Whole(folder, time.monotonic() - start + (0.8 if kind is unpacking else 0))  # see UNPACK

    return make


def kill(kind: Callable[..., None], count: int, folder: Path, child: Callable[..., Any], whole: Whole) -> int:
    """Runs of one kind until there were so many kills; returns how many runs it took."""
    kills, turns = Kills(child, folder, count, seed=count), 0
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
