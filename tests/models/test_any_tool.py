"""A SWWAE is an ordinary module: hooks, adapters, torch.func, jit.trace, tied weights, features of any structure."""

import copy
import warnings

import pytest
import safetensors.torch
import timm
import torch
from timm.models import group_parameters
from timm.optim import param_groups_layer_decay
from torch import nn
from torch.func import functional_call, grad, vmap

import swwae_zoo
from swwae_zoo.loss.objective import Lambdas
from swwae_zoo.models._base import select_features
from swwae_zoo.optim.finetune import freeze
from swwae_zoo.task.swwae_task import SWWAETask
from swwae_zoo.training.run_directory import RunDirectory

SMALL = {"notation": "(4)3c-2p-(6)3c-(5)3c-3p-5fc", "img_size": 18}


def images(*size, seed=1):
    return torch.rand(*size, generator=torch.Generator().manual_seed(seed))


def named(**args):
    torch.manual_seed(0)
    return timm.create_model("swwae_mnist", **{**SMALL, **args})


def wrapped(name="test_resnet", **args):
    torch.manual_seed(0)
    return swwae_zoo.wrap(name, **{"num_classes": 5, "img_size": 64, "decoder": "light", **args})


MODELS = {
    "hard": lambda: (named(), images(3, 1, 18, 18)),
    "soft": lambda: (named(pool="soft"), images(3, 1, 18, 18)),
    "batch norm": lambda: (named(batch_norm=True), images(3, 1, 18, 18)),
    "tap": lambda: (wrapped(), images(3, 3, 64, 64)),
    "insert": lambda: (wrapped(pools="insert"), images(3, 3, 64, 64)),
}


class Whole(nn.Module):
    """`forward_swwae` as a forward."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, x):
        out = self.model.forward_swwae(x)
        return out.logits, out.reconstruction


@pytest.mark.filterwarnings("ignore:There is a performance drop")  # vmap of the soft pool
@pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)
def test_torch_func(make):
    model, x = make()
    whole, params = Whole(model.eval()), dict(Whole(model).named_parameters())

    def loss(params, x):
        logits, reconstruction = functional_call(whole, params, (x,))
        return logits.square().sum() + reconstruction.square().mean()

    loss(params, x).backward()
    gradients = grad(loss)({name: p.detach() for name, p in params.items()}, x)
    for name, p in params.items():
        torch.testing.assert_close(gradients[name], p.grad, rtol=1e-3, atol=1e-4)
    each = vmap(grad(loss, argnums=1), (None, 0))({name: p.detach() for name, p in params.items()}, x[:, None])
    assert each.shape == (3, 1, *x.shape[1:])


@pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)
def test_jit_trace(make, tmp_path):
    model, x = make()
    whole = Whole(model.eval())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of sizes, which become constants
        torch.jit.trace(whole, x).save(str(tmp_path / "traced.pt"))
        traced = torch.jit.load(str(tmp_path / "traced.pt"))
    other = images(*x.shape, seed=2)
    torch.testing.assert_close(traced(other), whole(other))


@pytest.mark.parametrize("batch_norm", [False, True])
def test_hooks_on_every_module_run_in_forward_swwae(batch_norm):
    model, x, seen = named(batch_norm=batch_norm).train(), images(300, 1, 18, 18), {}
    expected = model.forward_swwae(x)
    for name, module in model.named_modules():
        module.register_forward_hook(lambda module, inputs, output, name=name: seen.setdefault(name, output))
    out = model.forward_swwae(x)
    torch.testing.assert_close(out, expected)
    for name in ("stages.0", "stages.1", "stages.1.convs.0", "decoder.stages.1", "decoder.stages.0.convs.0", "head"):
        assert len(seen[name]) == 300, name
    assert torch.equal(seen["stages.1"], model.forward_encoder(x).whats[1])


class Adapter(nn.Module):
    """A layer and a scaled copy of its input's sum beside it; it has none of the layer's attributes."""

    def __init__(self, layer):
        super().__init__()
        self.layer, self.scale = layer, nn.Parameter(torch.zeros(()))

    def forward(self, x):
        return self.layer(x) + self.scale * x.sum()


@pytest.mark.parametrize("depth", ["conv", "unit"])
def test_adapters_in_place_of_convolutions(depth):
    model, x = named(batch_norm=True).train(), images(4, 1, 18, 18)
    expected = copy.deepcopy(model).forward_swwae(x)
    for stage in (*model.stages, *model.decoder.stages):
        for i, unit in enumerate(stage.convs):
            if depth == "conv":
                unit.conv = Adapter(unit.conv)
            else:
                stage.convs[i] = Adapter(unit)
    out = model.forward_swwae(x)
    torch.testing.assert_close(out, expected)
    (out.logits.sum() + out.reconstruction.square().sum()).backward()
    assert all(p.grad is not None for name, p in model.named_parameters() if name.endswith("scale"))


class Tied(nn.Module):
    """Two layers of one weight."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = (nn.Conv2d(3, 3, 3, padding=1) for _ in range(3))
        self.b.weight, self.pool = self.a.weight, nn.MaxPool2d(2)

    def forward(self, x):
        return self.c(self.pool(self.b(self.a(x)).relu()))


