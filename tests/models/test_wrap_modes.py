"""Wrapped nets whose operations differ in training or change after wrapping: the same maps, or a one-line error."""

import copy
import pickle

import pytest
import timm
import torch
import torch.nn.functional as F
from timm.utils import reparameterize_model
from torch import nn

import swwae_zoo


def images(*size, seed=1):
    return torch.rand(*size, generator=torch.Generator().manual_seed(seed))


class Noise(nn.Module):
    """Adds noise in training, by convolutions, sums and ReLUs that evaluation does not have."""

    def forward(self, x):
        if self.training:
            x = F.relu(x + 0 * F.conv2d(F.max_pool2d(x, 1), x.new_ones(x.shape[1], 1, 1, 1), groups=x.shape[1]))
        return x


class Net(nn.Module):
    """Two strides and a max pool, with noise before all of them and an auxiliary head that runs in training only."""

    def __init__(self, noise=True, auxiliary=True):
        super().__init__()
        self.noise, self.auxiliary = Noise() if noise else nn.Identity(), auxiliary
        self.stem, self.pool = nn.Conv2d(3, 6, 3, padding=1), nn.MaxPool2d(2)
        self.a = nn.Conv2d(6, 8, 3, stride=2, padding=1)
        self.b = nn.Conv2d(8, 9, 3, stride=2, padding=1)
        self.extra, self.fc = nn.Conv2d(6, 8, 3, padding=1), nn.Linear(9, 4)

    def forward(self, x):
        x = self.pool(F.relu(self.stem(self.noise(x))))
        if self.training and self.auxiliary:
            self.logits = F.max_pool2d(F.relu(self.extra(x)), 4).mean((2, 3))
        x = F.relu(self.a(x))
        x = x + x.tanh()
        return self.fc(F.relu(self.b(self.noise(x))).mean((2, 3)))


@pytest.mark.parametrize("pools", ["tap", "insert"])
@pytest.mark.parametrize("args", [{}, {"noise": False}, {"auxiliary": False}], ids=str)
def test_layers_of_training_alone(args, pools):
    net = Net(**args)
    model, x = swwae_zoo.wrap(net, img_size=32, pools=pools), images(2, 3, 32, 32)
    encodings = [model.train(training).forward_encoder(x) for training in (False, True)]
    for field in ("whats", "switches"):
        for a, b in zip(*(getattr(encoding, field) for encoding in encodings), strict=True):
            assert (a is None) == (b is None) and (a is None or torch.equal(a, b))
    assert torch.equal(encodings[0].whats[0], F.max_pool2d(F.relu(net.stem(x)), 2)) or pools == "insert"
    assert not hasattr(copy.copy(net), "logits") or net.logits.shape == (2, 8)  # probing wrote nothing of its own


def test_wrapping_leaves_the_backbone_alone():
    """levit caches a table in evaluation mode; a fake one must not stay."""
    plain = timm.create_model("levit_128s", num_classes=5).eval()
    before = {name: dict(module.__dict__) for name, module in plain.named_modules()}
    model, x = swwae_zoo.wrap(plain, img_size=224, decoder="light"), images(1, 3, 224, 224)
    for name, module in plain.named_modules():
        assert module.__dict__.keys() == before[name].keys() and not module.__dict__.get("attention_bias_cache")
    first, second = model.eval().forward_swwae(x), model.forward_swwae(x)
    assert torch.equal(first.reconstruction, second.reconstruction) and torch.equal(first.logits, plain(x))


def test_reparameterized_after_wrapping():
    torch.manual_seed(0)
    model, x = swwae_zoo.wrap("mobileone_s0", num_classes=5, img_size=64, decoder="light").eval(), images(1, 3, 64, 64)
    fused = reparameterize_model(model)
    assert len(list(fused.backbone.modules())) < len(list(model.backbone.modules()))
    a, b = model.forward_encoder(x), fused.forward_encoder(x)
    for ours, theirs in zip(a.whats, b.whats, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-3)
    assert fused.forward_swwae(x).reconstruction.shape == x.shape


def small(**args):
    torch.manual_seed(0)
    return swwae_zoo.wrap("test_resnet", num_classes=5, img_size=64, decoder="light", **args).eval()


