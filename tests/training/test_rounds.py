"""`train_rounds`: what a run computes, writes and reports, and what it refuses before it writes anything."""

import json
import math
import os
import re
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from typer.testing import CliRunner

from swwae_zoo.cli.main import app
from swwae_zoo.config import RunConfig, to_toml
from swwae_zoo.data import Preprocess, load_images
from swwae_zoo.training.build import build_model, input_shape, splits_of
from swwae_zoo.training.progress import Progress
from swwae_zoo.training.rounds import runs_of, summary, train_rounds
from swwae_zoo.training.run_directory import RunDirectory
from swwae_zoo.training.trainer import Trainer
from swwae_zoo.utils.json_files import read_json, unsealed
from swwae_zoo.utils.precision import Autocast

pytestmark = pytest.mark.usefixtures("one_thread")
TINY = {"notation": "(4)3c-2p-(4)3c-2p-10fc", "img_size": 32}
BASE = RunConfig(model_args=TINY, num_labels=50, num_val=50, steps=6, batch_size=24, labeled_batch=16)


def run(out: Path, **keys: Any) -> dict[str, Any]:
    return train_rounds(replace(BASE, out=str(out), **keys))[0]


def metrics(out: Path) -> list[dict[str, Any]]:
    return [unsealed(json.loads(line)) for line in (out / "metrics.jsonl").read_text().splitlines()]


def trainer(config: RunConfig, tmp_path: Path, device: str = "cpu") -> Trainer:
    splits = splits_of(config, input_shape(config))
    return Trainer(
        config,
        build_model(config, splits.num_classes),
        splits,
        RunDirectory(tmp_path / "run"),
        torch.device(device),
        Progress(),
    )


def error_of(folder: Path, split: str) -> float:
    """Test error by timm's way of loading and nothing of the trainer's, in %."""
    model = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    images = load_images("digits", split, in_chans=1)
    x = Preprocess(32, mean=model.pretrained_cfg["mean"], std=model.pretrained_cfg["std"])(images.images)
    with torch.no_grad():
        return 100 * (model(x).argmax(1) != images.labels).double().mean().item()


# --- what a run leaves -------------------------------------------------------------------------------


def test_a_run_and_what_it_leaves(tmp_path: Path) -> None:
    out = tmp_path / "run"
    result = run(out, steps=40, lr=5e-3)
    files = {str(path.relative_to(out)) for path in out.rglob("*") if path.is_file()}
    assert files == {
        "config.toml",
        "run.json",
        "metrics.jsonl",
        "checkpoint.pt",
        "result.json",
        "curves.png",
        "reconstructions.png",
        "last/model.safetensors",
        "last/config.json",
        "best/model.safetensors",
        "best/config.json",
    }
    lines = metrics(out)
    losses, errors = ([line for line in lines if key in line] for key in ("loss", "val_error"))
    assert [line["step"] for line in losses] == list(range(1, 41)) and [line["step"] for line in errors] == list(
        range(4, 41, 4)
    )
    assert set(losses[0]) == {"step", "epoch", "lr", "loss", "nll", "rec", "middle", "images_per_second"}
    assert losses[0]["loss"] == pytest.approx(losses[0]["nll"] + losses[0]["rec"] + losses[0]["middle"], rel=1e-5)
    assert losses[-1]["loss"] < losses[0]["loss"] - 0.3, "it did not learn"
    lowest = min(errors, key=lambda line: line["val_error"])  # the first of them
    assert (result["best_step"], result["best_val_error"]) == (lowest["step"], lowest["val_error"])
    assert result["val_error"] == errors[-1]["val_error"]
    assert result["test_error"] == pytest.approx(error_of(out / "last", "test")) and result["test_error"] < 70
    saved = read_json(out / "result.json", dict, "")
    assert saved == {key: value for key, value in result.items() if key not in ("seed", "twin")}


