"""Real digits, where SWWAE_DATA names a folder that has them (`.ci/run` lays them out)."""

import json
import os
from pathlib import Path

import pytest
import timm
import torch
from typer.testing import CliRunner

from swwae_zoo.cli.main import app
from swwae_zoo.data import Preprocess, load_images

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.skipif(
        not Path(os.environ.get("SWWAE_DATA", "/nowhere"), "MNIST").is_dir(),
        reason="SWWAE_DATA names no folder with MNIST",
    ),
]
TRAIN_COUNTS = [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
TEST_COUNTS = [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]


def test_mnist_as_it_was_published() -> None:
    for split, counts in (("train", TRAIN_COUNTS), ("test", TEST_COUNTS)):
        digits = load_images("mnist", split)
        assert digits.images.shape == (sum(counts), 1, 28, 28) and digits.labels.bincount().tolist() == counts
    padded = Preprocess(32, mean=0.0, std=1.0)(digits.images[:100])
    assert (
        torch.equal(padded[:, :, 2:30, 2:30] * 255, digits.images[:100].float()) and padded[:, :, :2].abs().sum() == 0
    )


def test_from_a_hundred_labels_to_digits_it_never_saw(tmp_path: Path) -> None:
    """A narrow net after seconds of training is far from chance, and so is its reconstruction, read back by timm."""
    out = tmp_path / "run"
    narrow = "notation=(16)5c-2p-(16)3c-2p-(16)3c-2p-10fc"
    done = CliRunner().invoke(
        app,
        [
            "train",
            "--model",
            "swwae_mnist",
            "--model-arg",
            narrow,
            "--data",
            "mnist",
            "--labels",
            "100",
            "--unlabeled",
            "mnist",
            "--num-val",
            "0",
            "--rounds",
            "1",
            "--no-twin",
            "--steps",
            "60",
            "--pseudo-labels",  # of so short a run
            "threshold",
            "--confidence",
            "0.8",
            "--warmup-steps",
            "5",
            "--lr",
            "0.005",
            "--batch-size",
            "48",
            "--labeled-batch",
            "32",
            "--amp",
            "off",
            "--device",
            "cpu",
            "--out",
            str(out),
            "--json",
        ],
    )
    assert done.exit_code == 0, done.output
    (result,) = json.loads(done.stdout)
    assert result["test_error"] < 40 and result["test_rec"] < 0.03, result  # chance: 90 and 0.095
    model = timm.create_model(f"local-dir:{out}/last", pretrained=True).eval()
    digits = load_images("mnist", "test")
    x = Preprocess(32, mean=0.0, std=1.0)(digits.images[:500])
    with torch.no_grad():
        logits, reconstruction, _ = model.forward_swwae(x)
    assert (logits.argmax(1) != digits.labels[:500]).float().mean() < 0.45
    assert (reconstruction - x).square().mean() < 0.4 * x.var()
