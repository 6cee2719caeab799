"""A run that was stopped or killed ends where an unbroken one ends, bit for bit."""

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sysconfig
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from same_runs import assert_same_run
from typer.testing import CliRunner

from swwae_zoo.cli.main import app
from swwae_zoo.config import RunConfig, to_toml
from swwae_zoo.training.rounds import train_rounds
from swwae_zoo.training.run_directory import RunDirectory
from swwae_zoo.training.signals import Stopped
from swwae_zoo.training.trainer import Trainer
from swwae_zoo.utils.json_files import read_json

pytestmark = pytest.mark.usefixtures("one_thread")
TINY = {"notation": "(4)3c-2p-(4)3c-2p-10fc", "img_size": 32}
PLAIN = RunConfig(
    model_args=TINY,
    num_labels=50,
    num_val=50,
    steps=25,
    batch_size=24,
    labeled_batch=16,
    eval_every=5,
    save_every=6,
    log_every=4,
)
# Everything that has a state: dropout, an average, random shifts and mirrors, momentum, streams that cross epochs.
FULL = replace(
    PLAIN,
    model_args={**TINY, "drop_rate": 0.5, "batch_norm": True},
    ema=0.9,
    augment="shift",
    mirror=True,
    opt="sgd",
    lr=0.05,
    clip_grad=0.1,
    warmup_steps=4,
    batch_size=120,
    weight_decay=1e-3,
)
SOFT = replace(
    PLAIN,
    model_args={**TINY, "pool": "soft", "beta": 10.0},
    unlabeled="none",
    contrast="image",
    amp="bf16",
    lambda_l1=0.1,
    lambda_middle=[0.3],
    num_val=0,
    channels_last=False,
)
# Two views, a teacher, and weights that change over the run.
VIEWS = replace(
    FULL,
    augment="photo",
    strong="photo",
    strong_args={"noise": 0.1, "elastic": 0.03},
    labeled_view="strong",
    lambda_consistency=1.0,
    lambda_cross=0.5,
    noise=0.1,
    confidence=0.2,
    ramp=0.5,
    fade=0.5,
    batch_size=32,
)
SOFTMATCH = replace(VIEWS, pseudo_labels="softmatch", confidence=0.95, ramp=0.1, lambda_cross=0.0, noise=0.0)
RECIPES = {"plain": PLAIN, "full": FULL, "soft": SOFT, "views": VIEWS, "softmatch": SOFTMATCH}


def assert_loadable(run: Path) -> None:
    """Whatever stands in the folder can be read: no checkpoint or a whole one, no model or a whole one."""
    if (run / "checkpoint.pt").exists():
        assert torch.load(run / "checkpoint.pt", weights_only=True)["step"] >= 0
    for name in ("last", "best"):
        if (run / name / "model.safetensors").exists():
            timm.create_model(f"local-dir:{run / name}", pretrained=True)


