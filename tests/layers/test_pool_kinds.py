"""Pool kinds as objects: the built-in ones against their functions, and a third one from outside the package."""

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import nn

from swwae_zoo.analysis.summary import describe
from swwae_zoo.layers import Pool, create_pool, pool_names, register_pool, unpool_names
from swwae_zoo.layers.hard_pool import HardPool
from swwae_zoo.layers.pooling import soft_pool2d, soft_unpool2d, switch_pool2d, switch_unpool2d, upsample_unpool2d
from swwae_zoo.loss.objective import Lambdas
from swwae_zoo.models._registry import build_meta
from swwae_zoo.task.swwae_task import SWWAETask
from swwae_zoo.training.run_directory import RunDirectory

IMAGES = torch.rand(4, 1, 18, 18, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def mine():
    """Registers the kind "mine" for one test: the mean, and the position of the minimum."""

    @register_pool("mine")
    class MeanPool(Pool):
        options = ("beta",)

        def __init__(self, kernel_size, beta=1.0):
            super().__init__(kernel_size)
            self.scale = beta

        def pool(self, x):
            where = switch_pool2d(-x.detach(), self.kernel_size)[1]
            return self.scale * F.avg_pool2d(x, self.kernel_size), where

        def unpool(self, what, where, output_size):
            return switch_unpool2d(what / self.scale, where, self.kernel_size, output_size=output_size)

        def centre(self, where):
            return torch.full_like(where, self.kernel_size + 1)

    yield MeanPool
    from swwae_zoo.layers import pool

    del pool._KINDS["mine"]


def test_built_in_kinds_are_their_functions():
    x = torch.randn(2, 3, 7, 9, generator=torch.Generator().manual_seed(1))
    hard, soft, upsample = create_pool("hard", 3), create_pool("soft", 3, beta=5.0), create_pool("hard", 3, "upsample")
    what, where = switch_pool2d(x, 3)
    assert all(torch.equal(a, b) for a, b in zip(hard.pool(x), (what, where), strict=True))
    assert torch.equal(hard.what_only()(x), what)
    assert torch.equal(hard.unpool(what, where, (7, 9)), switch_unpool2d(what, where, 3, output_size=(7, 9)))
    assert torch.equal(upsample.unpool(what, None, (7, 9)), upsample_unpool2d(what, 3, output_size=(7, 9)))
    assert (hard.centre(where) == 4).all() and hard.centre(where).dtype == torch.uint8
    what, where = soft_pool2d(x, 3, 5.0)
    assert torch.equal(soft.what_only()(x), what) and not soft.centre(where).any()
    assert torch.equal(soft.unpool(what, where, (7, 9)), soft_unpool2d(what, where, 3, output_size=(7, 9)))


@pytest.mark.parametrize("name", ["hard", "soft"])
def test_a_kind_says_truly_whether_it_commutes_with_relu(name):
    x, pool = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1)), create_pool(name, 2, beta=3.0)
    assert torch.equal(F.relu(pool.pool(x)[0]), pool.pool(F.relu(x))[0]) == pool.commutes_with_relu


def test_a_kind_of_a_strangers(mine, tmp_path):
    """One file: it trains by `timm.create_model`, is described, saved and loaded."""
    assert pool_names()[-1] == "mine" and "mine" not in unpool_names()
    torch.manual_seed(0)
    args = {"notation": "(4)3c-2p-(6)3c-3p-5fc", "img_size": 18, "pool": "mine", "beta": 2.0}
    model = timm.create_model("swwae_mnist", **args)
    stage = model.stages[0]
    what, where = stage.forward_switch(IMAGES)
    assert torch.equal(what, 2 * F.avg_pool2d(F.relu(stage.forward_convs(IMAGES)), 2)) and torch.equal(
        stage(IMAGES), what
    )
    assert (model.forget_where(model.forward_encoder(IMAGES)).switches[1] == 4).all()

    task, losses = SWWAETask(model, Lambdas(1.0, 1.0, 1.0)), []
    optimizer = torch.optim.SGD(model.parameters(), 0.05)
    for _ in range(4):
        optimizer.zero_grad()
        loss = task(IMAGES, torch.tensor([0, 1]))["loss"]
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses == sorted(losses, reverse=True)
    assert all(p.grad is not None for p in model.parameters())

    rows = {row.name: row for row in describe(build_meta("swwae_mnist", args))}
    assert rows["stages.1.pool"].layer == "mine pool 3x3" and rows["decoder.stages.1.unpool"].layer == "mine unpool 3x3"
    RunDirectory(tmp_path).save_model("last", model.eval())
    again = timm.create_model(f"local-dir:{tmp_path / 'last'}", pretrained=True).eval()
    assert torch.equal(again.forward_swwae(IMAGES).reconstruction, model.forward_swwae(IMAGES).reconstruction)


def test_an_unpooling_of_a_strangers():
    @register_pool("nearest")
    class Nearest(Pool):
        has_where = False

        def unpool(self, what, where, output_size):
            return F.interpolate(what, output_size)

    try:
        model = timm.create_model("swwae_mnist", unpool="nearest")
        assert isinstance(model.decoder.stages[0].pool, Nearest) and unpool_names() == ("switch", "upsample", "nearest")
        assert model.forward_swwae(torch.rand(1, 1, 33, 32)).reconstruction.shape == (1, 1, 33, 32)
        with pytest.raises(ValueError, match="pool is 'nearest': expected one of hard, soft"):
            timm.create_model("swwae_mnist", pool="nearest")
    finally:
        from swwae_zoo.layers import pool

        del pool._KINDS["nearest"]


@pytest.mark.parametrize(
    ("name", "message"), [("hard", "registered already, as HardPool"), ("switch", "identifier"), (3, "identifier")]
)
def test_names_that_are_refused(name, message):
    with pytest.raises(ValueError, match=message):
        register_pool(name)(type("Other", (Pool,), {}))


@pytest.mark.parametrize("window", [(2, None, 0, False), (3, 2, 1, False), (3, 3, 0, True), ((1, 2), 2, 0, False)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_only_in_training_is_torchs_max_pool_and_gradient(window, dtype):
    kernel_size, stride, padding, ceil_mode = window
    torch.manual_seed(0)
    x = torch.randint(4, (2, 3, 8, 9)).to(dtype).contiguous(memory_format=torch.channels_last)  # with ties
    results = []
    for pool in (HardPool(*window).what_only(), nn.MaxPool2d(kernel_size, stride, padding, ceil_mode=ceil_mode)):
        seen = x.clone().requires_grad_()
        y = pool(seen)
        results.append((y, *torch.autograd.grad(y, seen, torch.arange(y.numel()).reshape(y.shape).to(dtype))))
    for mine, right in zip(*results, strict=True):
        assert torch.equal(mine, right)


def test_what_only_is_a_module_that_torchscript_takes():
    assert isinstance(create_pool("hard", 2).what_only(), nn.MaxPool2d)
