"""Options of a model, the ways it is moved, copied and run, and what wrong ones are told."""

import copy
import pickle
import re

import pytest
import timm
import torch
import torch.nn.functional as F

import swwae_zoo
from swwae_zoo.layers.conv_norm import ConvFact
from swwae_zoo.models._encoder import EncoderStage
from swwae_zoo.models._stages import Stage, feature_sizes, stages_from_notation

NOTATION = "(4)3c-2p-(6)3c-(6)5c-3p-12fc-7fc"


def create(**args):
    torch.manual_seed(0)
    return timm.create_model("swwae_mnist", **{"notation": NOTATION, "img_size": 18, **args}).eval()


def rand(*shape):
    return torch.rand(shape, generator=torch.Generator().manual_seed(1))


def same_outputs(a, b, **tolerance):
    torch.testing.assert_close(
        [a.logits, a.reconstruction, *sum(a.middles, ())],
        [b.logits, b.reconstruction, *sum(b.middles, ())],
        **tolerance,
    )


def test_stages_of_a_notation():
    stages, linears = stages_from_notation("(16)5c-(32)3c-2p-(8)3c-9fc-10fc", 3)
    assert stages == (
        Stage((ConvFact(3, 16, 5), ConvFact(16, 32, 3)), 2),
        Stage((ConvFact(32, 8, 3),), None),
    ) and linears == (9, 10)
    assert feature_sizes(stages, (7, 10)) == [(3, 5), (3, 5)]


@pytest.mark.parametrize("in_chans", [1, 3, 5])
@pytest.mark.parametrize("size", [(18, 18), (40, 56), (7, 11), (6, 6)])
def test_encoder_and_decoder_take_any_size(in_chans, size):
    x = rand(2, in_chans, *size)
    for unpool in ("switch", "upsample"):
        model = create(in_chans=in_chans, unpool=unpool)
        assert model.forward_decoder(model.forward_encoder(x)).reconstruction.shape == x.shape
        assert create(in_chans=in_chans, unpool=unpool, img_size=size).forward_swwae(x).logits.shape == (2, 7)


def test_registered_nets_of_another_size():
    assert timm.create_model("swwae_mnist", img_size=48)(rand(1, 1, 48, 48)).shape == (1, 10)
    assert timm.create_model("swwae_mnist", img_size=(40, 56), in_chans=3)(rand(1, 3, 40, 56)).shape == (1, 10)
    assert timm.create_model("swwae_mnist", global_pool="avg")(rand(1, 1, 40, 56)).shape == (1, 10)