class Adapter(nn.Module):
    """A convolution and a low-rank one beside it, as LoRA has it; the second starts at zero."""

    def __init__(self, conv):
        super().__init__()
        self.conv = conv
        self.down = nn.Conv2d(conv.in_channels, 2, conv.kernel_size, conv.stride, conv.padding, bias=False)
        self.up = nn.Conv2d(2, conv.out_channels, 1, bias=False)
        nn.init.zeros_(self.up.weight)

    def forward(self, x):
        return self.conv(x) + self.up(self.down(x))


def change_hook(model):
    def smooth(module, inputs, output):
        F.conv2d(F.relu(output), output.new_ones(1, output.shape[1], 3, 3))

    model.backbone.conv1.register_forward_hook(smooth)


def change_blocks(model):
    first = model.backbone.layer1[0]
    chs = first.conv1.in_channels
    model.backbone.layer1.insert(0, nn.Sequential(nn.Conv2d(chs, chs, 1), nn.ReLU()))
    nn.init.dirac_(model.backbone.layer1[0][0].weight)
    nn.init.zeros_(model.backbone.layer1[0][0].bias)


def change_adapter(model):
    for module in list(model.backbone.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, nn.Conv2d) and child.groups == 1:
                setattr(module, name, Adapter(child))


@pytest.mark.parametrize("pools", ["tap", "insert"])
@pytest.mark.parametrize("change", [change_blocks, change_adapter, change_hook])
def test_changed_after_wrapping(change, pools):
    model, x = small(pools=pools), images(2, 3, 64, 64)
    before, logits = model.forward_encoder(x), model(x)
    change(model)
    for training in (False, True):
        for _ in range(2):
            after = model.train(training).forward_encoder(x)
            if not training:
                for a, b in zip(before.whats, after.whats, strict=True):
                    torch.testing.assert_close(a, b)
                torch.testing.assert_close(model(x), logits)
        model.forward_decoder(after)


def test_a_hook_that_computes_nothing_counted_costs_nothing():
    model, seen = small(), []
    model.backbone.layer1.register_forward_hook(lambda module, inputs, output: seen.append(output.mean().item()))
    model.forward_encoder(images(2, 3, 64, 64))
    assert len(seen) == 1 and len(model._traces) == 2


class Moody(nn.Module):
    """Skips a convolution every other time."""

    def __init__(self):
        super().__init__()
        self.turn, self.convs = 0, nn.ModuleList(nn.Conv2d(c, 4, 3, stride=2, padding=1) for c in (3, 4))
        self.skip = nn.Conv2d(4, 4, 3, padding=1)

    def forward(self, x):
        Moody.turn = getattr(Moody, "turn", 0) + 1
        x = self.convs[0](x)
        x = self.skip(x) if Moody.turn % 2 else x
        return self.convs[1](x)


def test_what_differs_from_run_to_run_is_refused_with_a_line():
    model, x = swwae_zoo.wrap(Moody(), img_size=32).eval(), images(1, 3, 32, 32)
    with pytest.raises(
        ValueError, match="Moody calls conv2d .* times, expected .*: .* take out what is random"
    ) as caught:
        for _ in range(3):
            model.forward_encoder(x)
    assert "\n" not in str(caught.value)


class Squeezed(nn.Module):
    """Has fewer channels in training."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.Conv2d(8, 8, 3, stride=2, padding=1)

    def forward(self, x):
        x = self.a(x)
        return self.b(x) if not self.training else F.conv2d(x[:, :4], self.b.weight[:4, :4], stride=4)


def test_other_maps_in_training_are_refused():
    with pytest.raises(
        ValueError, match="Squeezed can't be wrapped: its feature maps in training have other channels"
    ) as caught:
        swwae_zoo.wrap(Squeezed(), img_size=32)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("pools", ["tap", "insert"])
def test_pickle_and_torch_save(pools, tmp_path):
    model, x = (
        swwae_zoo.wrap("resnet18", num_classes=3, img_size=64, decoder="light", pools=pools).eval(),
        images(1, 3, 64, 64),
    )
    torch.save(model, tmp_path / "whole.pt")
    expected = model.forward_swwae(x)
    for again in (
        pickle.loads(pickle.dumps(model)),
        torch.load(tmp_path / "whole.pt", weights_only=False),
        copy.deepcopy(model),
    ):
        assert torch.equal(again.forward_swwae(x).reconstruction, expected.reconstruction)
        assert again.report() == model.report()
