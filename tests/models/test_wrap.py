"""Wrapped backbones: the backbone's own function to the last bit, a reconstruction beside it, and every way round."""

import copy
import math
import threading

import pytest
import safetensors.torch
import timm
import torch
from timm.layers import create_pool2d
from timm.models import save_for_hf
from torch import nn

import swwae_zoo
from swwae_zoo.analysis.summary import describe
from swwae_zoo.layers.pooling import switch_unpool2d
from swwae_zoo.loss import Lambdas
from swwae_zoo.models._registry import build_meta
from swwae_zoo.models.wrapped.capture import fit
from swwae_zoo.task.swwae_task import SWWAETask
from swwae_zoo.training.run_directory import RunDirectory


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
        assert all(torch.equal(a, b) for a, b in zip(plain.buffers(), wrapped.backbone.buffers(), strict=False))


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
    assert encoding.switches[0] is None and encoding.geometries[1].size == (31, 32)


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
    for a, b in zip(alone, together, strict=False):
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


def test_a_map_made_flat_for_a_classifier():
    """The paper's small nets as a module of one's own: a single pool, and half of the layers behind it."""
    net = nn.Sequential(
        nn.Conv2d(1, 6, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(6 * 14 * 14, 10)
    )
    model, x = swwae_zoo.wrap(net, in_chans=1, img_size=28).eval(), images(2, 1, 28, 28)
    out = model.forward_swwae(x)
    assert torch.equal(out.logits, net(x)) and out.reconstruction.shape == x.shape and len(out.middles) == 1


class Windows(nn.Module):
    """Its map is padded for the windows of an attention, and cropped again behind them."""

    def __init__(self):
        super().__init__()
        self.conv, self.proj = (
            nn.Sequential(nn.Conv2d(3, 8, 4, stride=4), nn.Conv2d(8, 8, 4, stride=4)),
            nn.Linear(8, 8),
        )

    def forward(self, x):
        x = self.conv(x).permute(0, 2, 3, 1)
        b, h, w, c = x.shape
        x = nn.functional.pad(x, (0, 0, 0, -w % 30, 0, -h % 30))
        x = self.proj(x.view(b, x.shape[1] // 30, 30, x.shape[2] // 30, 30, c).transpose(2, 3).reshape(-1, 900, c))
        return x.view(b, -1, c)[:, : h * w].mean(1)


class Levels(nn.Module):
    """Maps of two levels are added up at its end, as sequences; the one that comes last skipped a step."""

    def __init__(self):
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv2d(c, 8, 3, stride=2, padding=1) for c in (3, 8, 8))

    def forward(self, x):
        first = self.convs[0](x)
        last = self.convs[2](self.convs[1](first))
        return sum(
            level.flatten(2).transpose(1, 2) for level in (last, nn.functional.interpolate(first, last.shape[2:]))
        )


@pytest.mark.parametrize(("net", "strides"), [(Windows(), [4, 4]), (Levels(), [2, 2, 2])])
def test_the_finest_path_to_the_last_map(net, strides):
    model, x = swwae_zoo.wrap(net, img_size=64).eval(), images(1, 3, 64, 64)
    assert [step.event.stride[0] for step in model.path.steps] == strides
    assert model.forward_encoder(x).whats[-1].shape[2:] == (64 // math.prod(strides),) * 2
    assert model.forward_swwae(x).reconstruction.shape == x.shape


def test_a_hybrid_whose_maps_are_sequences_on_the_way():
    model = build_meta("swwae_wrap", {"backbone": "levit_128s", "img_size": 96, "decoder": "light"})
    assert [step.event.kind for step in model.path.steps] == ["conv"] * 4 + ["move"] * 2  # every second row and column
    report = model.report()
    assert "20 layers on tokens after the top map" in report and "rearrangement /2: tap beside it" in report


def test_backbone_of_a_folder(tmp_path):
    torch.manual_seed(4)
    plain = timm.create_model("test_resnet", num_classes=5).eval()
    save_for_hf(plain, tmp_path / "plain", safe_serialization=True)
    model = small(f"local-dir:{tmp_path / 'plain'}", pretrained=True, num_classes=None).eval()
    x = images(1, 3, 64, 64)
    assert torch.equal(model.forward_swwae(x).logits, plain(x))
    RunDirectory(tmp_path).save_model("last", model)  # which names the backbone, and not the folder it came from
    again = timm.create_model(f"local-dir:{tmp_path / 'last'}", pretrained=True).eval()
    assert "plain" not in (tmp_path / "last" / "config.json").read_text() and torch.equal(again(x), plain(x))


@pytest.mark.parametrize("args", [dict(pools="insert", img_size=48), dict(decoder_depth=2, in_chans=1, drop_rate=0.1)])
def test_saved_and_built_again(args, tmp_path):
    model = small(**args).eval()
    RunDirectory(tmp_path).save_model("last", model)
    again = timm.create_model(f"local-dir:{tmp_path / 'last'}", pretrained=True).eval()
    assert repr(again) == repr(model) and again.img_size == model.img_size
    x = images(1, model.in_chans, *model.img_size)
    for a, b in zip(model.forward_swwae(x)[:2], again.forward_swwae(x)[:2], strict=False):
        assert torch.equal(a, b)


@pytest.mark.parametrize("args", [{}, {"pools": "insert"}, {"decoder": "light"}], ids=str)
def test_saved_for_colours_and_built_for_grey(args, tmp_path):
    """A grey image is taken as the colour image of equal channels, and what comes back is the mean of its channels."""
    model = timm.create_model("swwae_wrap", backbone="test_resnet", num_classes=3, img_size=64, **args).eval()
    RunDirectory(tmp_path).save_model("last", model)
    source = f"local-dir:{tmp_path / 'last'}"
    grey, features = (
        timm.create_model(source, pretrained=True, **changed).eval()
        for changed in ({"in_chans": 1}, {"features_only": True})
    )
    x = torch.rand(2, 1, 64, 64, generator=torch.Generator().manual_seed(0))
    ours, theirs = grey.forward_swwae(x), model.forward_swwae(x.expand(-1, 3, -1, -1))
    torch.testing.assert_close(ours.logits, theirs.logits, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(ours.reconstruction, theirs.reconstruction.mean(1, keepdim=True), atol=1e-4, rtol=1e-4)
    assert [tuple(m.shape[1:]) for m in features(x.expand(-1, 3, -1, -1))] == [
        (info["num_chs"], 64 // info["reduction"], 64 // info["reduction"]) for info in model.feature_info
    ]
    with pytest.raises(ValueError, match="those of another decoder") as caught:
        timm.create_model(source, pretrained=True, decoder="light" if not args.get("decoder") else "mirror")
    assert "\n" not in str(caught.value)


def test_report_tells_what_was_done_at_each_step():
    model = small("resnet18")
    rows = {row.name: row for row in describe(model)}
    assert rows["step 0"].layer == "strided conv /2: from the image" and rows["step 0"].switch == ""
    assert rows["step 1"].layer == "max pool /2: replaced" and rows["step 1"].shape == (64, 16, 16)
    assert (
        rows["step 2"].layer == "strided conv /2: tap beside it"
        and rows["step 2"].switch == "where 2 -> decoder.stages.2"
    )
    assert rows["decoder.stages.4"].params == 512 * 256 * 9 + 2 * 256
    assert rows["decoder.stages.4"].flops == 2 * 512 * 256 * 9 * 2 * 2
    assert rows["backbone"].params + rows["classifier"].params == sum(p.numel() for p in model.backbone.parameters())
    assert (
        "max pool /2: replaced" in model.report()
        and "stride 1 and a pool" in small("resnet18", pools="insert").report()
    )


# --- graphs -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pools", ["tap", "insert"])
def test_export_of_the_whole(pools):
    model, x = small("test_resnet", pools=pools).eval(), images(2, 3, 64, 64)

    class Whole(nn.Module):
        def __init__(self):
            super().__init__()
            self.model = model

        def forward(self, x):
            return self.model.forward_swwae(x)

    exported = torch.export.export(Whole(), (x,)).module()(x)
    torch.testing.assert_close(exported[0], model.forward_swwae(x)[0])
    torch.testing.assert_close(exported[1], model.forward_swwae(x)[1])


@pytest.mark.parametrize("pools", ["tap", "insert"])
def test_compiled_whole_without_a_graph_break(pools):
    torch.compiler.reset()  # after other models in this code, sizes would be compiled as symbols, which takes long
    model, x = small("test_resnet", pools=pools).eval(), images(2, 3, 64, 64)
    compiled = torch.compile(model.forward_swwae, backend="aot_eager", fullgraph=True)
    for a, b in zip(compiled(x)[:2], model.forward_swwae(x)[:2], strict=False):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("pools", ["tap", "insert"])
def test_checkpointing_changes_nothing(pools):
    x, gradients = images(2, 3, 64, 64), []
    model = small("test_resnet", pools=pools).train()
    for enable in (False, True):
        again = copy.deepcopy(model)
        again.set_grad_checkpointing(enable)
        out = again.forward_swwae(x)
        (
            out.logits.square().sum()
            + out.reconstruction.square().sum()
            + sum((a - b).square().sum() for a, b in out.middles)
        ).backward()
        gradients.append([p.grad for p in again.parameters()])
    torch.testing.assert_close(*gradients)


def test_bf16_and_channels_last():
    model, x = small("test_resnet").train(), images(2, 3, 64, 64)
    with torch.autocast("cpu", torch.bfloat16):
        out = model.forward_swwae(x)
    out.reconstruction.float().square().sum().backward()
    assert all(p.grad.isfinite().all() for p in model.decoder.parameters())
    model.eval().to(memory_format=torch.channels_last)
    a, b = model.forward_swwae(x), model.forward_swwae(x.contiguous(memory_format=torch.channels_last))
    torch.testing.assert_close(a.reconstruction, b.reconstruction, rtol=1e-3, atol=1e-4)


def test_features_only_gives_the_maps():
    model = small("test_resnet").eval()
    net = timm.create_model("swwae_wrap", backbone="test_resnet", features_only=True, img_size=64, in_chans=3).eval()
    x = images(1, 3, 64, 64)
    maps = net(x)
    assert [m.shape[1] for m in maps] == net.feature_info.channels()
    assert [64 // m.shape[2] for m in maps] == net.feature_info.reduction()
    assert model.forward_intermediates(x, intermediates_only=True)[-1].shape == maps[-1].shape


def test_backbone_checkpoint_loads_unchanged(tmp_path):
    torch.manual_seed(7)
    plain = timm.create_model("test_resnet", num_classes=5).eval()
    safetensors.torch.save_file(plain.state_dict(), tmp_path / "plain.safetensors")
    model = small("test_resnet", backbone_checkpoint=tmp_path / "plain.safetensors").eval()
    x = images(1, 3, 64, 64)
    assert torch.equal(model.forward_swwae(x).logits, plain(x))
    with pytest.raises(ValueError, match="can't be loaded into resnet10t"):
        small("resnet10t", backbone_checkpoint=tmp_path / "plain.safetensors")


def test_insert_has_a_where_at_every_step_and_the_same_shapes():
    tap, insert, x = small("resnet18").eval(), small("resnet18", pools="insert").eval(), images(1, 3, 65, 64)
    encoding = insert.forward_encoder(x)
    assert all(where is not None and where.dtype == torch.uint8 for where in encoding.switches[:-1])
    for a, b in zip(
        tap.forward_intermediates(x, intermediates_only=True),
        insert.forward_intermediates(x, intermediates_only=True),
        strict=False,
    ):
        assert a.shape == b.shape
    stem = nn.functional.conv2d(x, insert.backbone.conv1.weight, stride=1, padding=3)
    torch.testing.assert_close(encoding.whats[0], nn.functional.max_pool2d(stem, 2, ceil_mode=True))


class Dilated(nn.Module):
    def forward(self, x):
        return nn.functional.max_pool2d(self.conv(x), 3, 2, 1, dilation=2)

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1)


class Same(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.pool = nn.Conv2d(3, 4, 1), create_pool2d("max", 3, 2, padding="same")

    def forward(self, x):
        return self.pool(self.conv(x))


@pytest.mark.parametrize("pools", ["tap", "insert"])
@pytest.mark.parametrize("size", [(32, 32), (33, 30)])
def test_same_padding_max_pool_is_exact(pools, size):
    model, x = swwae_zoo.wrap(Same(), pools=pools, img_size=size).eval(), images(1, 3, *size)
    encoding = model.forward_encoder(x)
    assert torch.equal(encoding.whats[0], model.backbone(x)) and encoding.geometries[0].kernel == (3, 3)
    unpooled = switch_unpool2d(
        encoding.whats[0], encoding.switches[0], *encoding.geometries[0][:3], output_size=encoding.geometries[0].size
    )
    unpooled, full = fit(unpooled, size), model.backbone.conv(x)
    torch.testing.assert_close(
        unpooled[unpooled != 0], full[unpooled != 0]
    )  # a pixel chosen twice is the mean of equal values
    assert (unpooled != 0).sum() > 0.4 * encoding.whats[0].numel()
    assert model.forward_swwae(x).reconstruction.shape == x.shape


def test_dilated_max_pool_is_exact():
    model, x = swwae_zoo.wrap(Dilated(), img_size=33).eval(), images(1, 3, 33, 33)
    encoding = model.forward_encoder(x)
    full = model.backbone.conv(x)
    what, index = nn.functional.max_pool2d(full, 3, 2, 1, dilation=2, return_indices=True)
    assert torch.equal(encoding.whats[0], what)
    where = encoding.switches[0].int()
    row = torch.arange(what.shape[2])[:, None] * 2 - 1 + where // 5
    column = torch.arange(what.shape[3]) * 2 - 1 + where % 5
    assert torch.equal(row * 33 + column, index) and model.forward_swwae(x).reconstruction.shape == x.shape


def test_distributed_data_parallel(tmp_path):
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/rendezvous", rank=0, world_size=1)
    try:
        x, target = images(4, 3, 64, 64), torch.tensor([0, 1])
        gradients = []
        for parallel in (False, True):
            task = SWWAETask(small("test_resnet"), Lambdas(1.0, 1.0, 1.0))
            module = nn.parallel.DistributedDataParallel(task) if parallel else task
            module(x, target)["loss"].backward()
            gradients.append([p.grad for p in task.parameters()])
        torch.testing.assert_close(*gradients)
    finally:
        torch.distributed.destroy_process_group()