def stop_at(monkeypatch: pytest.MonkeyPatch, *steps: int, number: int = signal.SIGTERM) -> None:
    """A signal comes in the midst of these steps."""
    left, real = list(steps), Trainer.train_step

    def train_step(self: Trainer) -> dict[str, torch.Tensor]:
        if left and self.step + 1 == left[0]:
            left.pop(0)
            signal.raise_signal(number)
        return real(self)

    monkeypatch.setattr(Trainer, "train_step", train_step)


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The run directory of a recipe that ran without a break, each run once."""
    done: dict[str, Path] = {}

    def run(name: str) -> Path:
        if name not in done:
            out = tmp_path_factory.mktemp("unbroken") / name
            train_rounds(replace(RECIPES[name], out=str(out)))
            done[name] = out
        return done[name]

    return run


def test_two_fresh_runs_are_equal(tmp_path: Path, unbroken: Callable[[str], Path]) -> None:
    train_rounds(replace(FULL, out=str(tmp_path / "again")))
    assert_same_run(tmp_path / "again", unbroken("full"))


# 7 is no boundary of log, evaluation or checkpoint; 6 saves, 10 evaluates, 8 logs; 25 is the last step.
@pytest.mark.parametrize(
    ("recipe", "steps"),
    [("plain", (1, 8, 10)), ("full", (6, 7, 13)), ("soft", (7, 25)), ("views", (7,)), ("softmatch", (9,))],
)
def test_stopped_and_resumed(
    recipe: str,
    steps: tuple[int, ...],
    tmp_path: Path,
    unbroken: Callable[[str], Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = replace(RECIPES[recipe], out=str(tmp_path / "run"))
    stop_at(monkeypatch, *steps)
    for i, step in enumerate(steps):
        with pytest.raises(
            Stopped, match=rf"^stopped at step {step}, .*run is saved; go on with: swwae train --resume --out "
        ) as stop:
            train_rounds(config, resume=i > 0)
        assert stop.value.exit_code == 143
        assert torch.load(tmp_path / "run" / "checkpoint.pt", weights_only=True)["step"] == step
        torch.manual_seed(i)  # whatever state the program that resumes happens to be in
    train_rounds(config, resume=True)
    assert_same_run(tmp_path / "run", unbroken(recipe))


SWWAE = "import sys\nsys.argv = ['swwae', *ARGS]\nfrom swwae_zoo.cli.main import app\napp()\n"


def test_killed_at_random_and_resumed(
    tmp_path: Path, child: Callable[..., Any], unbroken: Callable[[str], Path]
) -> None:
    run, recipe = tmp_path / "run", tmp_path / "recipe.toml"
    recipe.write_text(to_toml(replace(FULL, out=str(run))))
    draw, kills, exitcode = random.Random(0), 0, -signal.SIGKILL
    while exitcode != 0:  # as a user does: --resume of a run that was killed at its very end tidies up
        args = (
            ["train", "--resume", "--out", str(run)]
            if (run / "config.toml").exists()
            else ["train", "--recipe", str(recipe)]
        )
        process = child(SWWAE, ARGS=args)
        if kills < 4:
            seen = (run / "metrics.jsonl").exists() and (run / "metrics.jsonl").stat().st_mtime_ns
            while process.is_alive() and seen == (
                (run / "metrics.jsonl").exists() and (run / "metrics.jsonl").stat().st_mtime_ns
            ):
                time.sleep(0.002)
            time.sleep(draw.uniform(0, 0.25))
            process.kill()
            kills += 1
        process.join(300)
        exitcode = process.exitcode
        assert exitcode in (0, -signal.SIGKILL), (tmp_path / "stderr").read_text()
        assert_loadable(run)
    assert kills >= 1
    assert_same_run(run, unbroken("full"))


def wait_for(path: Path, seconds: float = 300) -> None:
    end = time.monotonic() + seconds
    while not (path.exists() and path.stat().st_size):
        assert time.monotonic() < end, f"{path} did not come"
        time.sleep(0.01)


def flags(config: RunConfig, out: Path) -> list[str]:
    recipe = out.parent / f"{out.name}.toml"
    recipe.write_text(to_toml(config))
    return ["train", "--recipe", str(recipe), "--out", str(out)]


def test_ctrl_c(tmp_path: Path, child: Callable[..., Any]) -> None:
    run = tmp_path / "run"
    process = child(SWWAE, ARGS=flags(replace(PLAIN, steps=100_000), run))
    wait_for(run / "metrics.jsonl")
    os.kill(process.pid, signal.SIGINT)
    process.join(300)
    assert process.exitcode == 130
    line = (tmp_path / "stderr").read_text().splitlines()[-1]
    step = torch.load(run / "checkpoint.pt", weights_only=True)["step"]
    assert line == f"stopped at step {step}, {run} is saved; go on with: swwae train --resume --out {run}"
    assert_loadable(run)


def test_sigterm_of_the_real_command(tmp_path: Path) -> None:
    run = tmp_path / "a run"
    script = Path(sysconfig.get_path("scripts")) / "swwae"
    process = subprocess.Popen(
        [script, *flags(replace(PLAIN, steps=100_000), run)],
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    wait_for(run / "metrics.jsonl")
    process.terminate()
    out, err = process.communicate(timeout=300)
    assert process.returncode == 143 and out == "" and "Traceback" not in err
    assert re.fullmatch(
        r"stopped at step \d+, .*a run is saved; go on with: swwae train --resume --out '.*a run'", err.splitlines()[-1]
    )
    assert_loadable(run)


WAITS = {
    "recipe": """
