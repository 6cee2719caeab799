"""`swwae tune`: a real study of tiny nets, stopped and gone on with in every way that a user can."""

import json
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import pytest
from flips import refused
from held import HELD
from PIL import Image
from typer.testing import CliRunner

from swwae_zoo.cli.main import app
from swwae_zoo.config import RunConfig, read_recipe, to_toml
from swwae_zoo.experiments import tune as module
from swwae_zoo.experiments.ranges import default_ranges, parse_ranges
from swwae_zoo.experiments.tune import TuneResult, TuneSettings, tune
from swwae_zoo.training.rounds import train_rounds

pytestmark = pytest.mark.usefixtures("one_thread")
BASE = RunConfig(
    model_args={"notation": "(4)3c-2p-10fc", "img_size": 16},
    num_labels=100,
    num_val=200,
    steps=20,
    batch_size=16,
    labeled_batch=16,
    lr=0.01,
    save_every=20,
    device="cpu",
)
SEARCH = ("lambda_rec", "lr=1e-5:0.1:log", "dropout=0:0.5")


def run(out: Path, trials: int | None = None, recipe: RunConfig = BASE, **settings: Any) -> TuneResult:
    return tune(recipe, {}, TuneSettings(out, trials, **{"search": SEARCH, **settings}))


def study_of(out: Path) -> optuna.Study:
    return optuna.load_study(study_name=None, storage=f"sqlite:///{out / 'study.db'}")


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, TuneResult]:
    """Ten trials."""
    out = tmp_path_factory.mktemp("tune") / "out"
    return out, run(out, 10)


def test_the_best_recipe_trains_to_the_error_that_the_search_saw(
    searched: tuple[Path, TuneResult], tmp_path: Path
) -> None:
    _, result = searched
    best = result.records[0]
    assert best.val_error == min(record.val_error for record in result.records if record.state == "done")
    assert best.val_error < next(r.val_error for r in result.records if r.number == 0), "better than the recipe itself"
    assert result.recipe is not None
    recipe = read_recipe(result.recipe)
    assert (recipe.lr, recipe.lambda_rec) == (best.values["lr"], best.values["lambda_rec"])
    assert recipe.model_args["drop_rate"] == best.values["model_args.drop_rate"]
    again = train_rounds(replace(recipe, device="cpu", out=str(tmp_path / "again")))[0]
    assert again["val_error"] == best.val_error
    assert "lambda_middle" not in result.recipe.read_text(), "what does not differ from the defaults is not said"


def test_the_recipe_itself_is_tried_first_and_each_trial_stays_in_range(searched: tuple[Path, TuneResult]) -> None:
    _, result = searched
    first = next(record for record in result.records if record.number == 0)
    assert first.values == {"lambda_rec": 1.0, "lr": 0.01, "model_args.drop_rate": 0.0}
    assert len({tuple(record.values.values()) for record in result.records}) == len(result.records) == 10
    for record in result.records:
        assert 0.1 <= record.values["lambda_rec"] <= 10 and 1e-5 <= record.values["lr"] <= 0.1
        assert 0 <= record.values["model_args.drop_rate"] <= 0.5


def test_a_trial_that_falls_behind_stops_early(searched: tuple[Path, TuneResult]) -> None:
    out, result = searched
    early = [record for record in result.records if record.state == "stopped early"]
    assert early
    for record in early:
        lines = (out / "trials" / f"{record.number:04d}" / "metrics.jsonl").read_text().splitlines()
        assert 4 <= max(json.loads(line)["step"] for line in lines) < BASE.steps
        finished = [r for r in result.records if r.state == "done" and r.number < record.number]
        assert record.val_error > min(r.val_error for r in finished)


def test_test_images_are_not_looked_at_and_no_weights_are_kept(searched: tuple[Path, TuneResult]) -> None:
    out, result = searched
    done = [record for record in result.records if record.state == "done"]
    for record in done:
        folder = out / "trials" / f"{record.number:04d}"
        written = json.loads((folder / "result.json").read_text())
        assert written["test_error"] is None and written["test_rec"] is None
        assert written["val_error"] == record.val_error
    assert done and not list(out.rglob("*.safetensors")) and not list(out.rglob("checkpoint.pt"))


