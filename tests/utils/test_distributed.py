"""Two processes under torchrun, over gloo: the run of one process within rounding, and no hang when one is killed."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from swwae_zoo.config import RunConfig, to_toml
from swwae_zoo.data import Augmentation, RandomView
from swwae_zoo.training.rounds import train_rounds
from swwae_zoo.utils.distributed import World
from swwae_zoo.utils.json_files import unsealed

pytestmark = pytest.mark.usefixtures("one_thread")
TINY = {"notation": "(4)3c-2p-(4)3c-2p-10fc", "img_size": 32}
# 15 labelled and 25 unlabelled images: parts of different sizes.
BASE = RunConfig(
    model_args=TINY,
    num_labels=50,
    num_val=50,
    steps=12,
    batch_size=25,
    labeled_batch=15,
    log_every=1,
    save_every=4,
    augment="shift",
    mirror=True,
    ema=0.9,
    weight_decay=0.1,
    lambda_l1=0.1,
    lr=0.005,
    clip_grad=1.0,
    device="cpu",
)
# Long enough that a process is still there when it is to be killed, however busy the machine.
LONG = replace(BASE, steps=120, log_every=20, save_every=5, model_args={**TINY, "drop_rate": 0.5})
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]


def start(recipe: RunConfig, *launch: str, flags: tuple[str, ...] = ()) -> subprocess.Popen[str]:
    path = Path(f"{recipe.out}.toml")
    path.write_text(to_toml(recipe), encoding="utf-8")
    return subprocess.Popen(
        [*TORCHRUN, *(launch or ("--standalone",)), "-m", "swwae_zoo.cli", "train", "--recipe", str(path), *flags],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )


def finish(process: subprocess.Popen[str], seconds: float = 600) -> str:
    try:
        return process.communicate(timeout=seconds)[0]
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGTERM)
        raise AssertionError(f"still there after {seconds} s: {process.communicate(timeout=60)[0]}") from None


def metrics(run: Path) -> list[dict[str, Any]]:
    return [unsealed(json.loads(line)) for line in (run / "metrics.jsonl").read_text().splitlines()]


def assert_close(one: Path, two: Path, tolerance: float) -> None:
    """Losses of every step, errors and weights (the average among them) are equal within ``tolerance``."""
    a, b = metrics(one), metrics(two)
    assert len(a) == len(b) > 10
    for mine, other in zip(a, b, strict=False):
        assert mine.keys() == other.keys()
        assert {**mine, "images_per_second": 0} == pytest.approx(
            {**other, "images_per_second": 0}, abs=tolerance, rel=tolerance
        )
    states = [torch.load(run / "checkpoint.pt", weights_only=True) for run in (one, two)]
    for key in {"state_dict", "state_dict_ema"} & states[0].keys():
        torch.testing.assert_close(states[0][key], states[1][key], atol=tolerance, rtol=tolerance)  # names what differs


# The launcher itself, in a process that has loaded torch already; what it starts are ordinary programs.
LAUNCHER = """
sys.argv = ["torchrun", "--nproc-per-node", "2", "--standalone", "-m", "swwae_zoo.cli", "train", "--recipe", RECIPE]
from torch.distributed.run import main
main()
"""


def test_two_processes_run_as_one(tmp_path: Path, child: Callable[..., Any]) -> None:
    recipe = replace(
        BASE, strong="grey", lambda_consistency=1.0, pseudo_labels="softmatch", ramp=0.2,
        twin=True,  # whose decoder gets no gradient
    )  # fmt: skip
    path = tmp_path / "recipe.toml"
    path.write_text(to_toml(replace(recipe, out=str(tmp_path / "two"))), encoding="utf-8")
    process = child(LAUNCHER, RECIPE=str(path))
    train_rounds(replace(recipe, out=str(tmp_path / "one")))
    process.join()
    said = (tmp_path / "stderr").read_text()
    assert process.exitcode == 0, said
    assert said.count(": 12 steps") == 2, "rank 0 alone speaks"
    for folder in ("seed0", "seed0-twin"):
        assert_close(tmp_path / "one" / folder, tmp_path / "two" / folder, 2e-4)
    one, two = (torch.load(tmp_path / run / "seed0" / "checkpoint.pt", weights_only=True) for run in ("one", "two"))
    torch.testing.assert_close(one["task_state"], two["task_state"], atol=2e-4, rtol=2e-4)


RANK = """
os.environ.update(ENVIRONMENT)
sys.argv = ["swwae", "train", "--recipe", RECIPE]
from swwae_zoo.cli.main import app
app()
"""


def test_two_processes_of_another_launcher_run_as_one(tmp_path: Path, child: Callable[..., Any]) -> None:
    """Any program that sets RANK and WORLD_SIZE will do. Here it is the head that gets no gradient."""
    recipe = replace(BASE, lambda_nll=0.0, sync_bn=True, model_args={**TINY, "batch_norm": True})
    path = tmp_path / "recipe.toml"
    path.write_text(to_toml(replace(recipe, out=str(tmp_path / "two"))), encoding="utf-8")
    with socket.create_server(("127.0.0.1", 0)) as free:
        world = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1])}
    processes = [child(RANK, RECIPE=str(path), ENVIRONMENT={**world, "RANK": str(rank)}) for rank in range(2)]
    train_rounds(replace(recipe, out=str(tmp_path / "one")))
    for process in processes:
        process.join(300)
        assert process.exitcode == 0, (tmp_path / "stderr").read_text()
    assert (tmp_path / "stderr").read_text().count(": 12 steps") == 1, "rank 0 alone speaks"
    assert_close(tmp_path / "one", tmp_path / "two", 2e-4)


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    out = tmp_path_factory.mktemp("unbroken") / "run"
    process = start(replace(LONG, out=str(out)))
    said = finish(process)
    assert process.returncode == 0, said
    yield out


def workers(launcher: int) -> list[int]:
    return [int(pid) for pid in Path(f"/proc/{launcher}/task/{launcher}/children").read_text().split()]


def when_saved(run: Path, process: subprocess.Popen[str]) -> None:
    end = time.monotonic() + 240
    while not (run / "checkpoint.pt").exists():
        assert time.monotonic() < end and process.poll() is None, "no checkpoint came"
        time.sleep(0.01)


def assert_same_weights(a: Path, b: Path) -> None:
    x, y = (load_file(run / "last" / "model.safetensors") for run in (a, b))
    assert x.keys() == y.keys() and all(torch.equal(x[name], y[name]) for name in x)


needs_proc = pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="finds the workers in /proc")


@needs_proc
@pytest.mark.slow  # starts torchrun twice
def test_a_killed_process_is_started_again_and_goes_on(tmp_path: Path, unbroken: Path) -> None:
    """With dropout, whose random numbers each process draws for itself, the weights are equal bit for bit."""
    recipe = replace(LONG, out=str(tmp_path / "run"))
    process = start(recipe, "--standalone", "--max-restarts", "1")
    when_saved(tmp_path / "run", process)
    os.kill(workers(process.pid)[-1], signal.SIGKILL)
    said = finish(process)
    assert process.returncode == 0 and "going on behind step" in said, said
    assert_same_weights(tmp_path / "run", unbroken)


@needs_proc
@pytest.mark.slow  # starts torchrun three times
def test_a_killed_process_ends_the_job_in_time_and_a_signal_saves_it(tmp_path: Path, unbroken: Path) -> None:
    recipe = replace(LONG, out=str(tmp_path / "run"))
    process = start(recipe)
    when_saved(tmp_path / "run", process)
    os.kill(workers(process.pid)[-1], signal.SIGKILL)
    said = finish(process, 120)
    assert process.returncode != 0 and "SIGKILL" in said and "another one is gone" in said, said

    resumed = start(recipe, flags=("--resume",))
    before = (tmp_path / "run" / "checkpoint.pt").stat().st_mtime_ns
    end = time.monotonic() + 240
    while (
        (tmp_path / "run" / "checkpoint.pt").stat().st_mtime_ns == before
        and resumed.poll() is None
        and time.monotonic() < end
    ):
        time.sleep(0.01)
    resumed.send_signal(signal.SIGINT)
    said = finish(resumed)
    assert resumed.returncode != 0 and said.count("is saved; go on with: swwae train --resume") >= 1, said
    last = start(recipe, flags=("--resume",))
    said = finish(last)
    assert last.returncode == 0, said
    assert_same_weights(tmp_path / "run", unbroken)


def test_parts_make_up_the_whole() -> None:
    for size, whole in ((1, 5), (2, 5), (3, 7), (4, 4)):
        worlds = [World(rank, size) for rank in range(size)]
        shares = [world.share(whole) for world in worlds]
        assert [i for share in shares for i in range(whole)[share.slice]] == list(range(whole))
        assert sum(world.weight(share) for world, share in zip(worlds, shares, strict=False)) == pytest.approx(size)
    with pytest.raises(ValueError, match="got 3 images a step for 4 processes"):
        World(0, 4).share(3)


def test_augmentation_of_parts_is_that_of_the_whole() -> None:
    view = RandomView(Augmentation(shift=2, mirror=True, rotation=20, noise=0.1), (8, 8))
    images = torch.rand(7, 1, 8, 8)
    whole = view(images, torch.Generator().manual_seed(1))
    parts = []
    for rank in range(3):
        share = World(rank, 3).share(7)
        parts.append(view(images[share.slice], torch.Generator().manual_seed(1), share))
    assert torch.equal(torch.cat(parts), whole)
