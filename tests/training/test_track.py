"""`--track`: what the services hold, read back from their own files; a resumed run doubles no step."""

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from swwae_zoo.config import RunConfig, to_toml
from swwae_zoo.training.rounds import train_rounds
from swwae_zoo.training.run_directory import RunDirectory
from swwae_zoo.training.track import check_service, open_tracker
from swwae_zoo.training.trainer import Trainer
from swwae_zoo.utils.json_files import write_json

CONFIG = RunConfig(
    model_args={"notation": "(4)3c-2p-(4)3c-2p-10fc"}, num_labels=50, num_val=50, steps=8, batch_size=16,
    labeled_batch=16, device="cpu", eval_every=4, log_every=2, save_every=4, augment="shift",
)  # fmt: skip
# What the libraries themselves leave open or call deprecated is not ours.
pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning", "ignore::UserWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    read = EventAccumulator(str(folder / "tensorboard")).Reload()
    return {tag: [(event.step, event.value) for event in read.Scalars(tag)] for tag in read.Tags()["scalars"]}


def logged(folder: Path, key: str) -> list[tuple[int, float]]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [(line["step"], pytest.approx(line[key], rel=1e-6)) for line in lines if key in line]


class Killed(Exception):
    pass


@pytest.fixture
def killed_at_6(monkeypatch: pytest.MonkeyPatch) -> None:
    """Until `monkeypatch.undo()`, a run ends without a word when step 6 is logged, after its last checkpoint."""
    real = Trainer._log

    def log(self: Trainer) -> None:
        real(self)
        if self.step == 6:
            raise Killed

    monkeypatch.setattr(Trainer, "_log", log)


def test_tensorboard_holds_the_metrics_and_the_pictures(tmp_path: Path) -> None:
    train_rounds(replace(CONFIG, out=str(tmp_path), track="tensorboard"))
    held = scalars(tmp_path)
    for key in ("nll", "rec", "middle", "loss", "lr", "val_error", "images_per_second"):
        assert held[key] == logged(tmp_path, key) and held[key], key
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    read = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert set(read.Tags()["images"]) == {"views", "reconstructions"}
    assert read.Images("reconstructions")[0].step == 8 and read.Images("reconstructions")[0].width > 100


def test_a_resumed_run_doubles_no_step(tmp_path: Path, killed_at_6: None, monkeypatch: pytest.MonkeyPatch) -> None:
    config = replace(CONFIG, out=str(tmp_path), track="tensorboard")
    with pytest.raises(Killed):
        train_rounds(config)
    assert [step for step, _ in scalars(tmp_path)["nll"]] == [2, 4, 6]
    monkeypatch.undo()
    train_rounds(config, resume=True)
    held = scalars(tmp_path)
    assert [step for step, _ in held["nll"]] == [2, 4, 6, 8]
    assert held["nll"] == logged(tmp_path, "nll") and held["val_error"] == logged(tmp_path, "val_error")
    train_rounds(config, resume=True)  # finished: nothing more is told
    assert scalars(tmp_path) == held