def test_best_is_the_model_of_the_lowest_validation_error(tmp_path: Path) -> None:
    """The learning rate is so high in the end that the last model is not the best."""
    out = tmp_path / "run"
    result = run(out, steps=20, lr=0.3, opt="sgd", sched="constant", num_val=200, eval_every=1)
    assert result["best_step"] < 20 and result["best_val_error"] < result["val_error"], "choose another learning rate"
    splits = splits_of(replace(BASE, num_val=200), (1, 32, 32))
    for name, error in (("best", result["best_val_error"]), ("last", result["val_error"])):
        model = timm.create_model(f"local-dir:{out / name}", pretrained=True).eval()
        with torch.no_grad():
            logits = model(Preprocess(32, mean=0.0, std=1.0)(splits.val.images))
        assert 100 * (logits.argmax(1) != splits.val.labels).double().mean().item() == pytest.approx(error)


def test_without_validation_images_best_is_last(tmp_path: Path) -> None:
    result = run(tmp_path / "run", num_val=0)
    best, last = ((tmp_path / "run" / name / "model.safetensors").read_bytes() for name in ("best", "last"))
    assert (
        best == last and result["val_error"] is None and result["best_val_error"] is None and result["best_step"] == 6
    )


def test_the_average_is_what_is_kept_and_judged(tmp_path: Path) -> None:
    result = run(tmp_path / "run", ema=0.9, steps=12, lr=0.01)
    state = torch.load(tmp_path / "run" / "checkpoint.pt", weights_only=True)
    kept = timm.create_model(f"local-dir:{tmp_path}/run/last", pretrained=True).state_dict()
    assert all(torch.equal(kept[name], value) for name, value in state["state_dict_ema"].items())
    assert not torch.equal(kept["head.fc.weight"], state["state_dict"]["head.fc.weight"])
    assert result["test_error"] == pytest.approx(error_of(tmp_path / "run" / "last", "test"))


@pytest.mark.parametrize("sched", ["cosine", "constant"])
def test_learning_rate(sched: str, tmp_path: Path) -> None:
    """Linear up to lr in warmup_steps, then a cosine down to min_lr; each line has the rate of the next step."""
    run(
        tmp_path / "run",
        steps=20,
        warmup_steps=4,
        lr=0.01,
        min_lr=0.001 if sched == "cosine" else 0.0,
        log_every=1,
        sched=sched,
    )
    logged = [line["lr"] for line in metrics(tmp_path / "run") if "lr" in line]
    cosine = [0.001 + 0.5 * (0.01 - 0.001) * (1 + math.cos(math.pi * step / 16)) for step in range(17)]
    assert logged == pytest.approx([0.004, 0.006, 0.008, *(cosine if sched == "cosine" else [0.01] * 17)])


def test_first_steps_learning_rate(tmp_path: Path) -> None:
    one = trainer(replace(BASE, warmup_steps=4, lr=0.01), tmp_path)
    assert one.optimizer.param_groups[0]["lr"] == pytest.approx(0.002)


def test_epochs_are_passes_over_the_unlabelled_images(tmp_path: Path) -> None:
    images = len(load_images("digits", "train").images) - 50  # less validation
    one = trainer(replace(BASE, steps=0, epochs=3, batch_size=200), tmp_path)
    assert one.steps == 3 * math.ceil(images / 200) and one.unlabeled_stream.n == images
    assert trainer(replace(BASE, steps=0, epochs=3, unlabeled="none"), tmp_path).steps == 3 * math.ceil(50 / 16)


def test_without_unlabelled_images(tmp_path: Path) -> None:
    one = trainer(replace(BASE, unlabeled="none"), tmp_path)
    x, target, _ = one.next_batch()
    assert x.shape == (16, 1, 32, 32) and target.shape == (16,)
    assert {"nll", "rec", "middle"} < set(one.train_step())


def test_more_labelled_images_a_step_than_there_are(tmp_path: Path) -> None:
    x, target, _ = trainer(replace(BASE, num_labels=10), tmp_path).next_batch()
    assert target.sort().values.tolist() == list(range(10)) and len(x) == 10 + 24