import swwae_zoo.config.recipes as recipes
recipes._recipe_text = lambda *args: open(FIFO).read()
""",
    "data": """
import swwae_zoo.training.rounds as rounds
rounds.splits_of = lambda *args: open(FIFO).read()
""",
}


@pytest.mark.parametrize("gap", [0.0, 0.01])
@pytest.mark.parametrize("place", ["recipe", "data"])
def test_two_ctrl_c_before_the_first_step(place: str, gap: float, tmp_path: Path, child: Callable[..., Any]) -> None:
    """While a FIFO is read in the place of the recipe or of the data: whoever opens it knows that it is being read."""
    fifo, run = tmp_path / "fifo", tmp_path / "run"
    os.mkfifo(fifo)
    args = flags(PLAIN, run) if place == "data" else ["train", "--recipe", "demo", "--out", str(run)]
    process = child(WAITS[place] + SWWAE, ARGS=args, FIFO=str(fifo))
    with open(fifo, "w"):
        for pause in (gap, 0):
            os.kill(process.pid, signal.SIGINT)
            time.sleep(pause)
        process.join(300)
    said = (tmp_path / "stderr").read_text()
    assert process.exitcode == 130 and said in ("interrupted\n", "stopped\n") and not run.exists(), said


def test_signal_while_data_are_read_writes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import swwae_zoo.training.rounds as train

    real = train.splits_of
    monkeypatch.setattr(train, "splits_of", lambda *args: (signal.raise_signal(signal.SIGTERM), real(*args))[1])
    with pytest.raises(Stopped, match="^stopped$") as stop:
        train_rounds(replace(PLAIN, out=str(tmp_path / "run")))
    assert stop.value.exit_code == 143 and os.listdir(tmp_path) == []
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


@pytest.mark.parametrize("method", ["_evaluate", "_save", "_finish"])
def test_signal_while_something_is_brought_to_an_end(
    method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, unbroken: Callable[[str], Path]
) -> None:
    real, sent = getattr(Trainer, method), []

    def interrupted(self: Trainer) -> Any:
        if not sent:
            sent.append(signal.raise_signal(signal.SIGINT))
        return real(self)

    monkeypatch.setattr(Trainer, method, interrupted)
    config = replace(PLAIN, out=str(tmp_path / "run"))
    with pytest.raises(Stopped) as stop:  # in _finish it is the test images' evaluation that stops
        train_rounds(config)
    assert stop.value.exit_code == 130
    train_rounds(config, resume=True)
    assert sent
    assert_same_run(tmp_path / "run", unbroken("plain"))


def test_rounds_go_on_where_they_were(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "run"
    config = replace(PLAIN, steps=6, rounds=2, twin=True, out=str(out))
    whole = train_rounds(replace(config, out=str(tmp_path / "whole")))
    count, real = [0], Trainer.train_step

    def train_step(self: Trainer) -> dict[str, torch.Tensor]:
        count[0] += 1
        if count[0] == 9:  # the third step of the second of four runs
            signal.raise_signal(signal.SIGTERM)
        return real(self)

    monkeypatch.setattr(Trainer, "train_step", train_step)
    with pytest.raises(
        Stopped, match=f"stopped at step 3, {out}/seed0-twin is saved; go on with: swwae train --resume --out {out}$"
    ):
        train_rounds(config)
    finished = (out / "seed0" / "result.json").stat().st_mtime_ns
    result = CliRunner().invoke(app, ["train", "--resume", "--out", str(out), "--json"])
    assert result.exit_code == 0, result.output
    assert "seed0: finished already" in result.stderr and "seed0-twin: going on after step 3" in result.stderr
    assert count[0] == 4 * 6 and (out / "seed0" / "result.json").stat().st_mtime_ns == finished
    drop_time = [[{**one, "seconds": 0} for one in all_] for all_ in (json.loads(result.stdout), whole)]
    assert drop_time[0] == drop_time[1] and read_json(out / "results.json", list, "") == json.loads(result.stdout)
    assert [(one["seed"], one["twin"]) for one in whole] == [(0, False), (0, True), (1, False), (1, True)]
    for name in ("seed0", "seed0-twin", "seed1", "seed1-twin"):
        assert_same_run(out / name, tmp_path / "whole" / name)
    assert count[0] == 24
    train_rounds(replace(config, rounds=1), resume=True)  # fewer or more rounds are no other run
    assert count[0] == 24


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"lr": 0.5}, "was begun with lr = 0.001, got 0.5"),
        ({"steps": 30}, "was begun with steps = 25, got 30"),
        ({"model_args": {**TINY, "pool": "soft"}}, "was begun with model_args"),
        ({"lambda_middle": [1.0]}, "was begun with lambda_middle = 1.0"),
        ({"rounds": 2}, "was begun with rounds = 1, twin = False"),
    ],
)
def test_another_recipe_is_refused_on_resume(
    change: dict[str, Any], said: str, tmp_path: Path, unbroken: Callable[[str], Path]
) -> None:
    run = unbroken("plain")
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*")}
    with pytest.raises(ValueError, match=re.escape(said)) as error:
        train_rounds(replace(PLAIN, out=str(run), **change), resume=True)
    assert "\n" not in str(error.value)
    assert before == {path: path.stat().st_mtime_ns for path in run.rglob("*")}


def test_a_moved_run_goes_on_with_other_machine_settings(
    tmp_path: Path, unbroken: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    stop_at(monkeypatch, 7)
    with pytest.raises(Stopped):
        train_rounds(replace(PLAIN, out=str(tmp_path / "run")))
    (tmp_path / "run").rename(tmp_path / "moved")
    result = CliRunner().invoke(
        app, ["train", "--resume", "--out", str(tmp_path / "moved"), "--device", "cpu", "--save-every", "5"]
    )
    assert result.exit_code == 0, result.output
    assert not (tmp_path / "run").exists()
    assert_same_run(tmp_path / "moved", unbroken("plain"))


def test_a_checkpoint_of_another_net_is_refused(tmp_path: Path, unbroken: Callable[[str], Path]) -> None:
    shutil.copytree(unbroken("plain"), tmp_path / "run")
    (tmp_path / "run" / "result.json").unlink()
    config = replace(PLAIN, out=str(tmp_path / "run"))
    other = torch.load(unbroken("full") / "checkpoint.pt", weights_only=True)
    for state in (
        {**other, "images": [50, 1387]},
        {**torch.load(tmp_path / "run" / "checkpoint.pt", weights_only=True), "images": [1, 2]},
    ):
        RunDirectory(tmp_path / "run", resume=True).save_checkpoint(state)
        with pytest.raises(
            ValueError, match="checkpoint.pt was made with (another recipe|other data: .* images)"
        ) as error:
            train_rounds(config, resume=True)
        assert "\n" not in str(error.value)


def test_resume_without_a_run(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="holds no run to resume"):
        train_rounds(replace(PLAIN, out=str(tmp_path / "run")), resume=True)
    assert os.listdir(tmp_path) == []
