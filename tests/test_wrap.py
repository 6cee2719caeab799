"""Wrapped backbones: the backbone's own function to the last bit, a reconstruction beside it, and every way round."""
import copy
import threading

import pytest
import timm
import torch
from torch import nn

import swwae_zoo
from swwae_zoo.losses import Lambdas
from swwae_zoo.run_directory import RunDirectory
from swwae_zoo.task import SWWAETask


def small(name="resnet10t", **args):
    torch.manual_seed(0)
    return swwae_zoo.wrap(name, **{"img_size": 64, "num_classes": 5, "decoder": "light", **args})


def images(*size, seed=1):
    return torch.rand(*size, generator=torch.Generator().manual_seed(seed))


def test_tap_leaves_the_logits_as_they_are():
    model, x = small(drop_rate=0.3), images(2, 3, 64, 64)
    for training in (False, True):
        plain, wrapped = copy.deepcopy(model.backbone).train(training), copy.deepcopy(model).train(training)
        torch.manual_seed(3)
        expected = plain(x)
        torch.manual_seed(3)
        assert torch.equal(wrapped.forward_swwae(x).logits, expected)
        assert all(torch.equal(a, b) for a, b in zip(plain.buffers(), wrapped.backbone.buffers()))


def test_max_pool_gives_its_own_where():
    model, x = small("resnet18").eval(), images(1, 3, 61, 64)
    encoding = model.forward_encoder(x)
    stem = model.backbone.act1(model.backbone.bn1(model.backbone.conv1(x)))
    what, index = torch.nn.functional.max_pool2d(stem, 3, 2, 1, return_indices=True)
    torch.testing.assert_close(encoding.whats[1], what)
    where, width = encoding.switches[1], stem.shape[3]
    row = torch.arange(what.shape[2])[:, None] * 2 - 1 + where.int() // 3
    column = torch.arange(what.shape[3]) * 2 - 1 + where.int() % 3
    assert torch.equal(row * width + column, index)
    assert encoding.switches[0] is None and encoding.frames[1].size == (31, 32)


def test_backbone_is_timms_own():
    model = small()
    plain = timm.create_model("resnet10t", num_classes=5)
    assert type(model.backbone) is type(plain) and list(model.backbone.state_dict()) == list(plain.state_dict())
    plain.load_state_dict(model.backbone.state_dict())
    x = images(1, 3, 64, 64)
    assert torch.equal(plain.eval()(x), model.eval()(x))


@pytest.mark.parametrize("pools", ["tap", "insert"])
@pytest.mark.parametrize("size", [(64, 64), (67, 96)])
def test_reconstructs_any_size_and_trains_every_parameter(pools, size):
    model, x = small(pools=pools, decoder="mirror").train(), images(2, 3, *size)
    out = model.forward_swwae(x)
    assert out.reconstruction.shape == x.shape and len(out.middles) == model.num_middles
    assert all(what.shape == decoded.shape for what, decoded in out.middles)
    (out.logits.square().sum() + out.reconstruction.square().sum()).backward()
    assert [name for name, p in model.named_parameters() if p.grad is None] == []


def test_task_takes_it():
    task = SWWAETask(small(), Lambdas(1.0, 1.0, 1.0))
    parts = task(images(4, 3, 64, 64), torch.tensor([0, 1]))
    parts["loss"].backward()
    assert parts["loss"].isfinite() and parts["output"].shape == (2, 5)


def test_threads_do_not_see_each_other():
    model = small().eval()
    inputs = [images(1, 3, 64, 64, seed=s) for s in range(4)]
    alone = [model.forward_swwae(x).reconstruction for x in inputs]
    together = [None] * 4

    def run(i):
        for _ in range(3):
            together[i] = model.forward_swwae(inputs[i]).reconstruction

    threads = [threading.Thread(target=run, args=(i,)) for i in range(4)]
    [t.start() for t in threads], [t.join() for t in threads]
    for a, b in zip(alone, together):
        torch.testing.assert_close(a, b)


class Own(nn.Module):
    """A net of one's own: strides, a max pool, logits."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, 6, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2, ceil_mode=True))
        self.body = nn.Sequential(nn.Conv2d(6, 8, 3, stride=2, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1))
        self.fc = nn.Linear(8, 4)

    def forward(self, x):
        return self.fc(self.body(self.stem(x)).mean((2, 3)))


@pytest.mark.parametrize("stages", [None, ["stem", "body"]])
def test_a_module_of_ones_own(stages):
    model = swwae_zoo.wrap(Own(), in_chans=1, img_size=28, stages=stages).eval()
    x = images(2, 1, 29, 28)
    out = model.forward_swwae(x)
    assert torch.equal(out.logits, model.backbone(x)) and out.reconstruction.shape == x.shape
    assert model.num_classes == 4 and model.num_middles == 2


@pytest.mark.parametrize("args", [dict(pools="insert", img_size=48), dict(decoder_depth=2, in_chans=1, drop_rate=0.1)])
def test_saved_and_built_again(args, tmp_path):
    model = small(**args).eval()
    RunDirectory(tmp_path).save_model("last", model)
    again = timm.create_model(f"local-dir:{tmp_path / 'last'}", pretrained=True).eval()
    assert repr(again) == repr(model) and again.img_size == model.img_size
    x = images(1, model.in_chans, *model.img_size)
    for a, b in zip(model.forward_swwae(x)[:2], again.forward_swwae(x)[:2]):
        assert torch.equal(a, b)
