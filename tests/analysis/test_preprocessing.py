"""A loaded net sees its images as training did: by `preprocess_of`, and by timm's own transform where that can."""

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from hub_server.fixtures import make_run
from PIL import Image
from timm.data import create_transform, resolve_model_data_config
from torch import Tensor

import swwae_zoo
from swwae_zoo.analysis.evaluate import evaluate
from swwae_zoo.analysis.load import load
from swwae_zoo.config import read_recipe, recipe_names
from swwae_zoo.data import Preprocess
from swwae_zoo.models._data_config import describe_training_data
from swwae_zoo.training.classes import labels_for
from swwae_zoo.training.run_directory import RunDirectory

STORED = {"digits": 8, "mnist": 28, "stl10": 96}  # side of a set's images; the others' is 32
SMALL = {"notation": "(4)3c-2p-(4)3c-2p-10fc"}


def pictures(chans: int, height: int, width: int | None = None) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (4, chans, height, width or height), generator=generator).to(torch.uint8)


def by_timm(model: Any, images: Tensor) -> Tensor:
    transform = create_transform(**resolve_model_data_config(model), is_training=False)
    arrays = [
        image.permute(1, 2, 0).squeeze(2).numpy() if len(image) == 1 else image.permute(1, 2, 0).numpy()
        for image in images
    ]
    return torch.stack([transform(Image.fromarray(np.ascontiguousarray(array))) for array in arrays])


@pytest.mark.parametrize("name", recipe_names())
def test_every_recipe(name: str, tmp_path: Path) -> None:
    """The same logits by local-dir: and its own preprocessing as on `swwae eval`'s path, and by timm where it can."""
    recipe = read_recipe(name)
    args = {"backbone": "test_resnet"} if recipe.model == "swwae_wrap" else SMALL
    args = {**{key: value for key, value in recipe.model_args.items() if key not in ("notation", "backbone")}, **args}
    model = timm.create_model(recipe.model, **{"num_classes": 10, **args}).eval()
    side = STORED.get(recipe.data.partition(":")[0], 32)
    describe_training_data(model, contrast=recipe.contrast, image_size=(side, side))
    directory = RunDirectory(tmp_path / "run")
    directory.begin(recipe)
    directory.save_model("best", model)
    saved = load(tmp_path / "run", "best", "cpu")
    again = timm.create_model(f"local-dir:{tmp_path / 'run' / 'best'}", pretrained=True).eval()
    images = pictures(model.in_chans, side)
    x = swwae_zoo.preprocess_of(again)(images)
    assert torch.equal(x, saved.prepare(images))
    cfg = model.pretrained_cfg
    as_trained = Preprocess(model.img_size, mean=cfg["mean"], std=cfg["std"], contrast=recipe.contrast)
    assert torch.equal(x, as_trained(images))
    with torch.inference_mode():
        torch.testing.assert_close(saved.model(saved.input(x)), model(x))  # in the memory format of the training
        loaded: Any = saved.model.to(memory_format=torch.contiguous_format)
        assert torch.equal(again(x), loaded(x)) and torch.equal(again(x), model(x))
    described = again.pretrained_cfg.get("description", "")
    enlarged = again.pretrained_cfg["crop_mode"] == "squash" and side < model.img_size[0]
    if recipe.contrast != "none":
        assert "swwae_zoo.preprocess_of" in described and again.pretrained_cfg["notes"] == ["contrast=image"]
    elif enlarged:  # timm rounds to whole grey levels
        assert (by_timm(again, images) - x).abs().max() <= 1.01 / 255 / min(cfg["std"])
    elif side == model.img_size[0] or not described:
        assert torch.equal(by_timm(again, images), x)


@pytest.mark.parametrize("name", ["swwae_mnist.mnist_100", "swwae_mnist.mnist_full"])
def test_shipped_weights_through_timms_transform(name: str) -> None:
    model = timm.create_model(name, pretrained=True).eval()
    images = pictures(1, 28)
    assert torch.equal(by_timm(model, images), swwae_zoo.preprocess_of(model)(images))
    assert "".join(model.pretrained_cfg["label_names"]) == "0123456789"