def test_the_picture_shows_every_trial(searched: tuple[Path, TuneResult]) -> None:
    _, result = searched
    with Image.open(result.picture) as picture:
        assert picture.width > 1000 and picture.height > 500
        assert len(picture.convert("RGB").resize((200, 100)).getcolors(20000) or []) > 50


def test_a_study_goes_on_as_an_unbroken_one(searched: tuple[Path, TuneResult], tmp_path: Path) -> None:
    _, whole = searched
    for trials in (3, 6):
        parts = run(tmp_path / "out", trials)
        assert len(parts.records) == trials
    assert parts.records == [record for record in whole.records if record.number < 6]
    assert run(tmp_path / "out", 6).records == parts.records, "there are enough already"


def test_another_seed_draws_other_trials(searched: tuple[Path, TuneResult], tmp_path: Path) -> None:
    _, whole = searched
    other = run(tmp_path / "out", 2, replace(BASE, seed=1))
    ours, theirs = ({r.number: r.values for r in result.records} for result in (other, whole))
    assert ours[0] == theirs[0] and ours[1] != theirs[1]


def test_a_trial_that_fails_has_a_reason_and_the_search_goes_on(tmp_path: Path) -> None:
    result = run(tmp_path / "out", 6, replace(BASE, opt="sgd"), search=("lr=0.01:1e18:log",))
    states = {record.number: record.state for record in result.records}
    assert len(states) == 6 and states[0] == "done" and "failed" in states.values()
    reasons = [record.reason for record in result.records if record.state == "failed"]
    assert all("no longer finite" in reason for reason in reasons), reasons
    assert result.records[0].state == "done"


def test_a_search_without_a_success_ends(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="3 trials failed and none succeeded: .* no longer finite"):
        run(tmp_path / "out", 6, replace(BASE, opt="sgd", lr=1e15), search=("lr=1e14:1e18:log",))


def test_hours_put_a_trial_aside(tmp_path: Path, searched: tuple[Path, TuneResult]) -> None:
    """The time is over in the middle of the first trial, which then goes on in its folder."""
    often = replace(BASE, save_every=2)
    first = run(tmp_path / "out", 3, often, hours=0.0)
    assert first.records == [] and first.recipe is None
    resumed = tmp_path / "out" / "trials" / "0000"
    assert (resumed / "checkpoint.pt").exists()
    later = run(tmp_path / "out", 1, often)
    assert [record.val_error for record in later.records] == [
        record.val_error for record in searched[1].records if record.number == 0
    ]
    assert json.loads((resumed / "run.json").read_text())["resumed"], "it went on, and began no new run"


COMMAND = """
from swwae_zoo.cli.main import app
sys.argv = ["swwae", "tune", "--recipe", RECIPE, "--trials", TRIALS, *SEARCH, "--out", OUT, *MORE]
app()
"""


def started(
    child: Callable[..., Any],
    folder: Path,
    recipe: RunConfig,
    trials: int,
    out: Path,
    *more: str,
    held_at: int = -1,
    until: str = "",
) -> Any:
    path = folder / "recipe.toml"
    path.write_text(to_toml(recipe))
    search = [part for text in SEARCH for part in ("--search", text)]
    names = {"RECIPE": str(path), "TRIALS": str(trials), "SEARCH": search, "OUT": str(out), "MORE": list(more)}
    return child(HELD + COMMAND, HELD_AT=held_at, UNTIL=until, **names)


