"""What the decoder does not keep for backward, and that it makes no difference to any gradient."""

import pytest
import timm
import torch
import torch.nn.functional as F

import swwae_zoo  # noqa: F401  registers the models
from swwae_zoo.bench import LiveBytes
from swwae_zoo.layers import micro_batch as in_parts
from swwae_zoo.layers.recompute import norm_relu
from swwae_zoo.loss import Lambdas
from swwae_zoo.models import _decoder as decoder
from swwae_zoo.models import _encoder as encoder
from swwae_zoo.task.swwae_task import SWWAETask

ARGS = {"notation": "(6)3c-2p-(8)3c-(5)3c-2p-10fc", "img_size": 16}


def step(monkeypatch, keep, amp=False, **args):
    """Gradients, and the bytes alive when backward begins."""
    torch.manual_seed(0)
    task = SWWAETask(timm.create_model("swwae_mnist", **{**ARGS, **args}), Lambdas(1.0, 1.0, 1.0))
    images = torch.rand(8, 1, 16, 16, generator=torch.Generator().manual_seed(1))
    with monkeypatch.context() as patch:
        if keep:
            patch.setattr(decoder, "rebuilt", lambda image, make: decoder.nullcontext())
        with LiveBytes(task.parameters()) as live, torch.autocast("cpu", torch.bfloat16, enabled=amp):
            loss = task(images, torch.arange(4))["loss"]
            alive = live.now
        loss.backward()
    return [p.grad for p in task.parameters()], alive


@pytest.mark.parametrize(
    "args", [{}, {"amp": True}, {"batch_norm": True}, {"unpool": "upsample"}, {"pool": "soft", "beta": 5.0}], ids=str
)
def test_the_unpooled_maps_are_not_kept(monkeypatch, args):
    (kept, before), (remade, after) = (step(monkeypatch, keep, **args) for keep in (True, False))
    assert all(torch.equal(a, b) for a, b in zip(kept, remade, strict=True))
    maps = 8 * (6 * 16 * 16 + 5 * 8 * 8) * (2 if args.get("amp") else 4)
    if "pool" in args:  # soft unpooling would have kept less of what it is made of
        assert 0 < before - after < maps
    else:
        assert before - after == maps


def test_second_derivatives():
    model = timm.create_model("swwae_mnist", notation="(2)3c-2p-3fc", img_size=4).double()
    x = torch.rand(1, 1, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    assert torch.autograd.gradgradcheck(lambda image: model.forward_swwae(image).reconstruction, x)


@pytest.mark.parametrize("amp", [False, True])
def test_what_batch_norm_can_make_again_is_not_kept(monkeypatch, amp):
    """Between two convolutions of a stage only the first one's output is kept, not relu(norm(it)) too."""

    def keeping(norm, x):
        return F.relu(norm(x)), decoder.nullcontext()

    remade, after = step(monkeypatch, False, amp=amp, batch_norm=True)
    monkeypatch.setattr(decoder, "norm_relu", keeping)
    monkeypatch.setattr(encoder, "norm_relu", keeping)
    kept, before = step(monkeypatch, False, amp=amp, batch_norm=True)
    assert all(torch.equal(a, b) for a, b in zip(kept, remade, strict=True))
    assert before - after == 8 * (8 + 8) * 8 * 8 * (
        2 if amp else 4
    )  # stage 2 alone has two convolutions, and so has its mirror


def test_a_second_backward_finds_the_same():
    """What was made for one reader and not taken by the other must not be found by a later one."""
    norm, conv = torch.nn.BatchNorm2d(3), torch.nn.Conv2d(3, 2, 3)
    x = torch.randn(4, 3, 6, 6, generator=torch.Generator().manual_seed(0)).requires_grad_()
    y, held = norm_relu(norm, x)
    with held:
        out = conv(y).square().sum()
    first = torch.autograd.grad(out, conv.weight, retain_graph=True)[
        0
    ]  # the convolution's weight alone: ReLU does not ask
    for _ in range(2):
        grads = torch.autograd.grad(out, [x, conv.weight], retain_graph=True)
        assert torch.equal(grads[1], first)
    expected = torch.autograd.grad(conv(F.relu(norm(x))).square().sum(), x)[0]
    assert torch.equal(grads[0], expected)


@pytest.mark.parametrize(
    "args", [{}, {"batch_norm": True}, {"pool": "soft", "beta": 5.0}, {"notation": "(6)3c-2p-(5)3c-10fc"}], ids=str
)
def test_a_batch_in_parts_gives_the_same(monkeypatch, args):
    whole, _ = step(monkeypatch, False, **args)
    monkeypatch.setattr(in_parts, "PART_BYTES", 3 * 6 * 16 * 16 * 4)  # three images of the first stage
    calls = []
    monkeypatch.setattr(
        decoder.DecoderStage,
        "_first",
        lambda self, what, *args, first=decoder.DecoderStage._first: (
            calls.append(len(what)),
            first(self, what, *args),
        )[1],
    )
    parts, _ = step(monkeypatch, False, **args)
    assert calls[-3:] == [3, 3, 2]
    for a, b in zip(whole, parts, strict=True):
        torch.testing.assert_close(a, b)


def test_parts_stay_in_order_and_none_stays_none(monkeypatch):
    monkeypatch.setattr(in_parts, "PART_BYTES", 8)
    x = torch.arange(5.0)[:, None]
    doubled, none = in_parts.in_parts(lambda a, b: (2 * a, b), 4, x, None)
    assert torch.equal(doubled, 2 * x) and none is None
    empty, _ = in_parts.in_parts(lambda a, b: (2 * a, b), 4, x[:0], None)
    assert empty.shape == (0, 1)