def test_tied_weights_are_saved_once_and_loaded_back(tmp_path):
    model, again, x = swwae_zoo.wrap(Tied(), img_size=16), swwae_zoo.wrap(Tied(), img_size=16), images(2, 3, 16, 16)
    RunDirectory(tmp_path).save_model("last", model.eval())
    saved = safetensors.torch.load_file(tmp_path / "last" / "model.safetensors")
    assert "backbone.b.weight" not in saved and "backbone.b.bias" in saved
    again.load_state_dict(saved)
    assert again.backbone.b.weight is again.backbone.a.weight
    assert torch.equal(again.eval().forward_swwae(x).reconstruction, model.forward_swwae(x).reconstruction)
    task = SWWAETask(copy.deepcopy(model), Lambdas(1.0, 1.0, 1.0))
    task.load_state_dict(task.state_dict())


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_features_that_are_a_list():
    model = wrapped("coat_tiny", img_size=96).eval()
    x = images(3, 3, 96, 96)
    features = model.forward_features(x)
    assert isinstance(features, (list, tuple))
    torch.testing.assert_close(model.forward_head(select_features(features, slice(0, 2))), model(x[:2]))
    parts = SWWAETask(model.train(), Lambdas(1.0, 1.0, 1.0))(x, torch.tensor([0, 1]))
    parts["loss"].backward()
    assert parts["loss"].isfinite() and parts["output"].shape == (2, 5)


class Named(nn.Module):
    """Gives its maps by name."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 4, 3, stride=2, padding=1), nn.Conv2d(4, 6, 3, stride=2, padding=1)
        self.num_classes, self.fc = 2, nn.Linear(6, 2)

    def forward_features(self, x):
        low = self.a(x)
        return {"low": low, "high": self.b(low)}

    def forward_head(self, x, pre_logits=False):
        x = x["high"].mean((2, 3))
        return x if pre_logits else self.fc(x)

    def forward(self, x):
        return self.forward_head(self.forward_features(x))


def test_features_that_are_a_dict():
    model, x = swwae_zoo.wrap(Named(), img_size=32), images(3, 3, 32, 32)
    assert model.forward_encoder(x).whats[-1].shape == (3, 6, 8, 8)
    parts = SWWAETask(model, Lambdas(1.0, 1.0, 1.0))(x, torch.tensor([0, 1]))
    assert parts["loss"].isfinite() and parts["output"].shape == (2, 2)


# --- layers --------------------------------------------------------------------------------------------


def rates(model):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return sorted({group["lr_scale"] for group in param_groups_layer_decay(model, layer_decay=0.5)})


@pytest.mark.parametrize("name", ["test_resnet", "convnext_atto", "hrnet_w18_small", "coat_tiny", "focalnet_tiny_srf"])
def test_layer_decay_has_timms_own_rates(name):
    with torch.device("meta"):
        plain = timm.create_model(name, num_classes=5)
        model = swwae_zoo.wrap(copy.deepcopy(plain), img_size=224, decoder="light")
    assert rates(model) == rates(plain)
    layers = group_parameters(model, model.group_matcher(), reverse=True)
    assert {layers[name] for name in layers if name.startswith("decoder.")} == {max(layers.values())}


class Bare(nn.Module):
    """Without a group matcher, or with one of some kind."""

    def __init__(self, matcher=None):
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 4, 3, stride=2, padding=1), nn.Conv2d(4, 6, 3, stride=2, padding=1)
        self.more = nn.Sequential(*(nn.Conv2d(6, 6, 3, padding=1) for _ in range(8)))
        self.fc = nn.Linear(6, 2)
        if matcher is not None:
            self.group_matcher = matcher

    def forward(self, x):
        return self.fc(self.more(self.b(self.a(x))).mean((2, 3)))


def refuse(coarse=False):
    assert not coarse, "coarse grouping is not implemented"
    raise NotImplementedError


MATCHERS = {
    "none": (None, 3),
    "a function": (lambda coarse=False: lambda name: 0 if name.startswith("a.") else 1 + name.startswith("fc"), 3),
    "refuses": (refuse, 3),
}


@pytest.mark.parametrize(("matcher", "number"), MATCHERS.values(), ids=MATCHERS)
def test_layer_decay_with_any_matcher(matcher, number):
    model = swwae_zoo.wrap(Bare(matcher), img_size=32)
    assert len(rates(model)) == number
    freeze(model, stages=1)
    assert not model.backbone.a.weight.requires_grad and model.backbone.fc.weight.requires_grad


# --- one line with the remedy ---------------------------------------------------------------------------


def scripted():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.jit.script(nn.Sequential(nn.Conv2d(3, 4, 3, stride=2), nn.ReLU()))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (scripted, "holds a scripted module, .* wrap the plain module"),
        (lambda: torch.compile(nn.Conv2d(3, 4, 3, stride=2)), "holds a compiled module, .* wrap the plain module"),
        (
            lambda: nn.Sequential(nn.LazyConv2d(4, 3, stride=2)),
            "has lazy layers .* run it once on images, then wrap it",
        ),
    ],
    ids=["scripted", "compiled", "lazy"],
)
def test_modules_that_are_refused(make, words):
    with pytest.raises(ValueError, match=words) as caught:
        swwae_zoo.wrap(make(), img_size=32)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("make", "size"), [(wrapped, 32), (lambda: named(batch_norm=True, notation="(4)3c-2p-(5)3c-5fc", img_size=2), 2)]
)
def test_batch_norm_of_one_value(make, size):
    model = make().train()
    with pytest.raises(ValueError, match=r"one value per channel, .*: use a larger batch or larger images") as caught:
        model.forward_swwae(images(1, model.in_chans, size, size))
    assert "\n" not in str(caught.value)
