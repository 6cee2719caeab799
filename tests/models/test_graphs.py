"""The model as a graph: feature extraction by fx and timm's other ways, TorchScript, torch.compile, torch.export."""

import warnings

import pytest
import timm
import torch
import torch.fx
from timm.layers import create_feature_extractor
from timm.models import FeatureDictNet, FeatureGraphNet, FeatureHookNet, FeatureListNet
from timm.models._features import FeatureGetterNet

import swwae_zoo  # noqa: F401  registers the models

KINDS = {
    "hard": {},
    "soft": {"pool": "soft"},
    "upsample": {"unpool": "upsample", "batch_norm": True},
    "no-pool-on-top": {"notation": "(4)3c-2p-(6)3c-7fc"},
}
FEATURE_NETS = {
    "list": FeatureListNet,
    "dict": FeatureDictNet,
    "hook": FeatureHookNet,
    "fx": FeatureGraphNet,
    "getter": FeatureGetterNet,
}


SMALL = {"notation": "(4)3c-2p-(6)3c-(8)3c-3p-12fc-7fc", "img_size": 18}


@pytest.fixture(params=KINDS.values(), ids=KINDS)
def args(request):
    return {**SMALL, **request.param}


def create(args, **more):
    torch.manual_seed(0)
    return timm.create_model("swwae_mnist", **{**args, **more}).eval()


IMAGES = torch.rand(2, 1, 18, 18, generator=torch.Generator().manual_seed(1))


class Everything(torch.nn.Module):
    """`forward_swwae` as the forward of a module."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, x):
        return tuple(self.model.forward_swwae(x))


@pytest.mark.parametrize("kind", FEATURE_NETS)
@pytest.mark.parametrize("out_indices", [None, (0,), (1,), (0, -1)])
def test_feature_nets(args, kind, out_indices):
    model = create(args)
    net = create(args, features_only=True, feature_cls=kind, **({"out_indices": out_indices} if out_indices else {}))
    assert type(net) is FEATURE_NETS[kind]
    state = {
        k.removeprefix("model.").removeprefix("graph_module.").replace("stages_", "stages."): k
        for k in net.state_dict()
    }
    net.load_state_dict({key: model.state_dict()[name] for name, key in state.items()})
    maps = net(IMAGES)
    whats = [model.forward_encoder(IMAGES).whats[i] for i in out_indices or (0, 1)]
    torch.testing.assert_close(list(maps.values()) if kind == "dict" else maps, whats)
    assert net.feature_info.channels() == [w.shape[1] for w in whats]
    assert net.feature_info.reduction() == [IMAGES.shape[2] // w.shape[2] for w in whats]


def test_fx(args):
    model = create(args)
    traced = torch.fx.symbolic_trace(model)
    assert torch.equal(traced(IMAGES), model(IMAGES))
    with pytest.raises(ValueError, match="the top map is"):  # the checks are part of the graph
        traced(torch.rand(2, 1, 36, 36))
    extracted = create_feature_extractor(model, {"stages.0": "first", "head.fc": "logits"})(IMAGES)
    torch.testing.assert_close(extracted, {"first": model.forward_encoder(IMAGES).whats[0], "logits": model(IMAGES)})


def test_torchscript(args):
    model = create(args)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch is giving TorchScript up
        if model.stages[0].pool.name == "soft":
            assert torch.equal(torch.jit.trace(model, IMAGES)(IMAGES), model(IMAGES))
            return
        scripted = torch.jit.script(model)
        assert torch.equal(scripted(IMAGES), model(IMAGES))
        assert torch.equal(torch.jit.script(torch.fx.symbolic_trace(model))(IMAGES), model(IMAGES))
        with pytest.raises(torch.jit.Error, match="the top map is"):
            scripted(torch.rand(2, 1, 36, 36))


@pytest.mark.parametrize("kind", ["hard", "soft", "upsample", "checkpointing"])
def test_compile(kind):
    torch._dynamo.reset()
    results = []
    for compiled in (False, True):
        model = create(SMALL, **KINDS.get(kind, {})).train()
        model.set_grad_checkpointing(kind == "checkpointing")
        run = (
            torch.compile(model.forward_swwae, fullgraph=True, backend="aot_eager") if compiled else model.forward_swwae
        )
        out = run(IMAGES)
        (out.logits.square().mean() + out.reconstruction.square().mean()).backward()
        results.append((out, [p.grad for p in model.parameters()], list(model.buffers())))
    torch.testing.assert_close(results[1], results[0])


@pytest.mark.parametrize("kind", ["hard", "soft", "upsample", "logits"])
def test_export_with_any_batch_size(kind):
    model = create(SMALL, **KINDS.get(kind, {}))
    module = model if kind == "logits" else Everything(model)
    # Torch 2.11 can't prove that min(B, 2 B) is B, which the soft pool's views ask, for a named batch dimension.
    named = kind != "soft" or torch.__version__ >= (2, 14)
    batch = {0: torch.export.Dim("batch", min=1, max=64) if named else torch.export.Dim.DYNAMIC}
    program = torch.export.export(module, (IMAGES,), dynamic_shapes=(batch,)).module()
    more = torch.rand(5, 1, 18, 18)
    torch.testing.assert_close(program(more), module(more))
