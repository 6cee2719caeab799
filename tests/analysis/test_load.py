"""`swwae eval` and `swwae reconstruct`: a trained model read back, measured, and drawn."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from swwae_zoo.analysis.load import load
from swwae_zoo.cli.main import app
from swwae_zoo.data import load_images
from swwae_zoo.utils.json_files import read_json

NET = "notation=(4)3c-2p-(4)3c-2p-10fc"


def swwae(*args: object, code: int = 0) -> Any:
    result = CliRunner().invoke(app, [str(arg) for arg in args])
    assert result.exit_code == code, result.output
    return result


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "digits"
    swwae(
        "train",
        "--model",
        "swwae_mnist",
        "--model-arg",
        NET,
        "--data",
        "digits",
        "--labels",
        20,
        "--steps",
        2,
        "--batch-size",
        16,
        "--labeled-batch",
        16,
        "--device",
        "cpu",
        "--out",
        out,
        "--num-val",
        0,
        "--rounds",
        1,
        "--no-twin",
        "--amp",
        "off",
        "--warmup-steps",
        0,
    )  # the model's recipe is a full run
    return out


@pytest.fixture
def digits(tmp_path: Path) -> list[Path]:
    """Three digits as PNG files, one of them in colour and wider than high."""
    paths = []
    for i, image in enumerate(load_images("digits", "test").images[:3]):
        paths.append(tmp_path / f"{i}.png")
        picture = Image.fromarray(image[0].numpy())
        if i == 2:
            picture = picture.resize((60, 40)).convert("RGB")
        picture.save(paths[-1])
    return paths


def test_eval_agrees_with_training(run: Path) -> None:
    trained = read_json(run / "result.json", dict, "")
    measured = json.loads(swwae("eval", run, "--device", "cpu", "--json").stdout)
    assert measured["error"] == pytest.approx(trained["test_error"]) and measured["split"] == "test"
    assert measured["reconstruction"] == pytest.approx(trained["test_rec"], rel=1e-4)
    assert measured["model"] == str(run / "last") and measured["images"] == len(load_images("digits", "test").labels)
    last = swwae("eval", run / "best", "--split", "train", "--device", "cpu").stdout
    assert "train images of digits" in last and " %\n" in last


def test_eval_counts_wrong_answers(run: Path, tmp_path: Path) -> None:
    images = load_images("digits", "test").images[:40].permute(0, 2, 3, 1).numpy()
    saved = load(run, device="cpu")
    answers = saved.model(saved.prepare(torch.from_numpy(images).permute(0, 3, 1, 2))).argmax(1).numpy()
    answers[:10] = (answers[:10] + 1) % 10
    np.savez(tmp_path / "set.npz", x_train=images, y_train=answers, x_test=images, y_test=answers)
    shown = swwae("eval", run, "--data", f"npz:{tmp_path}/set.npz", "--device", "cpu", "--json")
    assert json.loads(shown.stdout)["error"] == 25.0


def test_reconstruct(run: Path, digits: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "seen.png"
    shown = json.loads(swwae("reconstruct", *digits, "--run", run, "--out", out, "--device", "cpu", "--json").stdout)
    with Image.open(out) as picture:
        assert picture.width > picture.height > 100
    saved = load(run, device="cpu")
    x = saved.transform(digits)
    expected = (saved.model.forward_swwae(x).reconstruction - x).square().mean().item()
    assert shown["what_where"] == pytest.approx(expected, rel=1e-4) and shown["what_alone"] != shown["what_where"]
    assert "3 images" in swwae("reconstruct", *digits, "--run", run, "--out", out, "--device", "cpu").stdout


def test_pictures_are_prepared_as_the_data_set_is(run: Path, digits: list[Path]) -> None:
    saved = load(run, device="cpu")
    x = saved.transform(digits)
    assert x.shape == (3, 1, 32, 32)
    assert torch.equal(x[:2], saved.prepare(load_images("digits", "test").images[:2]))


def refused(*args: object) -> str:
    result = swwae(*args, code=2)
    assert result.stdout == "" and result.stderr.count("\n") == 1
    return result.stderr


def test_refusals(run: Path, digits: list[Path], tmp_path: Path) -> None:
    assert "is a folder without a model" in refused("eval", tmp_path)
    assert "expected one of last, best" in refused("eval", run, "--weights", "first")
    assert "digits" in refused("eval", run, "--data", "digitz")
    digits[1].write_bytes(digits[1].read_bytes()[:60])
    out = tmp_path / "none.png"
    assert f"{digits[1]}: image file is truncated" in refused("reconstruct", *digits, "--run", run, "--out", out)
    assert "absent.png: No such file" in refused("reconstruct", "absent.png", "--run", run, "--out", out)
    assert not out.exists()
    assert "there is no folder" in refused("reconstruct", digits[0], "--run", run, "--out", tmp_path / "no" / "a.png")


def test_other_classes_are_refused(run: Path, tmp_path: Path) -> None:
    images = np.zeros((12, 32, 32, 1), np.uint8)
    np.savez(tmp_path / "set.npz", x_train=images, y_train=np.arange(12), x_test=images, y_test=np.arange(12))
    assert "trained for 10 classes" in refused("eval", run, "--data", f"npz:{tmp_path}/set.npz")


def test_weights_that_cannot_be_loaded(run: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(run, copy)
    weights = copy / "last" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    assert "model.safetensors can't be loaded" in refused("eval", copy)
    weights.unlink()
    assert "has no model.safetensors" in refused("eval", copy)
    about = json.loads((copy / "best" / "config.json").read_text())
    about["model_args"]["notation"] = "(8)3c-2p-10fc"
    (copy / "best" / "config.json").write_text(json.dumps(about))
    assert "model.safetensors can't be loaded" in refused("eval", copy / "best")
    (copy / "seed0").mkdir()
    shutil.copy(copy / "config.toml", copy / "seed0")
    assert f"holds 1 runs: choose one of {copy / 'seed0'}" in refused("eval", copy)
