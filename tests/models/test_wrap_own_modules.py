"""Modules of one's own beyond a plain convnet: wrapped they train, are saved, come back and go on, or are refused."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

import swwae_zoo
from swwae_zoo.loss.objective import Lambdas
from swwae_zoo.task.swwae_task import SWWAETask
from swwae_zoo.training.run_directory import RunDirectory


class Net(nn.Module):
    """A max pool, a strided convolution, a classifier of 5."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 12, 3, stride=2, padding=1)
        self.pool, self.norm, self.fc, self.num_classes = nn.MaxPool2d(2), nn.BatchNorm2d(12), nn.Linear(12, 5), 5

    def maps(self, x: Tensor) -> Tensor:
        return self.norm(self.b(self.pool(self.a(x).relu()))).relu()

    def forward(self, x: Tensor) -> Any:
        return self.fc(self.maps(x).mean((2, 3)))


class Nested(Net):
    """timm's two halves, with features in a dict of a dict of lists."""

    def forward_features(self, x: Tensor) -> Any:
        x = self.maps(x)
        return {"out": {"maps": [x]}, "aux": (x,)}

    def forward_head(self, x: Any, pre_logits: bool = False) -> Tensor:
        x = x["out"]["maps"][0].mean((2, 3))
        return x if pre_logits else self.fc(x)

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(x))


class LowRank(nn.Module):
    """A frozen convolution and a trained one of rank 2 beside it."""

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self.conv, chans = conv.requires_grad_(False), (conv.in_channels, conv.out_channels)
        self.down = nn.Conv2d(chans[0], 2, 3, 2, padding=1, bias=False)
        self.up = nn.Conv2d(2, chans[1], 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x) + self.up(self.down(x))


class AuxiliaryHead(Net):
    """A branch with pools and strides of its own, in training alone."""

    def __init__(self) -> None:
        super().__init__()
        self.aux = nn.Sequential(nn.Conv2d(8, 4, 3, 2, 1), nn.MaxPool2d(2), nn.Conv2d(4, 5, 1))

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(self.a(x).relu())
        more = self.aux(x).mean((2, 3)) if self.training else 0.0
        return self.fc(self.norm(self.b(x)).relu().mean((2, 3))) + 0.1 * more


class Noise(Net):
    """On the images, through a convolution, and on the maps, in training alone."""

    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Conv2d(3, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            x = self.mix(x + 0.1 * torch.randn_like(x))
        x = nn.functional.dropout2d(self.pool(self.a(x).relu()), 0.3, self.training)
        return self.fc(self.norm(self.b(x)).relu().mean((2, 3)))


def changed(change: Callable[[Any], object]) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        net = Net()
        change(net)
        return net

    return make


def with_adapters(net: Any) -> None:
    """A convolution and a 1x1 one after it, in the place of each."""
    net.a, net.b = nn.Sequential(net.a, nn.Conv2d(8, 8, 1)), nn.Sequential(net.b, nn.Conv2d(12, 12, 1))


MODULES: dict[str, Callable[[], nn.Module]] = {
    "nested features": Nested,
    "adapters after": changed(with_adapters),
    "low rank beside": changed(lambda net: setattr(net, "b", LowRank(net.b))),
    "auxiliary head": AuxiliaryHead,
    "noise": Noise,
    "spectral norm": changed(lambda net: nn.utils.parametrizations.spectral_norm(net.b)),
    "weight norm": changed(lambda net: nn.utils.parametrizations.weight_norm(net.b)),
    "frozen": changed(lambda net: net.requires_grad_(False)),
    "in parallel": lambda: nn.DataParallel(Net()),
}


def steps(task: SWWAETask, optimizer: torch.optim.Optimizer, seed: int) -> None:
    """Three, on two streams: 4 labelled images and 4 others."""
    random = torch.Generator().manual_seed(seed)
    for _ in range(3):
        torch.manual_seed(seed)  # of noise and dropout
        x = torch.rand(8, 3, 32, 32, generator=random)
        loss = task(x, torch.randint(0, 5, (4,), generator=random))["loss"]
        assert loss.isfinite()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


@pytest.mark.parametrize("pools", ["tap", "insert"])
@pytest.mark.parametrize("make", MODULES.values(), ids=MODULES)
def test_trained_saved_loaded_and_gone_on_with(make: Callable[[], nn.Module], pools: str, tmp_path: Path) -> None:
    def start(seed: int) -> tuple[Any, SWWAETask, torch.optim.Optimizer]:
        torch.manual_seed(seed)
        model = swwae_zoo.wrap(make(), img_size=32, pools=pools).train()
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        return model, SWWAETask(model, Lambdas(1.0, 1.0, 0.1)), torch.optim.SGD(trained, 0.05, momentum=0.9)

    model, task, optimizer = start(0)
    before, frozen = copy.deepcopy(model.state_dict()), {n for n, p in model.named_parameters() if not p.requires_grad}
    steps(task, optimizer, 1)
    moved = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    assert moved and not moved & frozen
    assert {name for name, _ in model.decoder.named_parameters(prefix="decoder")} <= moved
    RunDirectory(tmp_path).save_model("last", model)
    saved = safetensors.torch.load_file(tmp_path / "last" / "model.safetensors")
    state = copy.deepcopy((task.state_dict(), optimizer.state_dict()))

    other, other_task, other_optimizer = start(7)
    other.load_state_dict(saved)
    x = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(5))
    assert_same(model.eval().forward_swwae(x), other.eval().forward_swwae(x))
    if pools == "tap":
        torch.testing.assert_close(model.backbone(x), model(x))
    for each in (model, other):
        each.train()
    other_task.load_state_dict(state[0])
    other_optimizer.load_state_dict(state[1])
    steps(task, optimizer, 2)
    steps(other_task, other_optimizer, 2)
    assert_same(model.eval().forward_swwae(x), other.eval().forward_swwae(x))


def assert_same(a: Any, b: Any) -> None:
    assert torch.equal(a.logits, b.logits) and torch.equal(a.reconstruction, b.reconstruction)


class Gives(Net):
    def __init__(self, kind: Callable[[Tensor, Tensor], Any]) -> None:
        super().__init__()
        self.kind = kind

    def forward(self, x: Tensor) -> Any:
        x = self.maps(x)
        return self.kind(self.fc(x.mean((2, 3))), x)


@pytest.mark.parametrize("num_classes", [None, 5])
@pytest.mark.parametrize(
    "kind, words",
    [
        (lambda logits, maps: {"logits": logits, "maps": maps}, "is a dict, expected one tensor"),
        (lambda logits, maps: {"maps": maps, "logits": logits}, "is a dict, expected one tensor"),
        (lambda logits, maps: (logits, maps), "is a tuple, expected one tensor"),
        (lambda logits, maps: [logits], "is a list, expected one tensor"),
        (lambda logits, maps: None, "is no tensor computed from the image"),
    ],
)
def test_outputs_that_are_no_tensor(kind: Callable[[Tensor, Tensor], Any], words: str, num_classes: int | None) -> None:
    """When it is wrapped, not after an hour."""
    with pytest.raises(ValueError, match=words) as caught:
        swwae_zoo.wrap(Gives(kind), img_size=32, num_classes=num_classes)
    assert "\n" not in str(caught.value)
