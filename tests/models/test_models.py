"""One tester for every registered SWWAE, and for nets of one's own: what timm asks of a model, and the decoder besides.

The registered nets are tested a sixteenth as wide, which costs a hundredth; full size only where the width matters.
"""

import copy

import pytest
import timm
import torch
from timm.models import FeatureInfo
from timm.optim import param_groups_layer_decay

import swwae_zoo  # noqa: F401  registers the models
from swwae_zoo.models._notation import Conv, format, parse
from swwae_zoo.models.swwae import NOTATIONS

NAMES = ["swwae_cifar_vgg", "swwae_mnist", "swwae_stl10", "swwae_stl10_vgg", "swwae_svhn"]
OWN = {  # nets of one's own: every option and every shape of a notation, small
    "two-pools": dict(notation="(4)3c-2p-(6)5c-(8)3c-3p-7fc", img_size=20),
    "no-pool": dict(notation="(4)3c-(6)3c-7fc", img_size=6),
    "convs-behind-the-last-pool": dict(notation="(4)3c-2p-(6)3c-7fc", img_size=9),
    "hidden-layers": dict(notation="(4)3c-2p-(6)3c-2p-12fc-9fc-7fc", img_size=(10, 13), drop_rate=0.5),
    "no-fc": dict(notation="(4)3c-2p-(6)3c-2p", num_classes=7, img_size=8),
    "soft": dict(notation="(4)3c-2p-(6)3c-3p-7fc", img_size=13, pool="soft", beta=5.0),
    "upsample": dict(notation="(4)3c-2p-(6)3c-3p-7fc", img_size=13, unpool="upsample", batch_norm=True),
    "average": dict(notation="(4)3c-2p-(6)3c-2p-9fc-7fc", img_size=8, global_pool="avg", in_chans=5),
}


