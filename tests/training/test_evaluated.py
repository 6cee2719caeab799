"""The callback that hears each validation error, and may end the run."""

from pathlib import Path
from typing import Any

import pytest

from swwae_zoo.config import RunConfig
from swwae_zoo.training.build import build_model, input_shape, resolve_device, splits_of
from swwae_zoo.training.progress import Progress
from swwae_zoo.training.run_directory import RunDirectory
from swwae_zoo.training.trainer import Trainer

pytestmark = pytest.mark.usefixtures("one_thread")
CONFIG = RunConfig(
    model_args={"notation": "(4)3c-2p-10fc", "img_size": 16},
    num_labels=50,
    num_val=100,
    steps=7,
    eval_every=3,
    save_every=3,
    batch_size=8,
    labeled_batch=8,
    device="cpu",
)


def trainer_in(folder: Path, resume: bool = False, **changes: Any) -> Trainer:
    config = RunConfig(**{**CONFIG.__dict__, **changes, "out": str(folder)})
    splits = splits_of(config, input_shape(config))
    directory = RunDirectory(folder, resume)
    directory.begin(config)
    model = build_model(config, splits.num_classes)
    return Trainer(config, model, splits, directory, resolve_device("cpu"), Progress(quiet=True))


def test_it_hears_every_validation_error(tmp_path: Path) -> None:
    heard: list[tuple[int, float]] = []
    trainer = trainer_in(tmp_path / "run")
    result = trainer.run(evaluated=lambda *told: heard.append(told))
    logged = [(line["step"], line["val_error"]) for line in trainer.directory.metrics() if "val_error" in line]
    assert heard == logged and [step for step, _ in heard] == [3, 6, 7]
    assert heard[-1][1] == result["val_error"]


def test_what_it_raises_ends_the_run_which_is_saved_and_goes_on(tmp_path: Path) -> None:
    def second(step: int, error: float) -> None:
        if step == 6:
            raise RuntimeError("enough")

    stopped = trainer_in(tmp_path / "run")
    with pytest.raises(RuntimeError, match="enough"):
        stopped.run(evaluated=second)
    stopped.directory.release()
    state = stopped.directory.load_checkpoint()
    assert state is not None and state["step"] == 6 and not (tmp_path / "run" / "result.json").exists()
    result = trainer_in(tmp_path / "run", resume=True).run()
    whole = trainer_in(tmp_path / "whole").run()
    assert (result["val_error"], result["test_error"]) == (whole["val_error"], whole["test_error"])


def test_without_validation_images_it_hears_nothing(tmp_path: Path) -> None:
    trainer_in(tmp_path / "run", num_val=0).run(evaluated=lambda *told: pytest.fail("there is no error"))