@pytest.mark.parametrize(
    "shape, message",
    [
        ((2, 3, 18, 18), "(B, 1, H, W) with H and W at least 6"),
        ((2, 1, 18, 5), "H and W at least 6"),
        ((1, 18, 18), "images have shape"),
        ((2, 1, 24, 18), "the top map is 4x3, but the classifier was built for 3x3 (images of 18x18)"),
    ],
)
def test_images_the_net_can_not_take(shape, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        create().forward_swwae(rand(*shape))
    with pytest.raises(ValueError, match=re.escape(message)):
        create()(rand(*shape))


@pytest.mark.parametrize(
    "pool", ["avg", "max", "avgmax", "catavgmax", "fast", "fastavg", "fastmax", "fastavgmax", "fastcatavgmax"]
)
def test_global_pools(pool):
    model = create(global_pool=pool)
    features = model.forward_features(rand(2, 1, 25, 19))
    assert model.forward_head(features).shape == (2, 7)
    bare = create(global_pool=pool, notation="(4)3c-2p-(6)3c-(6)5c-3p-7fc", num_classes=0)
    average, highest = features.mean((2, 3)), features.amax((2, 3))
    both = {"avgmax": (average + highest) / 2, "catavgmax": torch.cat([average, highest], 1), "max": highest}
    expected = both.get(pool.removeprefix("fast"), average)
    torch.testing.assert_close(bare.forward_head(features), expected)


def test_the_head_by_hand():
    model, x = create(), rand(2, 1, 18, 18)
    flat = model.forward_features(x).reshape(2, -1)
    (hidden,), classifier = model.head.hidden, model.get_classifier()
    before = flat @ hidden.weight.T + hidden.bias
    assert (before < 0).any()
    torch.testing.assert_close(model(x), before.clamp(min=0) @ classifier.weight.T + classifier.bias)


def test_resetting_gives_the_head_that_a_fresh_model_has():
    for before, after in (("flatten", "avg"), ("avg", "flatten"), ("avg", "catavgmax"), ("", "max"), ("avg", "max")):
        model = create(global_pool=before, num_classes=0)
        model.reset_classifier(4, after)
        fresh = create(global_pool=after, num_classes=4)
        shapes = {k: v.shape for k, v in model.state_dict().items()}
        assert shapes == {k: v.shape for k, v in fresh.state_dict().items()}
        assert model._traits["fixed_input_size"] == (after == "flatten")
        assert not any(module.training for module in model.modules())  # in evaluation mode, as it was
    model, weight = create(global_pool="avg").to(torch.float64), None
    weight = model.head.hidden[0].weight
    model.reset_classifier(4, "max")
    assert model.head.hidden[0].weight is weight and model.get_classifier().weight.dtype == torch.float64
    with pytest.raises(ValueError, match="set num_classes=0"):
        model.reset_classifier(5, "")
    assert model.num_classes == 4 and model(rand(1, 1, 18, 18).double()).shape == (1, 4)  # as it was


def test_a_classifier_without_a_pool_is_made_as_timms_models_make_it():
    model = create(global_pool="", num_classes=0)
    model.reset_classifier(4)
    assert model.get_classifier().out_features == model.num_classes == 4
    with pytest.raises(ValueError, match=r"leaves a map, which has no logits: .*reset_classifier\(10, 'avg'\)"):
        model(rand(1, 1, 18, 18))
    assert model.forward_head(model.forward_features(rand(1, 1, 18, 18)), pre_logits=True).shape == (1, 6, 3, 3)
    model.reset_classifier(4, "avg")
    assert model(rand(1, 1, 18, 18)).shape == (1, 4)


def test_one_set_of_weights_for_every_pool_and_unpool():
    state, x = create().state_dict(), rand(2, 1, 18, 18)
    outputs = {}
    for pool in ("hard", "soft"):
        for unpool in ("switch", "upsample"):
            model = create(pool=pool, unpool=unpool)
            model.load_state_dict(state)
            outputs[pool, unpool] = model.forward_swwae(x)
    torch.testing.assert_close(outputs["hard", "switch"].logits, outputs["hard", "upsample"].logits)
    recons = [out.reconstruction for out in outputs.values()]
    assert all(not torch.allclose(a, b) for i, a in enumerate(recons) for b in recons[:i])
    sharp = create(pool="soft", beta=1e4)  # a sharp soft pool is the hard one
    sharp.load_state_dict(state)
    torch.testing.assert_close(sharp(x), outputs["hard", "switch"].logits, atol=1e-4, rtol=1e-3)


def test_relu_behind_the_pool_keeps_what_and_where():
    stage = EncoderStage(Stage((ConvFact(2, 8, 3),), 3), "hard", 100.0, False)
    torch.nn.init.constant_(stage.convs[0].conv.bias, -0.5)  # so that some windows are all negative
    x = torch.randn(4, 2, 12, 12, generator=torch.Generator().manual_seed(0))
    what, where = stage.forward_switch(x)
    before = swwae_zoo.layers.pooling.switch_pool2d(F.relu(stage.forward_convs(x)), 3)
    assert torch.equal(what, before[0])
    assert torch.equal(where[what > 0], before[1][what > 0]) and not torch.equal(where, before[1])
    assert torch.equal(stage(x), what)


def test_dropout_stands_before_every_fully_connected_layer():
    model = create(drop_rate=0.5).train()
    x = rand(8, 1, 18, 18)
    assert not torch.equal(model(x), model(x))
    model.head.hidden[0] = torch.nn.Identity()
    dropped = model.forward_head(torch.ones(8, 6, 3, 3), pre_logits=True)
    assert set(dropped.unique().tolist()) == {0.0, 4.0}  # twice, each time scaled by two
    model.head.hidden[0] = torch.nn.Linear(54, 12)
    model.eval()
    assert torch.equal(model(x), model(x))


def test_dropout_stands_before_every_convolution_but_the_first():
    """Convolutions that copy the middle pixel tell what reaches them."""
    model = create(notation="(4)3c-(4)3c-2p-(4)3c-2p-7fc", drop_conv_rate=0.5).train()
    for conv in (stage_conv.conv for stage in model.stages for stage_conv in stage.convs):
        torch.nn.init.dirac_(conv.weight)
        torch.nn.init.zeros_(conv.bias)
    torch.nn.init.ones_(model.stages[0].convs[0].conv.weight[:, :, 1, 1])
    x = torch.ones(8, 1, 18, 18)
    assert set(model.stages[0].convs[0](x).unique().tolist()) == {1.0}
    encoding = model.forward_encoder(x)
    assert set(encoding.whats[0].unique().tolist()) == {0.0, 2.0}
    assert set(encoding.whats[1].unique().tolist()) == {0.0, 4.0}
    assert set(model.eval().forward_encoder(x).whats[1].unique().tolist()) == {1.0}


@pytest.mark.parametrize("args", [{}, {"pool": "soft"}, {"batch_norm": True}, {"notation": "(4)3c-2p-(6)3c-7fc"}])
def test_gradient_checkpointing_changes_nothing_but_memory(args):
    x, results = rand(2, 1, 18, 18), []
    for enable in (False, True):
        model = create(**args).train()
        model.set_grad_checkpointing(enable)
        saved = [0]

        def count(t, saved=saved):
            saved[0] += t.numel()
            return t

        with torch.autograd.graph.saved_tensors_hooks(count, lambda t: t):
            out = model.forward_swwae(x)
        (
            out.logits.square().mean()
            + out.reconstruction.square().mean()
            + sum((w - d).square().mean() for w, d in out.middles)
        ).backward()
        full = [p.grad.clone() for p in model.parameters()]
        model.zero_grad()
        logits, maps = model(x), model.forward_intermediates(x, intermediates_only=True)
        (logits.square().mean() + maps[0].square().mean()).backward()
        plain = [p.grad for n, p in model.named_parameters() if not n.startswith("decoder.")]
        results.append(([out.logits, out.reconstruction, logits, *maps, *full, *plain], saved[0]))
    torch.testing.assert_close(results[0][0], results[1][0])
    assert (
        results[1][1] < 0.8 * results[0][1]
    )  # without it the decoder's unpooled maps are made anew already (rebuilt.py)


def test_copies_and_pickles():
    model, x = create(pool="soft"), rand(2, 1, 18, 18)
    expected = model.forward_swwae(x)
    for again in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        same_outputs(again.forward_swwae(x), expected)
        with torch.no_grad():
            next(again.parameters()).zero_()  # a copy of its own
    same_outputs(model.forward_swwae(x), expected)


def test_device_and_dtype():
    model = create(device="meta", dtype=torch.float64, batch_norm=True)
    assert {(p.device.type, p.dtype) for p in model.parameters()} == {("meta", torch.float64)}
    out = model.forward_swwae(torch.empty(2, 1, 18, 18, device="meta", dtype=torch.float64))
    assert out.reconstruction.shape == (2, 1, 18, 18) and out.logits.device.type == "meta"
    model = model.to_empty(device="cpu")
    with torch.no_grad():
        for t in (*model.parameters(), *model.buffers()):
            t.fill_(float("nan") if t.is_floating_point() else 7)
    model.init_weights()
    out = model.forward_swwae(rand(2, 1, 18, 18).double())
    assert out.logits.isfinite().all() and out.reconstruction.isfinite().all() and out.logits.dtype == torch.float64


@pytest.mark.parametrize("pool", ["hard", "soft"])
def test_bf16(pool):
    model, x = create(pool=pool).train(), rand(2, 1, 18, 18)
    expected = model.forward_swwae(x)
    with torch.autocast("cpu", torch.bfloat16):
        out = model.forward_swwae(x)
        loss = out.logits.float().square().mean() + out.reconstruction.float().square().mean()
    loss.backward()
    assert out.logits.dtype == out.reconstruction.dtype == torch.bfloat16
    assert all(p.grad.isfinite().all() and p.grad.dtype == torch.float32 for p in model.parameters())
    torch.testing.assert_close(out.logits.float(), expected.logits, atol=0.05, rtol=0.05)
    half = create(pool=pool, dtype=torch.bfloat16).forward_swwae(x.bfloat16())
    assert half.reconstruction.dtype == torch.bfloat16 and half.reconstruction.isfinite().all()


def test_channels_last_stays_channels_last():
    model, x = create(in_chans=3), rand(2, 3, 18, 18)
    expected = model.forward_swwae(x)
    model = model.to(memory_format=torch.channels_last)
    out = model.forward_swwae(x.contiguous(memory_format=torch.channels_last))
    same_outputs(out, expected)
    for t in (out.reconstruction, *out.middles[0]):
        assert t.is_contiguous(memory_format=torch.channels_last)


def test_nothing_is_left_on_the_model():
    model = create()
    before = pickle.dumps(model)
    model.forward_swwae(rand(2, 1, 18, 18))
    model(rand(2, 1, 18, 18))
    assert pickle.dumps(model) == before


@pytest.mark.parametrize("batch", [0, 1])
def test_batches_of_none_and_one(batch):
    out = create().train().forward_swwae(rand(batch, 1, 18, 18))
    assert out.logits.shape == (batch, 7) and out.reconstruction.shape == (batch, 1, 18, 18)


@pytest.mark.parametrize(
    "args, message",
    [
        ({"pool": "mean"}, "pool is 'mean': expected one of hard, soft"),
        ({"unpool": "none"}, "unpool is 'none': expected one of switch, upsample"),
        ({"beta": -1.0}, "beta is -1.0: expected a finite number of at least 0"),
        ({"beta": float("nan")}, "beta is nan"),
        ({"global_pool": "mean"}, "global_pool is 'mean': expected one of 'flatten'"),
        ({"global_pool": ""}, "leaves a map, which has no logits: set num_classes=0, or another global_pool"),
        ({"num_classes": -1}, "num_classes is -1: expected"),
        ({"drop_rate": 1.0}, "drop_rate is 1.0: expected a share"),
        ({"drop_conv_rate": -0.1}, "drop_conv_rate is -0.1: expected a share"),
        (
            {"img_size": 5},
            "images of 5x5 are too small: stage 1 pools 3x3 windows, but its map is 2x2; this net takes images from "
            "6x6 up",
        ),
        ({"img_size": 0}, "expected numbers of at least 1"),
        ({"in_chans": 0}, "images of 0x18x18 (in_chans, img_size)"),
        ({"img_size": [1, 2, 3]}, "img_size is [1, 2, 3]: expected one number"),
        ({"notation": "(4)3c-2p-2p"}, "two pools follow each other; put a convolution between them"),
        ({"notation": "(4)3x-7fc"}, "(4)3x-7fc"),
    ],
)
def test_wrong_options_are_told_what_to_do(args, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        create(**args)
