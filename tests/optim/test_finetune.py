"""Fine-tuning: what is frozen stays to the last bit, and each part learns at its own rate."""

import pytest
import timm
import torch

import swwae_zoo
from swwae_zoo.config import RunConfig
from swwae_zoo.optim.finetune import freeze
from swwae_zoo.optim.optimizer import create_optimizer, create_scheduler


@pytest.fixture
def model():
    torch.manual_seed(0)
    return swwae_zoo.wrap("test_resnet", img_size=64, num_classes=4, decoder="light", zero_init_last=False)


def train(model, **keys):
    config = RunConfig(steps=4, lr=0.01, opt="momentum", momentum=0.0, sched="constant", **keys)
    optimizer = create_optimizer(config, model)
    create_scheduler(config, optimizer, 4)
    before = {name: p.clone() for name, p in model.state_dict().items()}
    out = model.train().forward_swwae(torch.rand(4, 3, 64, 64))
    (out.logits.square().sum() + out.reconstruction.square().sum()).backward()
    optimizer.step()
    steps = {
        name: (before[name] - p).abs().max().item() / p.grad.abs().max().item()
        for name, p in model.named_parameters()
        if p.grad is not None and p.grad.any()
    }  # the last norm of a block begins at 0
    return {name for name, p in model.state_dict().items() if not torch.equal(p, before[name])}, steps


def test_frozen_stages_keep_weights_and_statistics(model):
    freeze(model, stages=2)
    changed, _ = train(model)
    assert not [name for name in changed if name.startswith(("backbone.conv1", "backbone.bn1", "backbone.layer1"))]
    assert "backbone.layer2.0.conv1.weight" in changed and "decoder.stages.0.convs.0.conv.weight" in changed
    with pytest.raises(ValueError, match="expected at most 5"):
        freeze(model, stages=6)


def test_norms_in_evaluation_mode(model):
    freeze(model, norm_eval=True)
    changed, _ = train(model.eval().train())
    assert not [name for name in changed if name.startswith("backbone.") and "running" in name]
    assert [name for name in changed if name.startswith("decoder.") and "running" in name]
    assert "backbone.bn1.weight" in changed


def test_learning_rate_of_the_encoder(model):
    _, steps = train(model, lr_encoder=0.001)
    for name, step in steps.items():
        late = name.startswith(("decoder.", "backbone.fc."))
        assert step == pytest.approx(0.01 if late else 0.001, rel=0.05), name


@pytest.mark.parametrize("name", ["wrapped", "swwae_cifar_vgg"])
def test_layers_far_from_the_classifier_learn_slower(model, name):
    if name != "wrapped":
        model = timm.create_model(name, notation="(4)3c-2p-(6)3c-2p-10fc", img_size=64)
    _, steps = train(model, layer_decay=0.5)
    first, last = model.default_cfg["first_conv"], model.default_cfg["classifier"]
    first = "backbone.conv1.0" if name == "wrapped" else first
    decoder = next(n for n in steps if n.startswith("decoder."))
    assert steps[f"{last}.weight"] == pytest.approx(0.01, rel=0.05) == pytest.approx(float(steps[decoder]), rel=0.05)
    assert steps[f"{first}.weight"] <= 0.01 * 0.5**2


@pytest.mark.parametrize("name", ["adahessian", "lookahead_adahessian"])
def test_second_derivatives_are_refused(name: str) -> None:
    model = timm.create_model("swwae_mnist", notation="(4)3c-2p-10fc")
    with pytest.raises(ValueError, match="needs second derivatives, which training does not keep; choose adamw"):
        create_optimizer(RunConfig(opt=name, steps=1), model)
