"""`swwae eval`, timm's local-dir: with `preprocess_of`, and a run's own result.json state one and the same error."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from hub_server.fixtures import make_run
from PIL import Image

import swwae_zoo
from swwae_zoo.analysis.evaluate import evaluate, images_of
from swwae_zoo.analysis.load import Trained
from swwae_zoo.config import merge, read_recipe
from swwae_zoo.data import load_images
from swwae_zoo.training.evaluate import classification_error
from swwae_zoo.training.rounds import train_rounds
from swwae_zoo.utils.precision import Autocast

NET = {"notation": "(8)3c-2p-(8)3c-2p-10fc"}
SHORT = {
    "data": "digits", "num_labels": 50, "unlabeled": "same", "num_val": 100, "steps": 12, "warmup_steps": 0,
    "batch_size": 16, "labeled_batch": 16, "rounds": 1, "twin": False, "device": "cpu", "seed": 3, "lr": 1e-2,
}  # fmt: skip


@pytest.mark.parametrize(
    "recipe, given",
    [
        ("swwae_mnist", {}),  # a moving average, strong views, bf16 where the processor has it
        ("swwae_mnist", {"amp": "bf16"}),
        ("paper_mnist", {"amp": "off", "channels_last": False}),
        ("swwae_svhn", {"contrast": "image"}),
        ("swwae_cifar_vgg", {"contrast": "image", "amp": "bf16"}),
        ("swwae_wrap", {"model_args": {"backbone": "test_resnet"}}),
        ("table4_unsup", {}),
    ],
)
def test_three_ways_to_one_error(recipe: str, given: dict[str, Any], tmp_path: Path) -> None:
    base = read_recipe(recipe)
    args = NET if base.model != "swwae_wrap" else {}
    config = merge(base, {"model_args": args, **SHORT, "out": str(tmp_path / "run"), **given}, adapt=False)
    [result] = train_rounds(config)
    stated = json.loads((tmp_path / "run" / "result.json").read_text())
    trained = swwae_zoo.load(tmp_path / "run", device="cpu")
    measured = evaluate(trained)
    assert measured["error"] == stated["test_error"] == result["test_error"]
    assert (measured["error"] is None) == (recipe == "table4_unsup")
    if stated["test_rec"] is not None:
        assert measured["reconstruction"] == pytest.approx(stated["test_rec"], rel=1e-5)
    if measured["error"] is None:
        return
    assert evaluate(trained, split="val")["error"] == stated["val_error"]
    model = timm.create_model(f"local-dir:{tmp_path / 'run' / 'last'}", pretrained=True).eval()
    test = load_images("digits", "test", in_chans=model.in_chans)
    prepare, autocast = swwae_zoo.preprocess_of(model), Autocast(config.amp, torch.device("cpu"))
    assert classification_error(model, test, prepare, autocast) == measured["error"]


def test_other_weights_and_another_precision_are_told_apart(tmp_path: Path) -> None:
    """What the agreement is about: both would have given other figures."""
    config = merge(read_recipe("swwae_mnist"), {"model_args": NET, **SHORT, "out": str(tmp_path / "run")}, adapt=False)
    train_rounds(merge(config, {"amp": "bf16", "eval_every": 1, "ema": 0.0, "lambda_consistency": 0.0}))
    last, best = (swwae_zoo.load(tmp_path / "run", weights, "cpu") for weights in ("last", "best"))
    assert last.autocast().dtype == torch.bfloat16 and evaluate(last)["amp"] == "bf16"
    assert evaluate(last, amp="off")["reconstruction"] != evaluate(last)["reconstruction"]
    assert evaluate(last)["reconstruction"] != evaluate(best)["reconstruction"]


def test_the_validation_images_are_those_of_the_run(tmp_path: Path) -> None:
    make_run(tmp_path / "run", num_val=100, seed=5)
    trained = swwae_zoo.load(tmp_path / "run", device="cpu")
    val, train = images_of(trained, split="val"), load_images("digits", "train")
    assert val.count == 100 and val.labels is not None and val.labels.bincount().tolist() == [10] * 10
    known = {image.numpy().tobytes() for image in train.images}
    assert all(image.numpy().tobytes() in known for image in val.images)
    make_run(tmp_path / "other", num_val=100, seed=6)
    other = images_of(swwae_zoo.load(tmp_path / "other", device="cpu"), split="val")
    assert not torch.equal(other.images, val.images)
    make_run(tmp_path / "none")
    with pytest.raises(ValueError, match=r"held out no validation images \(num_val = 0\): measure --split test"):
        evaluate(swwae_zoo.load(tmp_path / "none", device="cpu"), split="val")


def test_what_a_tag_was_trained_on_has_to_be_said() -> None:
    trained = swwae_zoo.load("swwae_mnist.mnist_full", device="cpu")
    with pytest.raises(ValueError, match="does not say what it was trained on, as a run does: give --data"):
        evaluate(trained)
    with pytest.raises(ValueError, match="digits has no validation images of its own"):
        evaluate(trained, "digits", "val")
    with pytest.raises(ValueError, match="expected one of test, train, val"):
        evaluate(trained, "digits", "unlabeled")
    measured = evaluate(trained, "digits", "train")
    assert measured["images"] == 1297 and measured["error"] < 60 and measured["amp"] == "off"


def test_predict_and_eval_agree_on_a_folder(tmp_path: Path) -> None:
    """Pictures of many sizes, through a net whose training images were padded: both bring them into the same frame."""
    rng = np.random.default_rng(0)
    for number in range(12):
        folder = tmp_path / "set" / "test" / str(number % 10)
        folder.mkdir(parents=True, exist_ok=True)
        (tmp_path / "set" / "train" / str(number % 10)).mkdir(parents=True, exist_ok=True)
        size = rng.integers(20, 90, 2)
        Image.fromarray(rng.integers(0, 255, (*size, 3), dtype=np.uint8)).save(folder / f"{number}.png")
    trained: Trained = swwae_zoo.load("swwae_mnist.mnist_100", device="cpu")
    seen: list[torch.Tensor] = []
    handle = trained.model.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    measured = evaluate(trained, f"folder:{tmp_path / 'set'}")
    files = sorted((tmp_path / "set" / "test").glob("*/*.png"))
    predicted = trained.predict(files, top=1)
    handle.remove()
    wrong = sum(best.name != file.parent.name for [best], file in zip(predicted, files, strict=True))
    assert measured["error"] == pytest.approx(100 * wrong / 12)
    assert torch.equal(*(x for x in seen if len(x) == 12))
