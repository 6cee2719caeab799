"""What the decoder does not keep for backward, and that it makes no difference to any gradient."""

import pytest
import timm
import torch

import swwae_zoo  # noqa: F401  registers the models
from swwae_zoo import decoder
from swwae_zoo.bench import LiveBytes
from swwae_zoo.losses import Lambdas
from swwae_zoo.task import SWWAETask

ARGS = {"notation": "(6)3c-2p-(8)3c-(5)3c-2p-10fc", "img_size": 16}


def step(monkeypatch, keep, amp=False, **args):
    """Gradients, and the bytes alive when backward begins."""
    torch.manual_seed(0)
    task = SWWAETask(timm.create_model("swwae_mnist", **ARGS, **args), Lambdas(1.0, 1.0, 1.0))
    images = torch.rand(8, 1, 16, 16, generator=torch.Generator().manual_seed(1))
    with monkeypatch.context() as patch:
        if keep:
            patch.setattr(decoder, "rebuilt", lambda image, make: decoder.nullcontext())
        with LiveBytes(task.parameters()) as live, torch.autocast("cpu", torch.bfloat16, enabled=amp):
            loss = task(images, torch.arange(4))["loss"]
            alive = live.now
        loss.backward()
    return [p.grad for p in task.parameters()], alive


@pytest.mark.parametrize("args", [
    {}, {"amp": True}, {"batch_norm": True}, {"unpool": "upsample"}, {"pool": "soft", "beta": 5.0}], ids=str)
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
