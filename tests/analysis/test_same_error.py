"""Each kind of recipe through the commands: `swwae train`, `swwae eval` and timm's local-dir: state one error."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from typer.testing import CliRunner

import swwae_zoo
from swwae_zoo.analysis.preprocess import transform_of
from swwae_zoo.cli.main import app
from swwae_zoo.config import read_recipe
from swwae_zoo.data import load_images
from swwae_zoo.training.classes import labels_for
from swwae_zoo.training.evaluate import classification_error
from swwae_zoo.utils.precision import Autocast

NOTATION = ["--model-arg", "notation=(8)3c-2p-(8)3c-2p-10fc"]
SHORT = ["--steps", "6", "--warmup-steps", "0", "--batch-size", "16", "--labeled-batch", "16", "--lr", "0.01"]
ROUND = ["--rounds", "1", "--no-twin", "--device", "cpu", "--eval-every", "3"]


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Digits as a user's own files: colour, a light background of its own each, and hardly two of one size."""
    folder, random = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    for split, count in (("train", 150), ("test", 150)):
        digits = load_images("digits", split)
        assert digits.labels is not None
        for number in range(count):
            home = folder / split / f"digit {digits.labels[number]}"
            home.mkdir(parents=True, exist_ok=True)
            picture = Image.fromarray(digits.images[number, 0].numpy()).resize(random.integers(20, 60, 2).tolist())
            tint = random.uniform(0.3, 1, 3)
            Image.fromarray((np.asarray(picture)[..., None] * tint).astype(np.uint8)).save(home / f"{number}.png")
    return folder


@pytest.mark.parametrize(
    "recipe, flags",
    [
        ("swwae_mnist", [*NOTATION, "--img-size", "24x20", "--amp", "bf16"]),
        ("swwae_svhn", NOTATION),  # contrast = "image", as the next one
        ("swwae_stl10", [*NOTATION, "--img-size", "36x32"]),
        ("swwae_cifar_vgg", [*NOTATION, "--contrast", "image", "--amp", "off"]),
        ("swwae_wrap", []),
        ("swwae_wrap_pretrained", ["--model-arg", "backbone=test_resnet", "--img-size", "40", "--contrast", "image"]),
        *(
            pytest.param(recipe, flags, marks=pytest.mark.slow)
            for recipe, flags in [
                ("swwae_mnist", NOTATION),
                ("paper_mnist", [*NOTATION, "--contrast", "image"]),
                ("swwae_svhn", [*NOTATION, "--img-size", "18x25", "--amp", "bf16"]),
                ("table3_cifar10", [*NOTATION, "--amp", "bf16"]),
                ("swwae_cifar_vgg", NOTATION),
                ("swwae_wrap", ["--backbone", "test_resnet", "--img-size", "40x32", "--contrast", "image"]),
                ("swwae_wrap_pretrained", ["--model-arg", "backbone=test_efficientnet", "--img-size", "48"]),
                ("swwae_wrap_pretrained", ["--model-arg", "backbone=test_convnext", "--amp", "bf16"]),
            ]
        ),
    ],
)
def test_one_error(recipe: str, flags: list[str], photos: Path, tmp_path: Path) -> None:
    """On pictures that have to be scaled and cropped, in the precision of the run."""
    out, data = tmp_path / "run", f"folder:{photos}"
    given = ["--recipe", recipe, "--data", data, "--unlabeled", "same", "--labels", "60", "--num-val", "40"]
    swwae("train", *given, *SHORT, *ROUND, *flags, "--out", str(out))
    stated, config = json.loads((out / "result.json").read_text()), read_recipe(out / "config.toml")
    for weights in ("last", "best"):
        of_run = [str(out), "--weights", weights, "--device", "cpu", "--json"]
        error = swwae("eval", *of_run)["error"]
        model: Any = timm.create_model(f"local-dir:{out / weights}", pretrained=True).eval()
        size, prepare = transform_of(model).stored_size, swwae_zoo.preprocess_of(model)
        test = load_images(data, "test", img_size=size, in_chans=model.in_chans)
        assert test.labels is not None and len(test.labels) == 150
        test = test.labelled(labels_for(model, test.labels, test.class_names, "the test images"), test.class_names)
        autocast = Autocast(config.amp, torch.device("cpu"))
        assert classification_error(model, test, prepare, autocast) == error
        if weights == "last":
            assert (
                error == stated["test_error"]
                and swwae("eval", *of_run, "--split", "val")["error"] == stated["val_error"]
            )
            found = swwae("predict", str(photos / "test"), "--model", *of_run, "--batch-size", "512")
            wrong = sum(each["predictions"][0]["name"] != Path(each["file"]).parent.name for each in found)
            assert 100 * wrong / len(found) == pytest.approx(error)


def swwae(*args: str) -> Any:
    result = CliRunner().invoke(app, args)
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout) if "--json" in args else result.stdout