def test_unsupervised_has_no_error(tmp_path: Path) -> None:
    """Without lambda_nll the classifier stays as drawn: its error would be of nothing."""
    out = tmp_path / "run"
    result = run(out, lambda_nll=0.0, steps=8)
    assert result["val_error"] is None and result["test_error"] is None and 0 < result["test_rec"] < 1
    assert summary([result | {"twin": False}]) == [
        f"test reconstruction loss  SWWAE            {result['test_rec']:.5f}"
    ]
    assert not any("val_error" in line for line in metrics(out))
    before = build_model(replace(BASE), 10).state_dict()
    after = timm.create_model(f"local-dir:{out}/best", pretrained=True).state_dict()
    assert torch.equal(before["head.fc.weight"], after["head.fc.weight"])
    assert not torch.equal(before["stages.0.convs.0.conv.weight"], after["stages.0.convs.0.conv.weight"])
    x, target, _ = trainer(replace(BASE, lambda_nll=0.0), tmp_path / "other").next_batch()
    assert len(x) == 16 + 24, "the labelled images still serve as images"


def test_data_without_a_test_part(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 255, (40, 32, 32, 3), np.uint8)
    np.savez(tmp_path / "set.npz", x_train=images, y_train=np.arange(40) % 10)
    result = run(
        tmp_path / "run", data=f"npz:{tmp_path}/set.npz", num_labels=20, num_val=10, model_args={**TINY, "in_chans": 3}
    )
    assert result["test_error"] is None and result["test_rec"] is None and result["val_error"] is not None
    assert (tmp_path / "run" / "reconstructions.png").exists()


# --- the twin and the rounds ----------------------------------------------------------------------------


def test_the_twin_sees_the_same_labelled_images_and_no_others(tmp_path: Path) -> None:
    config = replace(BASE, twin=True, lambda_l1=0.1, augment="photo", model_args={**TINY, "drop_rate": 0.5})
    (full, _), (plain, is_twin) = runs_of(config)
    assert is_twin and (plain.lambda_rec, plain.lambda_middle, plain.lambda_l1) == (0.0, 0.0, 0.0)
    shared = splits_of(full, (1, 32, 32)).to(torch.device("cpu"))
    pair = [
        Trainer(one, build_model(one, 10), shared, RunDirectory(tmp_path), torch.device("cpu"), Progress())
        for one in (full, plain)
    ]
    assert all(torch.equal(a, b) for a, b in zip(*(one.model.state_dict().values() for one in pair), strict=False))
    for _ in range(5):
        (x, target, _), (twin_x, twin_target, _) = (one.next_batch() for one in pair)
        assert torch.equal(target, twin_target) and torch.equal(x[:16], twin_x) and len(x) == 40
    assert pair[1].unlabeled is None and pair[0].steps_per_epoch == pair[1].steps_per_epoch
    assert set(pair[1].train_step()) == {"loss", "nll"}
    for name in ("labeled", "val", "test"):
        a, b = (getattr(one, name).images for one in pair)
        assert a.data_ptr() == b.data_ptr(), f"{name} is there twice"


def test_images_are_on_the_device_once() -> None:
    config = replace(BASE, num_labels=0, num_val=0)
    splits = splits_of(config, (1, 32, 32))
    moved = splits.to(torch.device("meta"))
    assert (
        moved.labeled.images is moved.unlabeled.images and moved.labeled.images.is_meta and moved.labeled.labels.is_meta
    )
    plain = splits.to(torch.device("meta"), unlabeled=False)
    assert not plain.unlabeled.images.is_meta and plain.test.images.is_meta