def wait_for(file: Path, process: Any, log: Path) -> None:
    end = time.monotonic() + 240
    while not file.exists():
        assert time.monotonic() < end and process.is_alive(), log.read_text()
        time.sleep(0.01)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_stopped_or_killed_in_a_trial_and_the_same_command_again(
    number: signal.Signals, tmp_path: Path, child: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, out, log = replace(BASE, save_every=10), tmp_path / "out", tmp_path / "stderr"
    process = started(child, tmp_path, recipe, 2, out, held_at=12)
    wait_for(out / "trials" / "0000" / "checkpoint.pt", process, log)
    os.kill(process.pid, number)
    process.join(120)
    if number == signal.SIGINT:
        assert process.exitcode == 130
        assert log.read_text().splitlines()[-1] == (
            f"stopped; the study is kept: the same command goes on with it ({out})"
        )
    else:
        with sqlite3.connect(out / "study.db") as study:  # an hour goes by
            study.execute("UPDATE trial_heartbeats SET heartbeat = datetime(heartbeat, '-1 hour')")
        study.close()
    process = started(child, tmp_path, recipe, 2, out)
    process.join(240)
    assert process.exitcode == 0, log.read_text()
    assert json.loads((out / "trials" / "0000" / "run.json").read_text())["resumed"]
    trials = study_of(out).trials
    assert sum(trial.state.name == "COMPLETE" for trial in trials) == 2 and trials[1].user_attrs["instead_of"] == 0
    whole = train_rounds(replace(recipe, out=str(tmp_path / "whole")))  # trial 0 is the recipe itself
    assert trials[1].value == whole[0]["val_error"], "a trial that goes on ends as an unbroken run"


def test_processes_share_a_study(tmp_path: Path, child: Callable[..., Any]) -> None:
    url = f"sqlite:///{tmp_path / 'shared.db'}"
    (tmp_path / "a").mkdir(), (tmp_path / "b").mkdir()
    both = []
    for name in "ab":
        more = ("--storage", url, "--study", "x y")
        until = {"held_at": 1, "until": f"{tmp_path}/b/out/trials/*"} if name == "a" else {}  # both have some to do
        both.append(started(child, tmp_path / name, BASE, 6, tmp_path / name / "out", *more, **until))
        # The first trial is in hand before the other begins: SQLite may give one that waits to both.
        wait_for(tmp_path / name / "out" / "trials", both[-1], tmp_path / "stderr")
    for process in both:
        process.join(240)
        assert process.exitcode == 0, (tmp_path / "stderr").read_text()
    trials = optuna.load_study(study_name="x y", storage=url).trials
    assert 6 <= len(trials) <= 7 and all(trial.state.name in ("COMPLETE", "PRUNED") for trial in trials)
    folders = {name: {path.name for path in (tmp_path / name / "out" / "trials").iterdir()} for name in "ab"}
    assert folders["a"] and folders["b"] and not folders["a"] & folders["b"]
    assert len({tuple(trial.params.values()) for trial in trials}) == len(trials), "they do not draw the same"
    assert (tmp_path / "a" / "out" / "best.toml").exists()


# --- what is refused, in one line ------------------------------------------------------------------------


def cli(*args: object) -> Any:
    given = ["--model-arg", "notation=(4)3c-2p-10fc", "--steps", "4", "--data", "digits", "--device", "cpu"]
    return CliRunner().invoke(app, ["tune", *given, *map(str, args)])


@pytest.mark.parametrize(
    "args, words",
    [
        (["--search", "lr"], None),
        (["--search", "lrr=1:2"], "'lrr' cannot be searched; did you mean lr?"),
        (["--search", "opt=1:2"], "'opt' cannot be searched"),
        (["--search", "model_args=1:2"], "such as model_args.NAME"),
        (["--search", "num_labels=10:20"], "'num_labels' cannot be searched"),
        (["--search", "lr=1"], "expected KEY=LOW:HIGH"),
        (["--search", "lr=1:2:lin"], "expected KEY=LOW:HIGH"),
        (["--search", "lr=a:b"], "expected numbers on both sides"),
        (["--search", "lr=1e999:2"], "expected numbers on both sides"),
        (["--search", "lr=2:1"], "expected the lower end first"),
        (["--search", "lr=0:1:log"], "a logarithmic range begins above 0"),
        (["--search", "lr=-1:1"], "lr: got -1.0, expected a number above 0"),
        (["--search", "ema=0.5:1"], "ema: got 1.0, expected a number at least 0 and below 1"),
        (["--search", "steps=1.5:3"], "steps is a whole number"),
        (["--search", "steps=0:3"], "steps, epochs: got 0 and 0"),
        (["--search", "lr", "--search", "lr"], "got lr twice"),
        (["--search", "lambda_l1"], "lambda_l1 is 0.0 in this recipe: say from where to where"),
        (["--search", "dropout=0:1.5"], "drop_rate"),
        (["--lambda-nll", "0"], "lambda_nll: got 0"),
        (["--num-val", "99999"], "num_val"),
        (["--storage", "nonsense"], "storage: nonsense cannot be used"),
        (["--storage", "sqlite:////nowhere/at/all.db"], "unable to open database file"),
        (["--storage", "postgresql://ann:s3cret@localhost:1/db"], "postgresql://ann:***@localhost:1/db cannot be used"),
        (["--labels", "5"], "got 5 labels for 10 classes"),
        (["--opt", "nosuch"], "no optimiser of timm's"),
    ],
)
def test_bad_input_is_one_line(args: list[str], words: str | None, tmp_path: Path) -> None:
    said = cli("--trials", 1, "--out", tmp_path / "out", "--num-val", 100, *args)
    if words is None:
        assert said.exit_code == 0, said.stderr
        return
    errors = [line for line in said.stderr.splitlines() if line.startswith("error: ")]
    assert said.exit_code == 2 and said.stdout == "" and len(errors) == 1, said.stderr
    assert said.stderr.endswith(errors[0] + "\n") and words in errors[0], errors
    assert "s3cret" not in said.stderr


def test_a_process_that_was_taken_for_killed_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It slept, say: another one has set its trial to failed and queued it again."""
    real = module.Search._train

    def train(search: Any, trial: optuna.Trial, *args: Any) -> float:
        error = real(search, trial, *args)
        if trial.number == 0:
            search.study._storage.set_trial_state_values(trial._trial_id, optuna.trial.TrialState.FAIL)
            module.go_on_with_killed(search.study, search.study.trials[0])
        return error

    monkeypatch.setattr(module.Search, "_train", train)
    result = run(tmp_path / "out", 2)
    assert [record.state for record in result.records] == ["done", "done"]
    assert sorted(record.number for record in result.records) == [1, 2]


def test_a_trial_that_ends_while_the_study_is_read(searched: tuple[Path, TuneResult], tmp_path: Path) -> None:
    """Its checksum is not held against what was read before it had one."""
    shutil.copytree(searched[0], tmp_path / "out")
    search = module.Search(BASE, {}, TuneSettings(tmp_path / "out", 10, search=SEARCH))
    search.study, other = search._open(), search._open()
    before, storage, real = len(search.finished), other._storage, search.study.get_trials
    trial = storage.get_trial(storage.create_new_trial(other._study_id))
    ended: list[bool] = []

    def get_trials(**how: Any) -> Any:
        trials = real(**how)
        if not ended:
            ended.append(storage.set_trial_state_values(trial._trial_id, optuna.trial.TrialState.COMPLETE, [5.0]))
            other.set_user_attr(f"{module._SEAL}{trial.number}", module._digest(other.trials[trial.number]))
        return trials

    search.study.get_trials = get_trials
    assert len(search.finished) == before and len(search.finished) == before + 1


def test_another_recipe_or_search_does_not_pass_for_the_studys(tmp_path: Path) -> None:
    run(tmp_path / "out", 1)
    with pytest.raises(ValueError, match=r"was begun with lr = 0.01, got 0.02: give the same, or another"):
        run(tmp_path / "out", 2, replace(BASE, lr=0.02))
    with pytest.raises(ValueError, match=r"searches lambda_rec=0.1:10:log, .*, got lr=0.001:0.1:log: give the same"):
        run(tmp_path / "out", 2, search=("lr",))
    run(tmp_path / "out", 2, replace(BASE, device="auto", log_every=3))


def test_a_damaged_study_and_an_out_that_holds_a_run(tmp_path: Path) -> None:
    (tmp_path / "study.db").write_bytes(b"not a database, but long enough to be looked at" * 30)
    with pytest.raises(ValueError, match="file is not a database"):
        run(tmp_path, 1)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.toml").touch()
    with pytest.raises(ValueError, match="holds a run"):
        run(tmp_path / "run", 1)


@pytest.mark.parametrize(
    ("flips", "cuts"), [(40, 10), pytest.param(300, 100, marks=[pytest.mark.slow, pytest.mark.timeout(1800)])]
)
def test_flips_and_truncations_of_the_study(
    flips: int, cuts: int, searched: tuple[Path, TuneResult], tmp_path: Path
) -> None:
    """A database has no checksum; its finished trials have."""
    shutil.copytree(searched[0], tmp_path / "out")
    search = module.Search(BASE, {}, TuneSettings(tmp_path / "out", 10, search=SEARCH))

    def read() -> list[Any]:
        with module._database_errors(search.out):
            search.study = search._open()
            return sorted(map(str, map(module.record_of, search.finished)))

    told = refused(tmp_path / "out" / "study.db", read, flips, cuts)
    print(f"{told} of {flips + cuts} were refused, the others changed nothing that is read")
    assert told > cuts // 2


def test_odd_names(tmp_path: Path) -> None:
    out = tmp_path / "a ?b#%20[c]'\u00e9"
    assert len(run(out, 1).records) == 1 and (out / "study.db").is_file()


def test_without_optuna_one_line(tmp_path: Path) -> None:
    code = (
        "import sys, importlib.util; found = importlib.util.find_spec\n"
        "importlib.util.find_spec = lambda name, *more: None if name == 'optuna' else found(name, *more)\n"
        "from swwae_zoo.cli.main import app\n"
        f"sys.argv = ['swwae', 'tune', '--out', {str(tmp_path / 'out')!r}]\n"
        "app()"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (said.returncode, said.stderr) == (2, "error: tune: needs optuna: pip install 'swwae_zoo[tune]'\n")
    assert not (tmp_path / "out").exists()


# --- the command ----------------------------------------------------------------------------------------


def test_the_table_and_the_command_that_trains_the_best(tmp_path: Path) -> None:
    out = tmp_path / "my tune"
    said = cli("--num-val", 100, "--search", "lr", "--search", "lambda_rec", "--trials", 2, "--out", out)
    assert said.exit_code == 0, said.stderr
    lines = said.stdout.splitlines()
    assert re.fullmatch(r"trial  val error %  lr +lambda_rec", lines[0]) and lines[1].endswith("best")
    assert lines[-1] == f"train it with: swwae train --recipe '{out}/best.toml' --out RUN"
    trained = CliRunner().invoke(
        app, ["train", "--recipe", f"{out}/best.toml", "--out", str(tmp_path / "run"), "--device", "cpu", "--json"]
    )
    assert trained.exit_code == 0, trained.stderr
    assert f"{json.loads(trained.stdout)[0]['val_error']:.2f}" == lines[1].split()[1]

    as_json = cli("--num-val", 100, "--search", "lr", "--search", "lambda_rec", "--trials", 2, "--out", out, "--json")
    found = json.loads(as_json.stdout)
    assert found["recipe"] == f"{out}/best.toml" and len(found["trials"]) == 2


def test_without_validation_images_a_tenth_is_held_out(tmp_path: Path) -> None:
    said = cli("--search", "lr", "--trials", 1, "--out", tmp_path / "out", "--num-val", 0)
    assert said.exit_code == 0 and "num_val: a tenth of the training images" in said.stderr
    assert read_recipe(tmp_path / "out" / "best.toml").num_val == -1


def test_what_is_searched_by_default() -> None:
    keys = {one.key: one for one in default_ranges(replace(BASE, lambda_l1=0.02, lr_encoder=0.001), True)}
    assert list(keys) == [
        "lambda_rec", "lambda_middle", "lambda_l1", "lr", "lr_encoder", "weight_decay", "model_args.drop_rate", "steps",
    ]  # fmt: skip
    assert str(keys["lambda_l1"]) == "lambda_l1=0.002:0.2:log" and keys["steps"].whole
    plain = replace(BASE, lambda_middle=[1.0, 2.0], steps=0, epochs=3, weight_decay=0.5, min_lr=0.009)
    again = {one.key: str(one) for one in default_ranges(plain, False)}
    assert list(again) == ["lambda_rec", "lr", "weight_decay", "epochs"], "a list of lambdas stays as it is"
    assert again["lr"] == "lr=0.009:0.1:log" and again["weight_decay"] == "weight_decay=0.05:5:log"
    assert parse_ranges(["length"], plain)[0].key == "epochs"
    assert module._has_dropout(BASE)
