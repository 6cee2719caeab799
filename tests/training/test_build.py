"""Runs that start from another run's weights, whole or with a frozen encoder."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import load_file
from timm.models import save_for_hf
from typer.testing import CliRunner

from swwae_zoo.cli.main import app
from swwae_zoo.config import RunConfig
from swwae_zoo.models._data_config import describe_training_data
from swwae_zoo.training.build import build_model, initial_weights, load_initial
from swwae_zoo.training.rounds import train_rounds

pytestmark = pytest.mark.usefixtures("one_thread")
TINY = {"notation": "(4)3c-2p-(4)3c-2p-10fc", "img_size": 32}
BASE = RunConfig(model_args=TINY, num_labels=50, num_val=50, steps=4, batch_size=24, labeled_batch=16, lr=1e-2)


@pytest.fixture(scope="module")
def learned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An unsupervised run."""
    out = tmp_path_factory.mktemp("learned") / "run"
    train_rounds(replace(BASE, lambda_nll=0.0, out=str(out)))
    return out


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "last" / "model.safetensors")


@pytest.mark.parametrize("name", [".", "best", "last"])
def test_a_run_starts_from_anothers_weights(learned: Path, name: str) -> None:
    model = build_model(replace(BASE, seed=5, init=str(learned / name)), num_classes=10)
    saved = weights(learned)
    assert all(torch.equal(value, saved[key]) for key, value in model.state_dict().items())
    fresh = build_model(replace(BASE, seed=5), num_classes=10)
    assert not torch.equal(fresh.stages[0].convs[0].conv.weight, model.stages[0].convs[0].conv.weight)


def test_a_frozen_encoder_keeps_them_and_the_classifier_learns(learned: Path, tmp_path: Path) -> None:
    supervised = replace(BASE, init=str(learned), lambda_rec=0.0, lambda_middle=0.0)
    train_rounds(replace(supervised, freeze_stages=2, out=str(tmp_path / "frozen")))
    train_rounds(replace(supervised, out=str(tmp_path / "free")))
    saved, frozen, free = weights(learned), weights(tmp_path / "frozen"), weights(tmp_path / "free")
    for key in saved:
        if key.startswith("stages."):
            assert torch.equal(saved[key], frozen[key]) and not torch.equal(saved[key], free[key]), key
    assert not torch.equal(saved["head.fc.weight"], frozen["head.fc.weight"])


def test_other_classes_leave_the_classifier_as_it_was_drawn(learned: Path) -> None:
    model = timm.create_model("swwae_mnist", **TINY, num_classes=7)
    drawn = model.head.fc.weight.clone()
    load_initial(model, learned)
    assert torch.equal(model.head.fc.weight, drawn)
    assert torch.equal(model.stages[1].convs[0].conv.weight, weights(learned)["stages.1.convs.0.conv.weight"])


def named(folder: Path, *names: str) -> Path:
    """A trained model of these classes."""
    torch.manual_seed(len(names))
    model = timm.create_model("swwae_mnist", notation="(4)3c-2p-3fc", num_classes=len(names))
    describe_training_data(model, label_names=names)
    save_for_hf(model, str(folder), safe_serialization=True)
    return folder


def started(source: Path | str, *names: str) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, str]:
    """The classifier as it was drawn, that of the source, and what became of it."""
    torch.manual_seed(99)
    model = timm.create_model("swwae_mnist", notation="(4)3c-2p-3fc", num_classes=len(names))
    drawn = model.head.fc.weight.clone()
    line = load_initial(model, source, names)
    saved = load_file(Path(source) / "model.safetensors")
    bias, weight = model.head.fc.bias, model.head.fc.weight
    for row, value in enumerate(weight):  # a row and its bias go together
        found = [place for place, own in enumerate(saved["head.fc.weight"]) if torch.equal(own, value)]
        assert not found or torch.equal(saved["head.fc.bias"][found[0]], bias[row])
    return drawn, saved["head.fc.weight"], weight.detach(), line


def test_a_classifier_is_taken_over_by_the_names_of_its_classes(tmp_path: Path) -> None:
    source = named(tmp_path / "net", "cat", "dog", "owl")
    drawn, saved, own, line = started(source, "owl", "cat", "dog")
    assert torch.equal(own, saved[[2, 0, 1]]) and line.endswith("net, its classifier by the names of the classes")
    drawn, saved, own, line = started(source, "dog", "cat")
    assert torch.equal(own, saved[[1, 0]])
    drawn, saved, own, line = started(source, "ant", "dog", "e\x1bl", "owl")
    assert torch.equal(own, torch.stack([drawn[0], saved[1], drawn[2], saved[2]]))
    assert line.endswith(r"of its classifier 2 of 4 classes, by name (new: ant, e\x1bl)")
    drawn, saved, own, line = started(source, "ant", "bee", "fly")
    assert torch.equal(own, drawn) and line.endswith("; the classifier is new, for it knew none of these classes")


