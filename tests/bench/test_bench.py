"""`swwae bench`: the memory counter against hand counts, and the shape of its answer."""

import json

import pytest
import torch
from typer.testing import CliRunner

from swwae_zoo.bench import BenchSettings, LiveBytes, TimedStep, bench
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


def test_the_steps_differ_in_the_decoder_alone() -> None:
    grads = {}
    for row in ("convnet", "swwae", "upsample", "plain"):
        step = TimedStep(row, "swwae_mnist", NET, BenchSettings(batch_size=2))
        step()
        assert all(p.grad is not None for p in step.module.parameters())
        grads[row] = sum(p.numel() for p in step.module.parameters())
    assert grads["convnet"] < grads["swwae"] == grads["upsample"] == grads["plain"]


@pytest.mark.parametrize(
    "model, args",
    [("swwae_mnist", NET), ("swwae_cifar_vgg", {"notation": "(4)3c-(5)3c-2p-(6)3c-2p-8fc-10fc", "in_chans": 3})],
)
def test_plain_pytorch_makes_the_same_loss_and_gradients(model, args) -> None:
    """With our weights it must be our step; else their times say nothing of each other."""
    ours, plain = (TimedStep(row, model, args, BenchSettings(batch_size=4)) for row in ("swwae", "plain"))
    net = ours.module.trainable_module
    own = [conv for stage in net.stages for conv in stage.convs]
    own += [conv for stage in net.decoder.stages for conv in stage.convs]
    theirs = [block for part in (plain.module.encoder, plain.module.decoder) for stage in part for block in stage]
    with torch.no_grad():
        for conv in own:  # no window is all negative: there a ReLU in front of the pool loses the place of the maximum
            (conv.norm if isinstance(conv.norm, torch.nn.BatchNorm2d) else conv.conv).bias.fill_(3.0)
        for mine, block in zip(own, theirs, strict=True):
            for a, b in zip(mine.parameters(), block.parameters(), strict=True):
                b.copy_(a)
        linears = [m for m in net.head.modules() if isinstance(m, torch.nn.Linear)]
        for mine, block in zip(linears, [m for m in plain.module.head if isinstance(m, torch.nn.Linear)], strict=True):
            block.load_state_dict(mine.state_dict())
    loss = ours.module(ours.images, ours.target)["loss"]
    expected = plain.module(ours.images, ours.target)
    torch.testing.assert_close(loss, expected)
    loss.backward()
    expected.backward()
    for mine, block in zip(own, theirs, strict=True):
        for a, b in zip(mine.parameters(), block.parameters(), strict=True):
            torch.testing.assert_close(a.grad, b.grad, rtol=1e-4, atol=1e-6)


def test_bench() -> None:
    results = bench("swwae_mnist", NET, BenchSettings(batch_size=8), steps=2, rows=("convnet", "swwae", "plain"))
    assert results["swwae"]["mebibytes"] > results["convnet"]["mebibytes"] > 0
    for row in results.values():
        assert row["images_per_second"] == pytest.approx(8000 / row["milliseconds"])
        assert sum(row["shares"].values()) == pytest.approx(1) and row["shares"]["convolutions"] > 0
    assert results["convnet"]["gigaflops"] < results["swwae"]["gigaflops"]
    assert all(results[row]["shares"]["pools"] > 0 for row in results)
    with pytest.raises(ValueError, match="rows: got 'fast'"):
        bench("swwae_mnist", NET, rows=("fast",))


def test_command(tmp_path) -> None:
    args = [
        "bench",
        "swwae_mnist",
        "--model-arg",
        "notation=(4)3c-2p-10fc",
        "--batch-size",
        "4",
        "--steps",
        "1",
        "--device",
        "cpu",
    ]
    (shown,) = json.loads(CliRunner().invoke(app, [*args, "--json", "--out", str(tmp_path / "bench")]).stdout)
    assert shown["batch_size"] == 4 and list(shown["rows"]) == ["convnet", "swwae", "plain"]
    kept = json.loads((tmp_path / "bench" / "bench.json").read_text())
    assert kept["groups"] == [shown] and kept["versions"]["torch"] == torch.__version__
    assert (tmp_path / "bench" / "bench.png").read_bytes().startswith(b"\x89PNG")
    assert CliRunner().invoke(app, args).stdout.count("\n") == 7
    refused = CliRunner().invoke(app, [*args, "--model-arg", "num_classes=0"])
    assert refused.exit_code == 2 and "expected a SWWAE with a classifier" in refused.stderr