def test_rounds_draw_their_labels_anew_and_are_reported_together(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    results = train_rounds(replace(BASE, rounds=2, twin=True, seed=3, steps=2, out=str(out)))
    assert [(one["seed"], one["twin"]) for one in results] == [(3, False), (3, True), (4, False), (4, True)]
    assert sorted(path.name for path in out.iterdir()) == [
        "config.toml",
        "results.json",
        "run.json",
        "seed3",
        "seed3-twin",
        "seed4",
        "seed4-twin",
    ]
    errors = [one["test_error"] for one in results]
    ours, twins = errors[::2], errors[1::2]
    said = capsys.readouterr().err
    assert "net 2 of 4: " in said and f"next      swwae predict IMAGES --model {out}/seed" in said
    assert summary(results) == [
        f"test error  SWWAE            {np.mean(ours):6.2f} % ± {np.std(ours, ddof=1):.2f} over 2 rounds",
        f"test error  twin, lambda = 0 {np.mean(twins):6.2f} % ± {np.std(twins, ddof=1):.2f} over 2 rounds",
    ]
    first, second = (
        splits_of(one, (1, 32, 32)).labeled.images for one, twin in runs_of(replace(BASE, rounds=2, seed=3))
    )
    assert not torch.equal(first, second)

    with pytest.raises(ValueError, match="already holds a run"):
        train_rounds(replace(BASE, out=str(out)))
    train_rounds(replace(BASE, steps=2, out=str(out)), force=True)
    assert not list(out.glob("seed*")) and not (out / "results.json").exists() and (out / "result.json").exists()
    with pytest.raises(ValueError, match="already holds a run"):
        train_rounds(replace(BASE, twin=True, out=str(out)))


# --- machine ----------------------------------------------------------------------------------------------


def test_auto_precision_is_what_the_processor_computes_in() -> None:
    chosen = Autocast("auto", torch.device("cpu")).dtype
    assert chosen == (torch.bfloat16 if torch.ops.mkldnn._is_mkldnn_bf16_supported() else None)


def test_bf16(tmp_path: Path) -> None:
    plain, bf16 = (run(tmp_path / amp, steps=10, amp=amp, lr=0.01, log_every=1) for amp in ("off", "bf16"))
    a, b = ([line["loss"] for line in metrics(tmp_path / amp) if "loss" in line] for amp in ("off", "bf16"))
    assert a != b and a == pytest.approx(b, rel=0.05)
    weights = timm.create_model(f"local-dir:{tmp_path}/bf16/last", pretrained=True).state_dict().values()
    assert {value.dtype for value in weights} == {torch.float32}


@pytest.mark.slow  # a minute of compilation
def test_compiled_steps_learn_the_same(tmp_path: Path) -> None:
    torch._dynamo.reset()
    a, b = (trainer(replace(BASE, compile=compiled), tmp_path) for compiled in (False, True))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own, about its own
        for _ in range(3):
            want, got = a.train_step(), b.train_step()
            assert want.keys() == got.keys() and all(
                float(got[name]) == pytest.approx(float(want[name]), rel=1e-3) for name in want
            )
    assert not any("_orig_mod" in name for name in b.task.get_checkpoint_state()["state_dict"])


def test_out_of_the_box_on_cpu_nothing_waits_between_logs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Reading a loss back makes a GPU wait, so on a device other than the CPU it is done once a log line."""
    reads, real = [], torch.Tensor.__float__
    one = trainer(replace(BASE, steps=20, log_every=10, eval_every=20, save_every=20), tmp_path)
    one.directory.begin(one.config)
    one.device = torch.device("meta")  # as if: what decides is that it is not the CPU
    monkeypatch.setattr(torch.Tensor, "__float__", lambda self: (reads.append(one.step), real(self))[1])
    from swwae_zoo.training.signals import Interrupt

    one._train_until_next_stop(Interrupt())
    assert one.step == 10 and set(reads) == {10}


# --- bad input: one line, and nothing written --------------------------------------------------------------

BAD = [
    ({"opt": "adamx"}, "opt: got 'adamx', no optimiser of timm's; did you mean adam"),
    ({"opt": "sgd", "opt_betas": [0.9, 0.99]}, "opt_betas: got [0.9, 0.99], but sgd has none"),
    ({"num_labels": 5000}, "labelled images"),
    ({"num_labels": 5}, "at least one a class"),
    ({"num_val": 100_000}, "asked for validation"),
    ({"lambda_middle": [1.0, 2.0, 3.0]}, "lambda_middle has 3 values, but the model has 1 middles"),
    ({"model_args": {**TINY, "img_size": 2}}, "2"),
    ({"model_args": {**TINY, "img_size": "big"}}, "img_size"),
    ({"model_args": {**TINY, "colour": "red"}}, "colour"),
    ({"model_args": {**TINY, "num_classes": 3}}, "the model has 3 classes, but digits has 10"),
    ({"model_args": {**TINY, "in_chans": 5}}, "channels"),
    ({"model": "swwae_mnits"}, "did you mean swwae_mnist"),
    ({"model": "resnet18"}, "--backbone resnet18 wraps it"),
    ({"data": "digit"}, "digits"),
    ({"unlabeled": "svnh"}, "svhn"),
    ({"data": "folder:/no/such/folder"}, "/no/such/folder"),
    ({"amp": "fp16", "device": "cpu"}, "fp16 needs a GPU"),
    ({"warmup_steps": 6}, "warmup_steps: got 6, expected fewer than the run's 6 steps"),
    ({"augment": "shift", "augment_args": {"shift": 32}}, "augment_args: shift: got 32 pixels for images of 32x32"),
    ({"seed": 2**32 - 1, "rounds": 2}, "seed"),
    ({"lambda_nll": 0.0, "twin": True}, "lambda_nll"),
]


@pytest.mark.parametrize(("keys", "said"), BAD, ids=lambda value: ",".join(value) if isinstance(value, dict) else "")
def test_bad_input_is_one_line_and_writes_nothing(
    keys: dict[str, Any], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for rounds in (1, 2):  # of which the second would write to a folder above its runs too
        with pytest.raises(ValueError, match=re.escape(said)) as error:
            train_rounds(replace(BASE, out="run", **{"rounds": rounds, **keys}))
        assert "\n" not in str(error.value) and os.listdir(tmp_path) == []


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_cuda_asked_for_and_absent(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match="device cuda was asked for, but this machine has no CUDA devices: use --device cpu or auto"
    ):
        run(tmp_path / "run", device="cuda")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("keys", [{"lr": 1e6, "opt": "sgd"}, {"lr": 1e18, "clip_grad": 1.0, "opt": "sgd"}])
def test_a_loss_that_is_no_number_stops_the_run(keys: dict[str, Any], tmp_path: Path) -> None:
    out = tmp_path / "run"
    config = replace(BASE, out=str(out), steps=40, warmup_steps=10, save_every=3, eval_every=40, log_every=20, **keys)
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(to_toml(config))
    result = CliRunner().invoke(app, ["train", "--recipe", str(recipe)])
    assert result.exit_code == 2 and "Traceback" not in result.output
    line = result.stderr.splitlines()[-1]
    found = re.fullmatch(
        r"error: (nll|rec|middle|a weight|, )+ is no longer finite, at step (\d+): "
        r"(the checkpoint of step (\d+) is kept|"
        rf"there was no checkpoint yet) in {out}; start again with --force or another --out and a lower --lr.*",
        line,
    )
    assert found, line
    assert not (out / "result.json").exists()
    again = trainer(replace(config, out=""), tmp_path / "again")
    losses = [float(again.train_step()["loss"]) for _ in range(int(found[2]))]
    assert all(map(math.isfinite, losses[:-1])), "it went on after the step it names"
    assert "a weight" in line or not math.isfinite(losses[-1])
    if found[4]:
        state = torch.load(out / "checkpoint.pt", weights_only=True)
        assert state["step"] == int(found[4]) == (int(found[2]) - 1) // 3 * 3
        assert all(value.isfinite().all() for value in state["state_dict"].values())
        kept = timm.create_model(f"local-dir:{out}/last", pretrained=True)
        assert all(value.isfinite().all() for value in kept.state_dict().values())


def test_a_full_disk_stops_the_run_in_one_line(
    tmp_path: Path, small_disk: Callable[[int], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("swwae_zoo.publish.report.Pages.__call__", lambda *args: None)  # the page would take the room
    config = replace(BASE, steps=4, save_every=2, num_val=0)
    run(tmp_path / "elsewhere", steps=4, save_every=2, num_val=0)
    used = sum(
        path.stat().st_blocks * 512
        for path in (tmp_path / "elsewhere").rglob("*")
        if path.suffix in (".pt", ".safetensors")
    )
    out = (
        small_disk(used + 24 * 1024) / "run"
    )  # room for one checkpoint and the small files, not for a second beside it
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(to_toml(replace(config, out=str(out))))
    result = CliRunner().invoke(app, ["train", "--recipe", str(recipe)])
    assert result.exit_code == 2 and "Traceback" not in result.output
    assert re.fullmatch(rf"error: disk full: could not write {out}/.*", result.stderr.splitlines()[-1])
    assert torch.load(out / "checkpoint.pt", weights_only=True)["step"] == 2
    timm.create_model(f"local-dir:{out}/last", pretrained=True)
    assert not list(out.rglob("*.part"))