def test_classes_without_names_are_matched_by_position(tmp_path: Path) -> None:
    for source in (named(tmp_path / "named", "cat", "dog", "owl"), named(tmp_path / "numbers", "0", "1", "2")):
        _, saved, own, line = started(source, "0", "1", "2")
        assert torch.equal(own, saved) and line.endswith(", its classifier by position")
        drawn, _, own, line = started(source, "0", "1")
        assert torch.equal(own, drawn) and line.endswith("; the classifier is new, for it had other classes")


def test_a_run_starts_from_a_tag() -> None:
    said: list[str] = []
    config = RunConfig(model="swwae_mnist.mnist_100", steps=1)
    digits = tuple("0123456789")
    model = build_model(config, 10, class_names=digits, say=said.append)
    expected = timm.create_model("swwae_mnist.mnist_100", pretrained=True).state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in model.state_dict().items())
    assert said == ["starts from the weights of swwae_mnist.mnist_100, its classifier by position"]
    again = build_model(RunConfig(model="swwae_mnist", init="swwae_mnist.mnist_100", steps=1), 10, class_names=digits)
    assert all(torch.equal(value, expected[name]) for name, value in again.state_dict().items())
    assert initial_weights(RunConfig(steps=1)) == ""
    with pytest.raises(ValueError, match="leave one of them out"):
        initial_weights(replace(config, init="runs/a"))


def test_a_run_starts_from_the_folder_that_its_model_names(learned: Path) -> None:
    """Under timm's own name for it, not from random weights."""
    said: list[str] = []
    config = RunConfig(model=f"local-dir:{learned / 'last'}", steps=1)
    model = build_model(config, 10, class_names=tuple("0123456789"), say=said.append)
    saved = weights(learned)
    assert all(torch.equal(value, saved[key]) for key, value in model.state_dict().items())
    assert said == [f"starts from the weights of {learned / 'last'}, its classifier by position"]


def test_what_can_not_be_started_from_is_said_in_a_line(learned: Path, tmp_path: Path) -> None:
    wider = replace(BASE, init=str(learned), model_args={**TINY, "notation": "(5)3c-2p-(4)3c-2p-10fc"})
    deeper = replace(BASE, init=str(learned), model_args={**TINY, "notation": "(4)3c-2p-(4)3c-2p-(4)3c-2p-10fc"})
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "model.safetensors").write_bytes(b"nothing")
    shutil.copy(learned / "last" / "config.json", broken)
    for config, words in (
        (replace(BASE, init=str(tmp_path)), "is a folder without a model"),
        (wider, "of another net"),
        (deeper, "of another net"),
        (replace(BASE, init=str(broken)), "is no safetensors file, or damaged"),
    ):
        with pytest.raises(ValueError, match=words) as caught:
            build_model(config, num_classes=10)
        assert "\n" not in str(caught.value)


def test_damaged_weights_are_not_started_from(learned: Path, tmp_path: Path) -> None:
    damaged = bytearray((learned / "last" / "model.safetensors").read_bytes())
    damaged[-5] ^= 4
    (tmp_path / "model.safetensors").write_bytes(damaged)
    shutil.copy(learned / "last" / "config.json", tmp_path)
    with pytest.raises(ValueError, match="init: .* is not as it was written") as error:
        build_model(replace(BASE, init=str(tmp_path)), num_classes=10)
    assert "\n" not in str(error.value)


def test_a_home_is_expanded_wherever_a_run_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    for args in (["--data", "digits", "--steps", "2", "--out=~/run"], ["--resume", "--out=~/run"]):
        result = CliRunner().invoke(
            app, ["train", "--model", "swwae_mnist", "--model-arg", "notation=(4)3c-2p-10fc", *args]
        )
        assert result.exit_code == 0, result.output
    result = CliRunner().invoke(app, ["eval", "~/run", "--json"])
    assert result.exit_code == 0, result.output
    args = {"notation": "(4)3c-2p-10fc"}
    build_model(RunConfig(steps=1, model_args=args, init="~/run"), num_classes=10)
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
