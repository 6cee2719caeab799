"""One model in a run, a folder, on the Hub and under a tag gives the same answers; anything else gives one line."""

import os
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from hub_server.fixtures import OnePath, make_run
from PIL import Image
from timm.data import create_transform, resolve_model_data_config
from timm.models import save_for_hf
from torch import Tensor

import swwae_zoo
from swwae_zoo.data import load_images
from swwae_zoo.models._data_config import describe_training_data
from swwae_zoo.training.places import find_place

NAMES = ("cat", "dog", "größe")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on grey images of 32x32, whose best/ and last/ differ."""
    home = tmp_path_factory.mktemp("runs") / "a"
    make_run(home, amp="bf16")
    other = tmp_path_factory.mktemp("runs") / "b"
    make_run(other)
    shutil.rmtree(home / "best")
    shutil.copytree(other / "last", home / "best")
    return home


@pytest.fixture(scope="module")
def picture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("pictures") / "a.png"
    Image.fromarray(load_images("digits", "test").images[0, 0].numpy()).save(path)
    return path


def colours(*names: str, **given: Any) -> Any:
    """A net with random weights for images of 8x12, and its description as a trainer writes it."""
    torch.manual_seed(0)
    net = timm.create_model("swwae_svhn", notation="(4)3c-2p-3fc", img_size=(8, 12), num_classes=len(names) or 3).eval()
    describe_training_data(net, label_names=names, **given)
    return net


def saved(net: Any, folder: Path) -> Path:
    save_for_hf(net, str(folder), safe_serialization=True)
    return folder


def by_timm_transform(model: Any) -> Any:
    return create_transform(**resolve_model_data_config(model), is_training=False)


def noise(*shape: int) -> Tensor:
    return torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(0)).to(torch.uint8)


# --- the places -----------------------------------------------------------------------------------------


def test_a_run_means_its_last_weights(run: Path, picture: Path) -> None:
    last, best = (swwae_zoo.load(run, weights, "cpu") for weights in ("last", "best"))
    given = swwae_zoo.load(str(run), device="cpu")
    assert given.folder == run / "last" and given.config is not None and given.config.amp == "bf16"
    assert given.predict(picture) == last.predict(picture) != best.predict(picture)
    assert swwae_zoo.load(run / "best", device=torch.device("cpu")).predict(picture) == best.predict(picture)
    assert given.autocast().dtype == torch.bfloat16 and given.autocast("off").dtype is None
    assert not given.model.training and repr(given).endswith("10 classes, on cpu)")


def test_a_point_is_a_place(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for folder in ("best", "last"):
        monkeypatch.chdir(run / folder)
        assert find_place(".").kind == "run" and find_place(".").config is not None
        assert find_place(".", net_only=True).folder.samefile(run / folder)
    monkeypatch.chdir(run)
    assert find_place("last").folder == Path("last") and find_place(".").folder.samefile(run / "last")


def test_a_folder_is_what_a_run_was(run: Path, picture: Path, tmp_path: Path) -> None:
    shutil.copytree(run / "last", tmp_path / "copied")
    folder, of_run = swwae_zoo.load(tmp_path / "copied", device="cpu"), swwae_zoo.load(run, device="cpu")
    assert folder.config is None and folder.autocast().dtype is None and of_run.config is not None
    names = [prediction.name for prediction in folder.predict(picture, top=10, amp="bf16")]
    assert names == [prediction.name for prediction in of_run.predict(picture, top=10)]
    assert swwae_zoo.load(f"local-dir:{tmp_path / 'copied'}", device="cpu").predict(picture) == folder.predict(picture)


def test_a_tag_comes_with_the_package(picture: Path) -> None:
    trained = swwae_zoo.load("swwae_mnist.mnist_100", device="cpu")
    [best, *others] = trained.predict(picture, top=99)
    assert len(others) == 9 and abs(best.probability + sum(each.probability for each in others) - 1) < 1e-5
    model = timm.create_model("swwae_mnist.mnist_100", pretrained=True).eval()
    with torch.inference_mode():
        by_timm = model(by_timm_transform(model)(Image.open(picture))[None]).softmax(1)[0]
    assert best.name == str(int(by_timm.argmax())) and best.probability == pytest.approx(float(by_timm.max()), rel=1e-3)
    assert trained.label_names == tuple("0123456789")


def test_the_hub_holds_the_same(path: OnePath, run: Path, picture: Path, tmp_path: Path) -> None:
    path.push(run, "ann/places")
    code = f"""
