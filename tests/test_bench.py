"""`swwae bench`: the memory counter against hand counts, and the shape of its answer."""
import json

import pytest
import torch
from typer.testing import CliRunner

from swwae_zoo.bench import LiveBytes, Setting, Step, bench
from swwae_zoo.cli.main import app

NET = {"notation": "(4)3c-2p-(4)3c-2p-10fc"}


def test_live_bytes_by_hand() -> None:
    weight = torch.zeros(10)  # 40 bytes
    with LiveBytes([weight, weight]) as live:
        assert live.now == 40
        a = torch.zeros(100)  # 400
        b = a.view(10, 10)  # the same storage
        c = b + 1  # 400
        del a, c
        assert live.now == 440
        del b
        assert (live.now, live.peak) == (40, 840)


def test_live_bytes_sees_what_backward_keeps() -> None:
    x = torch.ones(1000, requires_grad=True)
    with LiveBytes([x]) as live:
        y = x.exp().exp().sum()  # the first exp's result is kept for the backward pass, and the second's
        assert live.now >= 12_000
        y.backward()
        del y
    assert live.now == 8000  # x and its gradient


def test_both_steps_do_the_same_but_for_the_decoder() -> None:
    convnet, swwae = (Step("swwae_mnist", NET, with_decoder, Setting(batch_size=2)) for with_decoder in (False, True))
    convnet()
    swwae()
    names = {name for name, p in swwae.task.trainable_module.named_parameters() if p.grad is not None}
    kept = {name for name, p in convnet.task.trainable_module.named_parameters() if p.grad is not None}
    assert names - kept == {name for name in names if name.startswith("decoder.")} != set()
    assert {name for name, _ in swwae.task.trainable_module.named_parameters()} == names
    assert {name for name, _ in convnet.task.trainable_module.named_parameters()} == kept


def test_bench() -> None:
    results = bench("swwae_mnist", NET, Setting(batch_size=8), steps=2)
    assert results["swwae"]["mebibytes"] > results["convnet"]["mebibytes"] > 0
    for key, ratio in results["ratio"].items():
        assert ratio == pytest.approx(results["swwae"][key] / results["convnet"][key])


def test_command() -> None:
    args = ["bench", "swwae_mnist", "--model-arg", "notation=(4)3c-2p-10fc", "--batch-size", "4", "--steps", "1", "--device", "cpu"]
    shown = json.loads(CliRunner().invoke(app, [*args, "--json"]).stdout)
    assert shown["batch_size"] == 4 and {"milliseconds", "mebibytes"} == set(shown["ratio"])
    assert CliRunner().invoke(app, args).stdout.count("\n") == 6
    refused = CliRunner().invoke(app, [*args, "--model-arg", "num_classes=0"])
    assert refused.exit_code == 2 and "expected a SWWAE with a classifier" in refused.stderr
