"""Weights: saved and loaded through timm, fitted to other channels and classes, and what is said when they can't be."""

import pytest
import safetensors.torch
import timm
import torch
from timm.models._hub import save_config_for_hf

import swwae_zoo  # noqa: F401  registers the models

NOTATION = "(4)3c-(4)3c-2p-(6)3c-3p-12fc-7fc"


def create(name="swwae_svhn", seed=0, **args):
    torch.manual_seed(seed)
    return timm.create_model(name, **{"notation": NOTATION, "img_size": 18, **args}).eval()


def rand(*shape):
    return torch.rand(shape, generator=torch.Generator().manual_seed(1))


def save(model, folder):
    folder.mkdir()
    save_config_for_hf(model, folder / "config.json")
    safetensors.torch.save_file(dict(model.state_dict()), folder / "model.safetensors")
    return folder / "model.safetensors"


def load(file, **args):
    """The saved weights by `pretrained_cfg_overlay`, in a model of 3 channels and 7 classes by default."""
    overlay = {"file": str(file), "num_classes": 7}
    return create(seed=1, pretrained=True, pretrained_cfg_overlay=overlay, **args)


@pytest.fixture(scope="module")
def source():
    return create()


@pytest.fixture(scope="module")
def weights(source, tmp_path_factory):
    return save(source, tmp_path_factory.mktemp("weights") / "source")


@pytest.mark.parametrize(
    "args",
    [
        {},
        {"pool": "soft", "beta": 3.0},
        {"unpool": "upsample", "batch_norm": True},
        {"num_classes": 3, "in_chans": 5},
        {"img_size": (18, 25)},
        {"global_pool": "avg"},
        {"num_classes": 0},
        {"num_classes": 0, "global_pool": ""},
        {"notation": "(4)3c-9fc"},
        {"name": "swwae_stl10_vgg"},
        {"name": "swwae_cifar_vgg"},
        {"name": "swwae_mnist"},
    ],
)
def test_a_saved_model_comes_back_whole(args, tmp_path):
    model = create(**args)
    save(model, tmp_path / "saved")
    again = timm.create_model(f"local-dir:{tmp_path / 'saved'}", pretrained=True).eval()
    assert repr(again) == repr(model) and again.notation == model.notation
    x = rand(2, model.in_chans, *model.head.img_size)
    for a, b in zip(again.forward_swwae(x)[:2], model.forward_swwae(x)[:2], strict=False):
        assert torch.equal(a, b)


@pytest.mark.parametrize("reset", [(5, None), (5, "avg"), (0, ""), (0, None), (5, "flatten")])
def test_a_model_with_another_head_comes_back_whole(reset, tmp_path):
    model = create(global_pool="max")
    model.reset_classifier(*reset)
    save(model, tmp_path / "saved")
    again = timm.create_model(f"local-dir:{tmp_path / 'saved'}", pretrained=True).eval()
    x = rand(2, 3, 18, 18)
    assert torch.equal(again(x), model(x))


def test_weights_from_a_file(source, weights):
    x = rand(2, 3, 18, 18)
    for model in (load(weights), create(seed=1, checkpoint_path=str(weights))):
        assert torch.equal(model(x), source(x))
        assert torch.equal(model.forward_swwae(x).reconstruction, source.forward_swwae(x).reconstruction)


def test_weights_of_a_training_script(source):
    """Scripts save them under a name."""
    wrapped = swwae_zoo.models.swwae.checkpoint_filter_fn({"state_dict": source.state_dict()}, source)
    assert wrapped.keys() == source.state_dict().keys()


def test_other_classes_leave_the_classifier_out(source, weights):
    model, x = load(weights, num_classes=4), rand(2, 3, 18, 18)
    assert model(x).shape == (2, 4)
    hidden = source.forward_head(source.forward_features(x), pre_logits=True)
    torch.testing.assert_close(model.forward_head(model.forward_features(x), pre_logits=True), hidden)
    assert torch.equal(model.forward_swwae(x).reconstruction, source.forward_swwae(x).reconstruction)


def test_features_of_saved_weights(source, weights):
    x = rand(2, 3, 18, 18)
    torch.testing.assert_close(load(weights, features_only=True)(x), list(source.forward_encoder(x).whats))


def test_one_channel_sees_and_makes_grey_images(source, weights):
    grey = rand(2, 1, 18, 18)
    expected = source.forward_swwae(grey.expand(-1, 3, -1, -1))
    out = load(weights, in_chans=1).forward_swwae(grey)
    torch.testing.assert_close(out.logits, expected.logits)
    torch.testing.assert_close(out.reconstruction, expected.reconstruction.mean(1, keepdim=True))


@pytest.mark.parametrize("chans", [2, 5, 6])
def test_more_channels_are_taken_and_made_in_turn(source, weights, chans):
    model = load(weights, in_chans=chans)
    x = rand(1, 1, 18, 18).expand(
        -1, chans, -1, -1
    )  # alike in every channel, so timm's scaling keeps the sum for multiples of 3
    out = model.forward_swwae(x)
    assert out.reconstruction.shape == x.shape
    for channel in range(3, chans):
        torch.testing.assert_close(out.reconstruction[:, channel], out.reconstruction[:, channel - 3])
    if chans % 3 == 0:
        expected = source.forward_swwae(x[:, :3]).reconstruction
        torch.testing.assert_close(out.reconstruction[:, :3], expected)


@pytest.mark.parametrize(
    "args", [{"img_size": 24}, {"global_pool": "avg"}, {"notation": NOTATION.replace("12fc", "13fc")}]
)
def test_a_head_that_does_not_fit(weights, args):
    with pytest.raises(ValueError, match=r"head\.(hidden\.0|fc)\.weight has shape \(.*\) in the saved weights, but \("):
        load(weights, **args)
    with pytest.raises(ValueError, match="leave its head out with num_classes=0 and global_pool=''"):
        load(weights, num_classes=4 if "notation" not in args else None, **args)
    assert load(weights, **{**args, "num_classes": 0, "global_pool": ""})(rand(1, 3, 18, 18)).shape == (1, 6, 3, 3)


def test_a_classifier_that_does_not_fit(tmp_path):
    notation = "(4)3c-2p-7fc"
    file = save(create(notation=notation), tmp_path / "saved")
    with pytest.raises(ValueError, match=r"head.fc.weight has shape \(7, 324\) in the saved weights, but \(7, 576\)"):
        load(file, notation=notation, img_size=24)
    assert load(file, notation=notation, img_size=24, num_classes=3)(rand(1, 3, 24, 24)).shape == (1, 3)
    assert load(file, notation=notation, img_size=24, num_classes=0)(rand(1, 3, 24, 24)).shape == (1, 576)


@pytest.mark.parametrize(
    "name",
    [name for name in timm.list_models("swwae*", exclude_filters="swwae_wrap") if not timm.is_model_pretrained(name)],
)
def test_no_weights_yet_names_the_command_that_trains_them(name):
    with pytest.raises(RuntimeError) as caught:
        timm.create_model(name, pretrained=True)
    message = str(caught.value)
    assert f"`swwae train --model {name.removesuffix('_vgg') if 'stl' in name else name}`" in message
    assert "local-dir:" in message and "\n" not in message