import swwae_zoo
m = swwae_zoo.load("hf-hub:ann/places", device="cpu")
answer = [m.name, m.config is None, m.predict({str(picture)!r}, amp="bf16"), m.label_names]
try:
    swwae_zoo.load("hf-hub:ann/none")
except ValueError as error:
    answer.append(str(error))
"""
    said = path.client.tell(do="run", code=code)
    name, has_none, predicted, names, missing = said
    expected = swwae_zoo.load(run, device="cpu").predict(picture)
    assert (name, has_none, names) == ("hf-hub:ann/places", True, list("0123456789"))
    assert [(label, value) for label, value in predicted] == [tuple(each) for each in expected]
    assert "ann/none does not exist" in missing and "\n" not in missing
    for args in (["show", "hf-hub:ann/places"], ["eval", "hf-hub:ann/places", "--data", "digits", "--device", "cpu"]):
        answer = path.client.swwae(*args)
        assert answer.code == 0 and answer.out.startswith("hf-hub:ann/places"), answer


@pytest.mark.parametrize(
    "place, words",
    [
        ("", "got '', which is a folder without a model, and holds no run; expected a run directory of"),
        ("nowhere", "got nowhere, which is not there; expected a run"),
        ("ann/net", r"is not there \(a repository on the Hub is hf-hub:ann/net\)"),
        ("swwae_minst.mnist_100", "did you mean swwae_mnist.mnist_100"),
        ("swwae_mnist.mnist_10", "there are no such weights, expected swwae_mnist.mnist_100, swwae_mnist.mnist_full"),
        ("swwae_svhn", "swwae_svhn comes without weights: `swwae train"),
        ("file.txt", "is a file; expected"),
        ("half", "half has config.json, but no model.safetensors"),
        ("begun", "begun/last has no config.json: the run has not come to its first checkpoint"),
        ("many", "many holds 2 runs: choose one of many/seed0, many/seed0-twin"),
        ("hf-hub:net", "expected ORG/NAME"),
        ("resnet18", "which is not there"),
        ("swwae_svhn.x", "comes without weights"),
        ("swwae_svhn.x/seed0", "seed0, which is not there"),
        ("a\x1b[2Jb", r"a\\x1b\[2Jb, which is not there"),
    ],
)
def test_what_is_none_of_the_four(place: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("file.txt").touch()
    for folder in ("half", "begun", "many/seed0", "many/seed0-twin"):
        Path(folder).mkdir(parents=True)
        (Path(folder) / ("config.json" if folder == "half" else "config.toml")).write_text("steps = 3\n")
    with pytest.raises(ValueError, match=words) as caught:
        swwae_zoo.load(place)
    assert str(caught.value).isprintable()


def test_weights_are_chosen_where_there_is_a_choice(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="holds one set of weights"):
        swwae_zoo.load("swwae_mnist.mnist_100", "best")
    with pytest.raises(ValueError, match="got 'best' and .*last, which says last: give one"):
        swwae_zoo.load(run / "last", "best")
    with pytest.raises(ValueError, match="expected one of last, best"):
        swwae_zoo.load(run, "first")
    monkeypatch.chdir(tmp_path)
    Path("swwae_mnist.mnist_100").mkdir()
    with pytest.raises(ValueError, match="is a registered name and a folder here: write ./swwae_mnist"):
        swwae_zoo.load("swwae_mnist.mnist_100")


# --- pictures -------------------------------------------------------------------------------------------


def test_every_kind_of_picture_gives_the_same(run: Path, picture: Path) -> None:
    trained = swwae_zoo.load(run, device="cpu")
    with Image.open(picture) as opened:
        image = opened.copy()
    array, single = np.array(image), trained.predict(picture)
    assert [each._fields for each in single] == [("name", "probability")] * 3
    tensor = torch.from_numpy(array)[None]
    kinds = [str(picture), image, image.convert("RGB"), array, array[..., None], tensor, tensor.repeat(3, 1, 1)]
    for kind in kinds:
        assert trained.predict(kind) == single, kind
        assert torch.equal(trained.transform(kind), trained.transform(picture))
    several = trained.predict(kinds)
    assert [[each.name for each in one] for one in several] == [[each.name for each in single]] * len(kinds)
    for batch in (tensor[None].repeat(2, 1, 1, 1), np.stack([array[..., None]] * 2), [picture, image], (array, tensor)):
        assert len(trained.predict(batch)) == 2 and trained.transform(batch).shape == (2, 1, 32, 32)


def test_a_list_is_worked_through_in_batches(run: Path, picture: Path) -> None:
    trained, sizes = swwae_zoo.load(run, device="cpu"), []
    handle = trained.model.register_forward_pre_hook(lambda module, args: sizes.append(len(args[0])))
    found = trained.predict([picture] * 150)
    handle.remove()
    assert len(found) == 150 and sizes == [64, 64, 22] and len(trained.reconstruct([picture] * 70)) == 70


@pytest.mark.parametrize(
    "pictures, words",
    [
        ([], "an empty list"),
        (3, "got a int, expected a path, a PIL image"),
        ([[1]], "got a list in a list, expected single pictures|got a list in a list of pictures"),
        (noise(1, 8, 8).float(), "got a tensor of torch.float32 and shape \\(1, 8, 8\\), expected torch.uint8"),
        (np.zeros((8, 8)), "got an array of float64, expected uint8"),
        (np.zeros((3, 8, 8), np.uint8), "8 channels for a model of 1: .*arrays have their channels last"),
        (noise(1, 1, 1, 8, 8), "got a Tensor of shape"),
        (noise(1, 0, 8), "got a picture of 0x8 pixels"),
        ("absent.png", "absent.png: No such file or directory"),
        (os.devnull, "null: it is no regular file: expected an image"),
    ],
)
def test_pictures_that_are_none(run: Path, pictures: Any, words: str) -> None:
    trained = swwae_zoo.load(run, device="cpu")
    for use in (trained.predict, trained.transform, trained.reconstruct):
        with pytest.raises(ValueError, match=words) as caught:
            use(pictures)
        assert "\n" not in str(caught.value)


def test_a_file_is_turned_and_flattened_as_a_folders_are(tmp_path: Path) -> None:
    """What stands in a folder for training and what is given to predict are the same tensors."""
    pixels = noise(3, 20, 30).permute(1, 2, 0).numpy()
    folder = tmp_path / "set" / "train" / "cat"
    folder.mkdir(parents=True)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(pixels).save(folder / "turned.png", exif=exif)
    Image.fromarray(np.dstack([pixels, pixels[..., :1]])).save(folder / "clear.png")
    Image.fromarray(pixels[..., 0]).save(folder / "grey.jpg")
    Image.fromarray(pixels[..., 0].astype(np.uint16) * 257).save(folder / "deep.png")
    read = load_images(f"folder:{tmp_path / 'set'}", "train", img_size=(8, 12))
    trained = swwae_zoo.load(saved(colours(*NAMES), tmp_path / "net"), device="cpu")
    assert torch.equal(trained.transform(sorted(folder.iterdir())), trained.prepare(read.images))


@pytest.mark.parametrize("stored", [(8, 12), (7, 11), (6, 12), (8, 9), (16, 24), (40, 13)])
def test_pictures_of_the_stored_size_are_prepared_as_the_set_was(stored: tuple[int, int], tmp_path: Path) -> None:
    """Left alone, padded, or scaled as a whole: what the trainer did to arrays of that size."""
    trained = swwae_zoo.load(saved(colours(*NAMES, image_size=stored), tmp_path / "net"), device="cpu")
    images = noise(3, 3, *stored)
    for number, image in enumerate(images):
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(tmp_path / f"{number}.png")
    files = [tmp_path / f"{number}.png" for number in range(3)]
    assert torch.equal(trained.transform(files), trained.prepare(images))
    assert torch.equal(trained.transform(images), trained.prepare(images))


def test_a_digit_of_another_size_is_brought_into_its_frame() -> None:
    """MNIST was padded from 28 to 32: a large picture of a digit gets the same margin."""
    trained = swwae_zoo.load("swwae_mnist.mnist_100", device="cpu")
    x = trained.transform(Image.new("L", (280, 280), 255))
    assert x[:, 2:-2, 2:-2].eq(1).all() and x.sum() == 28 * 28 and trained.transform.stored_size == (28, 28)


def test_many_channels_take_tensors_alone(tmp_path: Path, picture: Path) -> None:
    torch.manual_seed(0)
    net = timm.create_model("swwae_svhn", notation="(4)3c-2p-3fc", img_size=8, num_classes=3, in_chans=5).eval()
    describe_training_data(net)
    trained = swwae_zoo.load(saved(net, tmp_path / "net"), device="cpu")
    assert trained.transform(noise(2, 5, 16, 16)).shape == (2, 5, 8, 8) and len(trained.predict(noise(5, 8, 8))) == 3
    for wrong in (picture, noise(3, 8, 8)):
        with pytest.raises(ValueError, match="for a model of 5"):
            trained.predict(wrong)


def test_names_are_those_of_the_training(tmp_path: Path) -> None:
    trained = swwae_zoo.load(saved(colours(*NAMES), tmp_path / "net"), device="cpu")
    assert trained.label_names == NAMES and {each.name for each in trained.predict(noise(3, 8, 12))} == set(NAMES)
    trained = swwae_zoo.load(saved(colours(), tmp_path / "numbers"), device="cpu")
    assert trained.label_names == ("0", "1", "2")


def test_reconstructions_are_pictures_or_tensors_as_given(run: Path, picture: Path) -> None:
    trained = swwae_zoo.load(run, device="cpu")
    image = trained.reconstruct(picture)
    assert isinstance(image, Image.Image) and (image.mode, image.size) == ("L", (32, 32))
    images = load_images("digits", "test").images[:2]
    made = trained.reconstruct(images)
    x = trained.prepare(images)
    expected = trained.model.forward_swwae(trained.input(x)).reconstruction.clamp(0, 1)
    torch.testing.assert_close(made, expected.detach())
    assert made.shape == images.shape
    torch.testing.assert_close(trained.reconstruct(images[0]), made[0])
    assert np.abs(np.array(image, np.float32) - made[0, 0].numpy() * 255).max() <= 0.51
    assert not torch.equal(trained.reconstruct(images, where=False), made)
    assert [each.size for each in trained.reconstruct([picture, picture])] == [(32, 32)] * 2


@pytest.mark.parametrize("contrast", ["none", "image"])
def test_a_reconstruction_lies_in_the_range_of_its_picture(contrast: str, tmp_path: Path) -> None:
    """A decoder that gives its input back gives the picture back, whatever the input was normalised by."""
    trained = swwae_zoo.load(saved(colours(*NAMES, contrast=contrast), tmp_path / "net"), device="cpu")
    trained.prepare.mean, trained.prepare.std = torch.full((3, 1, 1), 0.4), torch.full((3, 1, 1), 0.3)
    image = noise(3, 8, 12)
    fitted = trained.transform.fit([image])
    x = trained.prepare.normalise(fitted)
    torch.testing.assert_close(trained.prepare.denormalise(x, fitted), fitted)
    assert abs(float(x.mean())) < 1 and not torch.allclose(x, fitted)


def test_parts_that_did_not_learn_are_not_asked(tmp_path: Path, picture: Path) -> None:
    make_run(tmp_path / "unsupervised", lambda_nll=0.0)
    make_run(tmp_path / "twin", lambda_rec=0.0, lambda_middle=0.0)
    with pytest.raises(ValueError, match=re.escape("unsupervised/last learnt without labels (lambda_nll = 0)")):
        swwae_zoo.load(tmp_path / "unsupervised", device="cpu").predict(picture)
    twin = swwae_zoo.load(tmp_path / "twin", device="cpu")
    assert twin.predict(picture)
    with pytest.raises(ValueError, match="learnt without reconstruction"):
        twin.reconstruct(picture)


def test_the_package_shows_its_public_names_and_no_others() -> None:
    assert dir(swwae_zoo) == sorted(swwae_zoo.__all__) and {"load", "losses", "SWWAETask"} <= set(dir(swwae_zoo))
    for name in dir(swwae_zoo):
        assert getattr(swwae_zoo, name).__doc__ or name == "__version__", name
    assert swwae_zoo.losses.reconstruction_loss(torch.ones(1, 2), torch.zeros(1, 2)) == 1


def test_a_loop_of_ones_own() -> None:
    """As the docstring of SWWAETask has it."""
    torch.manual_seed(0)
    model = timm.create_model("swwae_mnist", notation="(4)3c-2p-10fc")
    task = swwae_zoo.SWWAETask(model, swwae_zoo.losses.Lambdas(nll=1, rec=10, middle=1))
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    images, target, losses = torch.rand(8, 1, 32, 32), torch.arange(4), []
    for _ in range(5):
        loss = task(images, target)["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
