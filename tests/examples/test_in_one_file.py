"""`examples/swwae_in_one_file.py` runs, and computes what the package computes."""

import re
import runpy
import sys
from pathlib import Path

import pytest
import timm
import torch
from torch.nn import functional as F

import swwae_zoo  # noqa: F401  registers the models
from swwae_zoo.layers.pooling import switch_pool2d, switch_unpool2d
from swwae_zoo.loss import Lambdas
from swwae_zoo.task.swwae_task import SWWAETask

FILE = Path(__file__).parents[2] / "examples" / "swwae_in_one_file.py"
example = runpy.run_path(str(FILE))


def test_it_is_under_100_lines_of_plain_pytorch() -> None:
    text = FILE.read_text(encoding="utf-8")
    assert len(text.splitlines()) < 100
    imported = set(re.findall(r"^(?:import|from) (\w+)", text, re.MULTILINE))
    assert imported <= {"sys", "torch", "sklearn"}


def test_it_runs(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    monkeypatch.setattr(sys, "argv", [str(FILE), "3"])
    runpy.run_path(str(FILE), run_name="__main__")
    errors = r"( +\d+\.\d){3} +mean \d+\.\d %.*\n"
    shown = capsys.readouterr().out
    assert re.fullmatch(f"labels alone{errors}SWWAE{errors}", shown), shown


def test_pools_are_the_packages() -> None:
    x = torch.randint(4, (2, 3, 8, 6)).float()  # with ties
    what, where = example["pool"](x)
    theirs = switch_pool2d(x, 2)
    assert torch.equal(what, theirs[0]) and torch.equal(where, theirs[1].long())
    assert torch.equal(example["unpool"](what, where), switch_unpool2d(*theirs, 2))


@pytest.mark.parametrize("lambdas", [(0.0, 0.0), (1.0, 0.1), (3.0, 0.7)])
@pytest.mark.parametrize("chans, size", [((1, 32, 64), 8), ((1, 4, 6, 5), 16)])
def test_its_loss_is_the_packages(lambdas: tuple[float, float], chans: tuple[int, ...], size: int) -> None:
    """Loss and gradients of eq. (1), with the same weights, on labelled and unlabelled images."""
    torch.manual_seed(0)
    mine = example["SWWAE"](chans, img_size=size).eval()
    notation = "".join(f"({maps})3c-2p-" for maps in chans[1:]) + "10fc"
    theirs = timm.create_model("swwae_mnist", notation=notation, img_size=size).eval()
    pairs = list(zip(mine.parameters(), theirs.parameters(), strict=True))
    with torch.no_grad():
        for own, their in pairs:
            their.copy_(own)
    images, target = torch.rand(12, 1, size, size), torch.randint(10, (5,))
    loss = example["swwae_loss"](mine, images, target, *lambdas)
    expected = SWWAETask(theirs, Lambdas(1.0, *lambdas))(images, target)["loss"]
    torch.testing.assert_close(loss, expected)
    loss.backward()
    expected.backward()
    for own, their in pairs:
        # where lambda is 0 the package doesn't run the decoder
        torch.testing.assert_close(own.grad, torch.zeros_like(own) if their.grad is None else their.grad)
    assert loss > F.cross_entropy(theirs(images[:5]), target) or lambdas == (0.0, 0.0)