def narrow(name):
    layers = parse(NOTATIONS[name.removesuffix("_vgg") if name == "swwae_stl10_vgg" else name])
    return format(layer._replace(maps=layer.maps // 16) if isinstance(layer, Conv) else layer for layer in layers)


CASES = [(name, {"notation": narrow(name)}) for name in NAMES] + [("swwae_mnist", args) for args in OWN.values()]


@pytest.fixture(scope="module", params=CASES, ids=[*NAMES, *OWN])
def built(request):
    name, args = request.param
    torch.manual_seed(0)
    return name, args, timm.create_model(name, **args).eval()


def create(built, **more):
    name, args, _ = built
    return timm.create_model(name, **{**args, **more}).eval()


@pytest.fixture
def model(built):
    return copy.deepcopy(built[2])


@pytest.fixture
def images(built):
    model = built[2]
    return torch.rand(2, model.in_chans, *model.head.img_size, generator=torch.Generator().manual_seed(1))


def test_the_registered_names():
    assert timm.list_models("swwae*") == sorted([*NAMES, "swwae_wrap"])
    assert set(NOTATIONS) == set(NAMES) - {"swwae_stl10_vgg"}


def test_forward_gives_finite_logits(model, images):
    logits = model(images)
    assert logits.shape == (2, model.num_classes) and logits.isfinite().all()
    assert model.num_classes == (7 if "10fc" not in model.notation else 10)


def test_forward_swwae_is_forward_and_a_reconstruction(model, images):
    logits, reconstruction, middles = model.forward_swwae(images)
    torch.testing.assert_close(logits, model(images))
    assert reconstruction.shape == images.shape and reconstruction.isfinite().all()
    encoding = model.forward_encoder(images)
    assert len(middles) == len(model.stages) - 1
    for (what, decoded), kept in zip(middles, encoding.whats, strict=False):
        assert what.shape == decoded.shape and torch.equal(what, kept)
        assert (decoded >= 0).all()
    decoding = model.forward_decoder(encoding)
    torch.testing.assert_close(decoding.reconstruction, reconstruction)


def test_every_parameter_gets_a_gradient_of_its_own(model, images):
    model.train()
    out = model.forward_swwae(images)
    loss = out.logits.square().sum() + (out.reconstruction - images).square().sum()
    loss.backward()
    assert [name for name, p in model.named_parameters() if p.grad is None] == []
    assert len({p.data_ptr() for p in model.parameters()}) == len(list(model.parameters()))
    model.zero_grad()
    model(images).square().sum().backward()  # the convnet alone leaves the decoder alone
    assert {n for n, p in model.named_parameters() if p.grad is None} == {
        n for n, _ in model.named_parameters() if n.startswith("decoder.")
    }


@pytest.mark.parametrize("name", NAMES)
def test_default_cfg_tells_the_truth(name):
    cfg = timm.get_pretrained_cfg(name)
    model = timm.create_model(name).eval()
    assert model.default_cfg["architecture"] in (name, name.removesuffix("_vgg"))
    assert len(cfg.mean) == len(cfg.std) == cfg.input_size[0] == model.in_chans
    assert cfg.input_size[1:] == model.head.img_size and cfg.num_classes == model.num_classes
    features = model.forward_features(torch.rand(1, *cfg.input_size))
    assert features.shape == (1, model.num_features, *cfg.pool_size)
    assert model.forward_head(features).shape == (1, 10)
    state = model.state_dict()
    assert state[f"{cfg.first_conv}.weight"].shape[1] == model.in_chans
    assert model.get_submodule(cfg.classifier) is model.get_classifier()
    assert state[f"{cfg.classifier}.weight"].shape[0] == cfg.num_classes
    assert cfg.fixed_input_size and model.notation == NOTATIONS[model.default_cfg["architecture"]]


def test_features_and_head_are_forward_in_two(model, images):
    features = model.forward_features(images)
    assert features.shape[:2] == (2, model.num_features) and features.dim() == 4
    torch.testing.assert_close(model.forward_head(features), model(images))
    hidden = model.forward_head(features, pre_logits=True)
    assert hidden.shape == (2, model.head_hidden_size)
    torch.testing.assert_close(model.get_classifier()(hidden), model(images))


def test_reset_classifier(model, images):
    features, hidden = (
        model.forward_features(images),
        model.forward_head(model.forward_features(images), pre_logits=True),
    )
    assert model.get_classifier().out_features == model.num_classes

    model.reset_classifier(3)
    assert model.num_classes == 3 and model(images).shape == (2, 3)
    torch.testing.assert_close(model.forward_head(features, pre_logits=True), hidden)  # hidden layers are kept

    model.reset_classifier(0)
    assert model.num_classes == 0 and isinstance(model.get_classifier(), torch.nn.Identity)
    torch.testing.assert_close(model(images), hidden)

    model.reset_classifier(0, "")
    assert torch.equal(model(images), features) and model.head_hidden_size == model.num_features

    model.reset_classifier(4, "avg")
    assert model(images).shape == (2, 4)
    assert model(torch.nn.functional.pad(images, (0, 5, 0, 9))).shape == (2, 4)  # any size, now
    assert model.forward_head(features, pre_logits=True).shape == (2, model.head_hidden_size)


def test_without_a_classifier(built, images):
    model = create(built, num_classes=0)
    assert model(images).shape == (2, model.head_hidden_size) and model.num_classes == 0
    assert model.forward_swwae(images).reconstruction.shape == images.shape
    model = create(built, num_classes=0, global_pool="")
    assert model(images).shape == model.forward_features(images).shape
    assert list(model.head.parameters()) == []


def test_features_only_gives_the_whats(built, model, images):
    net = create(built, features_only=True)
    net.load_state_dict({f"stages_{k[7:]}": v for k, v in model.state_dict().items() if k.startswith("stages.")})
    maps, whats = net(images), model.forward_encoder(images).whats
    assert net.feature_info.channels() == [m.shape[1] for m in maps]
    height, width = images.shape[2:]
    assert [(height // r, width // r) for r in net.feature_info.reduction()] == [tuple(m.shape[2:]) for m in maps]
    for m, what in zip(maps, whats, strict=True):
        torch.testing.assert_close(m, what)


def test_forward_intermediates(model, images):
    whats = model.forward_encoder(images).whats
    last = len(whats) - 1
    features, maps = model.forward_intermediates(images)
    torch.testing.assert_close(features, model.forward_features(images))
    torch.testing.assert_close(maps, list(whats))
    info = FeatureInfo(model.feature_info, tuple(range(len(whats))))
    assert info.channels() == [m.shape[1] for m in maps]
    (only,) = model.forward_intermediates(images, indices=[0], intermediates_only=True)
    torch.testing.assert_close(only, whats[0])
    torch.testing.assert_close(model.forward_intermediates(images, indices=1)[1], [whats[last]])
    torch.testing.assert_close(model.forward_intermediates(images, indices=[-1])[1], [whats[last]])
    stopped, maps = model.forward_intermediates(images, indices=[0], stop_early=True)
    torch.testing.assert_close([stopped, *maps], [whats[0], whats[0]])
    with pytest.raises(ValueError, match="expected 'NCHW'"):
        model.forward_intermediates(images, output_fmt="NLC")


def test_pruned_to_some_intermediates(model, images):
    whole = copy.deepcopy(model)
    for prune_head in (False, True):
        model = copy.deepcopy(whole)
        assert model.prune_intermediate_layers([-1], prune_head=prune_head) == [len(whole.stages) - 1]
        assert model.decoder is None and len(model.stages) == len(whole.stages)
        torch.testing.assert_close(model(images), model.forward_features(images) if prune_head else whole(images))
    model = copy.deepcopy(whole)
    assert model.prune_intermediate_layers([0]) == [0]
    assert [name.split(".")[:2] for name, _ in model.named_parameters() if not name.startswith("stages.0.")] == []
    torch.testing.assert_close(
        model.forward_intermediates(images, [0], intermediates_only=True), list(whole.forward_encoder(images).whats[:1])
    )
    smallest = model.feature_info[0]["reduction"]  # it takes smaller images than the whole net did
    assert model(images[:, :, :smallest, :smallest]).shape == (2, model.num_features, 1, 1)
    with pytest.raises(ValueError, match="has no decoder"):
        model.forward_swwae(images)
    model.reset_classifier(3, "flatten")
    assert model(images).shape == (2, 3)


def test_layer_decay_reaches_every_layer(model):
    groups = param_groups_layer_decay(model, weight_decay=0.1, layer_decay=0.5)
    assert sum(len(g["params"]) for g in groups) == len(list(model.parameters()))
    scale = {id(p): g["lr_scale"] for g in groups for p in g["params"]}
    first, classifier = (model.get_submodule(model.default_cfg[key]) for key in ("first_conv", "classifier"))
    assert scale[id(classifier.weight)] == 1.0
    assert scale[id(next(model.decoder.parameters()))] == 1.0
    depth = sum(len(stage.convs) for stage in model.stages)
    assert scale[id(first.weight)] == 0.5**depth
    coarse = timm.models.group_parameters(model, model.group_matcher(coarse=True), reverse=True)
    assert max(coarse.values()) <= len(model.stages) + 1