def test_a_run_tracked_from_its_middle_is_complete(
    tmp_path: Path, killed_at_6: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = replace(CONFIG, out=str(tmp_path))
    with pytest.raises(Killed):
        train_rounds(config)
    monkeypatch.undo()
    train_rounds(replace(config, track="tensorboard"), resume=True)
    assert scalars(tmp_path)["nll"] == logged(tmp_path, "nll")


def test_each_round_has_a_record_and_force_drops_it(tmp_path: Path) -> None:
    config = replace(CONFIG, out=str(tmp_path), track="tensorboard", rounds=2)
    train_rounds(config)
    for seed in (0, 1):
        assert scalars(tmp_path / f"seed{seed}")["nll"] == logged(tmp_path / f"seed{seed}", "nll")
    assert not (tmp_path / "tensorboard").exists()
    train_rounds(replace(config, track="none"), force=True)
    assert not (tmp_path / "seed0" / "tensorboard").exists() and not (tmp_path / "seed0" / "track.json").exists()


CHILD = """
os.environ.update(ENVIRONMENT)
from swwae_zoo.config import read_recipe
from swwae_zoo.training.rounds import train_rounds
from swwae_zoo.training.trainer import Trainer
class Killed(Exception): pass
real = Trainer._log
def log(self):
    real(self)
    if self.step == 6: raise Killed
Trainer._log = log
try:
    train_rounds(read_recipe(RECIPE))
except Killed:
    pass
Trainer._log = real
train_rounds(read_recipe(RECIPE), resume=True)
"""


@pytest.fixture
def in_a_process(tmp_path: Path, child: Callable[..., Any]) -> Callable[..., None]:
    """Killed and resumed in a process of its own: these libraries keep threads and other processes."""

    def run(out: Path, service: str, **env: str) -> None:
        recipe = tmp_path / "recipe.toml"
        recipe.write_text(to_toml(replace(CONFIG, out=str(out), track=service)))
        process = child(CHILD, RECIPE=str(recipe), ENVIRONMENT={"HF_HUB_OFFLINE": "1", **env})
        process.join(120)
        assert process.exitcode == 0, (tmp_path / "stderr").read_text()
        assert (tmp_path / "stdout").read_text() == ""  # standard output is the results'

    return run


def test_trackio_holds_each_step_once(tmp_path: Path, in_a_process: Callable[..., None]) -> None:
    pytest.importorskip("trackio")
    import sqlite3

    in_a_process(tmp_path / "run", "trackio", TRACKIO_DIR=str(tmp_path / "trackio"))
    (database,) = (tmp_path / "trackio").glob("*.db")
    with sqlite3.connect(database) as held:
        rows = [(step, json.loads(metrics)) for step, metrics in held.execute("SELECT step, metrics FROM metrics")]
        runs = {name for (name,) in held.execute("SELECT DISTINCT run_name FROM metrics")}
    held.close()
    assert sorted((step, row["nll"]) for step, row in rows if "nll" in row) == logged(tmp_path / "run", "nll")
    assert sorted((s, row["val_error"]) for s, row in rows if "val_error" in row) == logged(
        tmp_path / "run", "val_error"
    )
    assert any("reconstructions" in row for _, row in rows) and any("views" in row for _, row in rows)
    assert len(runs) == 1


def test_wandb_offline_writes_its_folder(tmp_path: Path, in_a_process: Callable[..., None]) -> None:
    pytest.importorskip("wandb")
    in_a_process(tmp_path / "run", "wandb", WANDB_MODE="offline")
    folders = list((tmp_path / "run" / "wandb").glob("offline-run-*"))
    name = json.loads((tmp_path / "run" / "track.json").read_text())["id"]
    assert folders and all(folder.name.endswith(name) and list(folder.glob("*.wandb")) for folder in folders)
    assert list((tmp_path / "run").glob("wandb/*/files/media/images/reconstructions_8_*.png"))


def test_a_missing_library_is_one_line_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(ValueError, match=r"needs wandb: pip install 'swwae_zoo\[wandb\]'$"):
        train_rounds(replace(CONFIG, out=str(tmp_path / "run"), track="wandb"))
    assert not (tmp_path / "run").exists()
    check_service("none")


@pytest.mark.parametrize("state", [{"service": "tensorboard"}, {"service": "tensorboard", "id": 3, "sent": {"a": "b"}}])
def test_a_record_of_another_kind_is_begun_anew(tmp_path: Path, state: dict[str, Any]) -> None:
    pytest.importorskip("tensorboard")
    write_json(tmp_path / "track.json", state)
    tracker = open_tracker("tensorboard", tmp_path, {})
    tracker.log([{"step": 1, "nll": 2.0}])
    tracker.close()
    assert scalars(tmp_path)["nll"] == [(1, 2.0)]


def test_other_processes_than_the_first_track_nothing(tmp_path: Path) -> None:
    from swwae_zoo.training.run_directory import Elsewhere

    elsewhere = Elsewhere(tmp_path)
    elsewhere.track(replace(CONFIG, track="tensorboard"))
    elsewhere.log(step=1, nll=1.0)
    elsewhere.release()
    assert not list(tmp_path.iterdir()) and isinstance(elsewhere, RunDirectory)