@pytest.mark.parametrize("size", [(32, 32), (32, 48), (18, 25), (9, 9), (27, 33), (96, 64)])
@pytest.mark.parametrize("chans", [1, 3])
def test_every_size_that_is_padded(size: tuple[int, int], chans: int) -> None:
    """All sizes of at least three quarters, each side for itself."""
    args = {"notation": "(2)3c-2p-3fc", "in_chans": chans, "img_size": size}
    model, exact = timm.create_model("swwae_svhn", num_classes=3, **args), 0
    for height in range(-(-3 * size[0] // 4), size[0] + 1):
        for width in {size[1], size[1] - 2, -(-3 * size[1] // 4)}:
            describe_training_data(model, image_size=(height, width))
            images = pictures(chans, height, width)
            ours, timms = swwae_zoo.preprocess_of(model)(images), by_timm(model, images)
            even = (size[0] - height) % 2 == 0 and (size[1] - width) % 2 == 0
            assert torch.equal(ours, timms) or not even, (height, width)
            assert ("description" in model.pretrained_cfg) is not even
            assert torch.equal(ours.flatten().sort()[0], timms.flatten().sort()[0])  # never resized
            exact += even
    assert exact > 1


def test_padding_that_timm_fills_otherwise_is_said() -> None:
    """timm pads with the mean of the images, training with zeros."""
    model = timm.create_model("swwae_wrap", backbone="test_resnet", img_size=32, num_classes=10)
    describe_training_data(model, image_size=(28, 28))
    assert "pad otherwise" in model.pretrained_cfg["description"]
    describe_training_data(model, image_size=(32, 32))
    assert "description" not in model.pretrained_cfg and model.pretrained_cfg["crop_pct"] == 1.0
    images = pictures(3, 40)
    squashed = Image.fromarray(images[0].permute(1, 2, 0).numpy()).resize((32, 32), Image.Resampling.BILINEAR)
    expected = swwae_zoo.preprocess_of(model)(torch.from_numpy(np.array(squashed)).permute(2, 0, 1)[None])
    torch.testing.assert_close(by_timm(model, images)[:1], expected)  # not timm's bicubic and 95 %


def test_what_is_said_replaces_what_was_said(tmp_path: Path) -> None:
    model = timm.create_model("swwae_mnist", **SMALL)
    describe_training_data(model, contrast="image", label_names=list("abcdefghij"), image_size=(28, 28))
    kept = copy.deepcopy(model.pretrained_cfg)
    describe_training_data(model, contrast="image", label_names=list("abcdefghij"), image_size=(28, 28))
    assert model.pretrained_cfg == kept
    describe_training_data(model)
    assert not model.pretrained_cfg["notes"] and "label_names" not in model.pretrained_cfg
    assert "description" not in model.pretrained_cfg and model.pretrained_cfg["crop_mode"] == "center"


# --- names of classes -----------------------------------------------------------------------------------


def named(*names: str, num_classes: int | None = None) -> Any:
    model = timm.create_model("swwae_svhn", notation="(2)3c-2p-3fc", num_classes=num_classes or len(names))
    describe_training_data(model, label_names=names)
    return model


def test_names_of_classes_come_back(tmp_path: Path) -> None:
    names = ("cat", "dog", "a\x1b[2Jb", "größe")
    directory = RunDirectory(tmp_path / "run")
    directory.begin(read_recipe("demo"))
    directory.save_model("last", named(*names))
    again = timm.create_model(f"local-dir:{tmp_path / 'run' / 'last'}", pretrained=True)
    assert tuple(again.pretrained_cfg["label_names"]) == names


def test_classes_are_matched_by_name() -> None:
    model, labels = named("ant", "bee", "cat"), torch.tensor([0, 1, 1])
    assert labels_for(model, labels, ("bee", "cat"), "it").tolist() == [1, 2, 2]
    assert labels_for(model, labels, ("cat", "ant", "bee"), "it").tolist() == [2, 0, 0]
    assert labels_for(model, labels, ("ant", "bee", "dog"), "it").tolist() == [0, 1, 1]  # no dog among them
    assert labels_for(model, labels, ("0", "1"), "it").tolist() == [0, 1, 1]  # an archive knows no names
    with pytest.raises(
        ValueError, match=r"it has a class 'd\\x1b', which the net was not trained for; it knows ant, b"
    ) as caught:
        labels_for(model, labels, ("ant", "d\x1b"), "it")
    assert "\x1b" not in str(caught.value)
    with pytest.raises(ValueError, match="it has class 7, but the net was trained for 3 classes"):
        labels_for(model, torch.tensor([7]), tuple("01234567"), "it")


def test_eval_on_a_folder_that_lacks_a_class(tmp_path: Path) -> None:
    """Three classes were learnt; the folder has no images of the first."""
    folder = tmp_path / "set"
    for split in ("train", "test"):
        for place, name in enumerate(("bee", "cat")):
            (folder / split / name).mkdir(parents=True)
            for number in range(3):
                image = Image.fromarray(np.full((8, 8, 3), 100 * place + number, np.uint8))
                image.save(folder / split / name / f"{number}.png")
    args = {"notation": "(2)3c-2p-3fc", "img_size": 8, "num_classes": 3}
    make_run(tmp_path / "run", "swwae_svhn", args=args, data=f"folder:{folder}")
    saved = load(tmp_path / "run", "last", "cpu")
    with torch.no_grad():  # says "bee" always
        saved.model.head.fc.weight.zero_()
        saved.model.head.fc.bias.copy_(torch.tensor([0.0, 1.0, 0.0]))
    saved.model.pretrained_cfg["label_names"] = ("ant", "bee", "cat")
    assert evaluate(saved)["error"] == 50.0
    saved.model.pretrained_cfg["label_names"] = ("ant", "bee", "cow")
    with pytest.raises(ValueError, match="has a class 'cat', which the net was not trained for"):
        evaluate(saved)
