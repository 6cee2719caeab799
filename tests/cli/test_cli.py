"""The `swwae` command through its entry point: flags, output, and one line for bad input."""

import errno
import json
import os
import re
import subprocess
import sys
import sysconfig
import types
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import timm
from typer.main import get_command
from typer.testing import CliRunner

from swwae_zoo import config
from swwae_zoo.cli.main import app
from swwae_zoo.training.signals import Stopped

SCRIPT = Path(sysconfig.get_path("scripts")) / "swwae"
TRAIN_FLAGS = [
    "--amp",
    "--augment",
    "--augment-arg",
    "--backbone",
    "--bad-images",
    "--batch-size",
    "--channels-last",
    "--checkpoint",
    "--clip-grad",
    "--compile",
    "--compile-mode",
    "--confidence",
    "--contrast",
    "--copies",
    "--data",
    "--data-dir",
    "--decoder",
    "--detach-targets",
    "--device",
    "--ema",
    "--epochs",
    "--eval-every",
    "--exclude",
    "--fade",
    "--force",
    "--freeze-stages",
    "--img-size",
    "--init",
    "--json",
    "--labeled-batch",
    "--labeled-view",
    "--labels",
    "--layer-decay",
    "--log-every",
    "--lr",
    "--lr-encoder",
    "--min-lr",
    "--mirror",
    "--model",
    "--model-arg",
    "--momentum",
    "--no-channels-last",
    "--no-compile",
    "--no-detach-targets",
    "--no-mirror",
    "--no-norm-eval",
    "--no-sync-bn",
    "--no-twin",
    "--noise",
    "--norm-eval",
    "--num-labels",
    "--num-val",
    "--opt",
    "--opt-betas",
    "--out",
    "--pools",
    "--pretrained",
    "--pseudo-labels",
    "--ramp",
    "--rec-trains",
    "--recipe",
    "--resume",
    "--rounds",
    "--save-every",
    "--sched",
    "--seed",
    "--steps",
    "--strong",
    "--strong-arg",
    "--sync-bn",
    "--track",
    "--twin",
    "--unlabeled",
    "--unlabeled-store",
    "--warmup-steps",
    "--weight-decay",
]


def swwae(*args: str, code: int = 0) -> Any:
    result = CliRunner().invoke(app, args)
    assert result.exit_code == code, result.output
    return result


def refusal(*args: str) -> str:
    """The one line on stderr with which bad input ends."""
    result = swwae(*args, code=2)
    assert result.stdout == "" and result.stderr.startswith("error: ") and result.stderr.count("\n") == 1, result.output
    return result.stderr


@pytest.fixture
def recipe(tmp_path: Path) -> str:
    path = tmp_path / "own.toml"
    path.write_text(
        "# A recipe\nmodel = 'swwae_mnist'\nepochs = 3\nlr = 0.5\nmirror = true\n[model_args]\ndrop_rate = 0.5\n"
    )
    return str(path)


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What `swwae train` hands to `train_rounds`, instead of training."""
    calls: list[Any] = []

    def train_rounds(run: config.RunConfig, **control: bool) -> list[dict[str, Any]]:
        assert type(control.pop("observe")).__name__ == "Pages"
        calls.append((run, control))
        return [{"round": 0, "test_error": 9.5}]

    monkeypatch.setitem(
        sys.modules,
        "swwae_zoo.training.rounds",
        types.SimpleNamespace(train_rounds=train_rounds, summary=lambda results: []),
    )
    return calls


def test_help_is_quick_and_light() -> None:
    seconds = []
    for _ in range(3):
        before = os.times()
        subprocess.run([SCRIPT, "--help"], check=True, capture_output=True, timeout=300)
        after = os.times()  # the processor's time: a busy machine says nothing about the command
        seconds.append(after.children_user + after.children_system - before.children_user - before.children_system)
    assert 0 < min(seconds) < 1.0
    for command in (["--help"], ["train", "--help"], ["show", "--help"], ["recipes"], ["--version"]):
        traced = subprocess.run(
            [SCRIPT, *command],
            capture_output=True,
            text=True,
            timeout=300,
            env=os.environ | {"PYTHONPROFILEIMPORTTIME": "1"},
        )
        modules = {line.rpartition("|")[2].strip() for line in traced.stderr.splitlines()}
        assert traced.returncode == 0 and "swwae_zoo.cli.main" in modules
        assert not modules & {"torch", "timm", "torchvision", "matplotlib", "sklearn", "numpy"}


def test_threads_that_wait_sleep() -> None:
    """The policy is set before torch is loaded, which reads it once; the user's choice has precedence."""
    code = "import os, sys; import swwae_zoo.cli.main; print(os.environ['OMP_WAIT_POLICY'], 'torch' in sys.modules)"
    env = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    for given, policy in (({}, "PASSIVE"), ({"OMP_WAIT_POLICY": "ACTIVE"}, "ACTIVE")):
        shown = subprocess.run(
            [sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=300, env=env | given
        )
        assert shown.stdout.split() == [policy, "False"]


def test_version_and_bare_call() -> None:
    assert re.fullmatch(
        r"swwae_zoo 0\.1\.0 \(kernels: (baseline|avx2|avx512|none, plain torch)\)\n", swwae("--version").stdout
    )
    bare = swwae(code=2)
    assert "Usage: swwae" in bare.output and "error:" not in bare.output


def test_flags_of_train_are_frozen() -> None:
    command = get_command(app).commands["train"]  # type: ignore[attr-defined]
    flags = {name for option in command.params for name in (*option.opts, *option.secondary_opts)}
    terms = {flag for flag in flags if flag.startswith("--lambda-")}  # one for each term of the loss
    assert sorted(flags - terms - {"--help", "-h"}) == TRAIN_FLAGS


def test_every_key_is_a_flag() -> None:
    command = get_command(app).commands["train"]  # type: ignore[attr-defined]
    names = {option.name for option in command.params} - {
        "help",
        "recipe",
        "backbone",
        "pools",
        "decoder",
        "img_size",
        "pretrained",
        "resume",
        "force",
        "as_json",
    }
    assert names == {key.name for key in fields(config.RunConfig)}


def test_flags_override_the_recipe(recipe: str, runs: list[Any]) -> None:
    swwae("train", "--recipe", recipe)
    swwae(
        "train",
        "--recipe",
        recipe,
        "--steps",
        "7",
        "--num-labels",
        "100",
        "--lambda-middle",
        "1,0.5",
        "--no-mirror",
        "--opt-betas",
        "0.8,0.9",
        "--model-arg",
        "beta=30",
        "--model-arg",
        "pool=soft",
        "--resume",
        "--force",
    )
    (plain, control), (changed, changed_control) = runs
    assert plain == config.read_recipe(recipe)
    assert control == {"resume": False, "force": False, "notes": ()}
    assert (changed.steps, changed.epochs, changed.num_labels, changed.lr) == (7, 0, 100, 0.5)
    assert (changed.lambda_middle, changed.opt_betas, changed.mirror) == ([1.0, 0.5], [0.8, 0.9], False)
    assert changed.model_args == {"drop_rate": 0.5, "beta": 30, "pool": "soft"}
    assert changed_control == {"resume": True, "force": True, "notes": ()}


def test_backbone_is_a_wrapped_model(recipe: str, runs: list[Any]) -> None:
    swwae("train", "--recipe", recipe, "--backbone", "resnet18", "--pools", "insert", "--decoder", "light")
    config_of = runs[0][0]
    assert config_of.model == "swwae_wrap"
    assert config_of.model_args == {"drop_rate": 0.5, "backbone": "resnet18", "pools": "insert", "decoder": "light"}
    assert "expected one of them" in refusal("train", "--model", "swwae_mnist", "--backbone", "resnet18")


def test_one_lambda_for_all_middles(recipe: str, runs: list[Any]) -> None:
    swwae("train", "--recipe", recipe, "--lambda-middle", "0.25", "--labels", "0")
    assert runs[0][0].lambda_middle == 0.25 and runs[0][0].num_labels == 0


def test_without_a_recipe_the_model_names_its_own(
    recipe: str, runs: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(config, "default_recipe", {"swwae_mnist": recipe}.get)
    swwae("train")
    swwae("train", "--model", "swwae_svhn", "--steps", "5")
    assert runs[0][0] == config.read_recipe(recipe)
    assert runs[1][0] == config.RunConfig(model="swwae_svhn", steps=5)


def test_resume_takes_the_runs_own_recipe(runs: list[Any], tmp_path: Path) -> None:
    own = config.RunConfig(steps=9, lr=0.125, out=str(tmp_path))
    (tmp_path / "config.toml").write_text(config.to_toml(own))
    swwae("train", "--resume", "--out", str(tmp_path))
    assert runs == [(own, {"resume": True, "force": False, "notes": ()})]
    assert "holds no run to resume" in refusal("train", "--resume", "--out", str(tmp_path / "none"))


def test_train_prints_json(recipe: str, runs: list[Any]) -> None:
    assert json.loads(swwae("train", "--recipe", recipe, "--json").stdout) == [{"round": 0, "test_error": 9.5}]
    assert swwae("train", "--recipe", recipe).stdout == ""


@pytest.mark.parametrize(
    "args, told",
    [
        (["trian"], "Did you mean 'train'?"),
        (["--nope"], "--nope"),
        (["train", "--lamda-rec", "1"], "--lambda-rec"),
        (["train", "--labels", "many"], "--labels"),
        (["train", "--steps", "3", "--amp", "bf61"], "expected one of auto, off, bf16, fp16"),
        (["train", "--steps", "3", "--lr", "nan"], "lr: got nan"),
        (["train", "--lambda-middle", "1,b"], "--lambda-middle: got '1,b', expected numbers"),
        (["train", "--model-arg", "pool"], "expected KEY=VALUE"),
        (["train", "--model", "swwae_minst"], "did you mean swwae_mnist?"),
        (
            ["train", "--model", "resnet18", "--steps", "3"],
            "got 'resnet18', a plain backbone: --backbone resnet18 wraps it",
        ),
        (["train", "--recipe", "nowhere/own.toml"], "nowhere/own.toml: no such file"),
        (["recipes", "nowhere"], "recipe nowhere"),
        (["show", "swwae_minst"], "did you mean swwae_mnist?"),
        (["show", "swwae_mnist", "--model-arg", "pools=soft"], "'pools'"),
        (
            ["show", "swwae_mnist", "--model-arg", "notation=(4)3x-7fc"],
            "got 'x' at character 5 of '(4)3x-7fc', expected 'c'",
        ),
        (["train", "--steps", "3", "--model-arg", "notation=(4)3c-2p-2p"], "two pools follow each other"),
        (["show", "swwae_mnist", "--img-size", "4"], "4x4 are too small"),
        (["show"], "Missing argument"),
    ],
)
def test_bad_input_is_one_line(args: list[str], told: str) -> None:
    assert told in refusal(*args)


def test_unknown_recipe_and_key_name_the_nearest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(config, "recipe_names", lambda: ["swwae_mnist"])
    assert "did you mean swwae_mnist?" in refusal("train", "--recipe", "swwae_minst")
    wrong = tmp_path / "wrong.toml"
    wrong.write_text("steps = 3\nlamda_rec = 1\n")
    assert "did you mean lambda_rec?" in refusal("train", "--recipe", str(wrong))


@pytest.mark.parametrize(
    "error, line",
    [
        (
            OSError(errno.ENOSPC, "No space left on device", "runs/a/last.pt"),
            "error: disk full: could not write runs/a/last.pt",
        ),
        (PermissionError(errno.EACCES, "Permission denied", "/x"), "error: /x: Permission denied"),
        (RuntimeError("write failed: No space left on device (os error 28)"), "error: disk full"),
        (FloatingPointError("loss is nan at step 3"), "error: loss is nan at step 3"),
        (type("OutOfMemoryError", (RuntimeError,), {})("CUDA"), "error: out of GPU memory: lower --batch-size"),
    ],
)
def test_errors_of_a_run_are_one_line(error: Exception, line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise error

    monkeypatch.setattr(config, "recipe_names", fail)
    assert refusal("recipes").startswith(line)
    monkeypatch.setenv("SWWAE_DEBUG", "1")
    assert CliRunner().invoke(app, ["recipes"]).exception is error


def test_bugs_keep_their_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(config, "recipe_names", lambda: 1 / len(3))  # type: ignore[arg-type]
    assert isinstance(CliRunner().invoke(app, ["recipes"]).exception, TypeError)


@pytest.mark.parametrize(
    "stop, code, line",
    [
        (KeyboardInterrupt(), 130, "interrupted\n"),
        (
            Stopped("stopped at step 3; go on with: swwae train --resume --out runs/a", 15),
            143,
            "stopped at step 3; go on with: swwae train --resume --out runs/a\n",
        ),
    ],
)
def test_a_signal_is_one_line(stop: BaseException, code: int, line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt() -> None:
        raise stop

    monkeypatch.setattr(config, "recipe_names", interrupt)
    assert swwae("recipes", code=code).stderr == line


def test_recipes(recipe: str) -> None:
    names = config.recipe_names()
    assert [line.split()[0] for line in swwae("recipes").stdout.splitlines()] == names
    assert [entry["name"] for entry in json.loads(swwae("recipes", "--json").stdout)] == names
    for name in names:
        assert swwae("recipes", name).stdout.startswith("#")
    assert json.loads(swwae("recipes", recipe, "--json").stdout)["lr"] == 0.5
    assert "lr = 0.5\n" in swwae("recipes", recipe).stdout


def test_list() -> None:
    models = {model["name"]: model for model in json.loads(swwae("list", "--json").stdout)}
    mnist = models["swwae_mnist"]
    assert mnist["notation"] == "(64)5c-2p-(64)3c-2p-(64)3c-2p-10fc" and mnist["input_size"] == [1, 32, 32]
    assert mnist["encoder_params"] == 64 * 26 + 2 * 64 * 577 + 10 * 1025 and mnist[
        "pretrained"
    ] is timm.is_model_pretrained("swwae_mnist")
    table = swwae("list").stdout.splitlines()
    assert len(table) == 1 + len(models) and "85,770" in next(line for line in table if line.startswith("swwae_mnist"))


def test_show() -> None:
    args = (
        "show",
        "swwae_mnist",
        "--img-size",
        "28",
        "--in-chans",
        "3",
        "--num-classes",
        "7",
        "--model-arg",
        "pool=soft",
    )
    shown = json.loads(swwae(*args, "--json").stdout)
    layers = {layer["name"]: layer for layer in shown["layers"]}
    assert layers["decoder.stages.0.convs.0.conv"]["shape"] == [3, 28, 28]
    assert layers["head.fc"]["shape"] == [7] and layers["stages.0.pool"]["layer"] == "soft pool 2x2"
    table = swwae(*args).stdout
    assert "where 2 -> decoder.stages.2" in table and f"{shown['totals']['decoder']['flops']:,}" in table


def test_show_a_wrapped_backbone() -> None:
    table = swwae("show", "--backbone", "test_resnet", "--decoder", "light", "--img-size", "64").stdout
    assert (
        "strided conv /2: tap beside it" in table and "max pool /2: replaced" in table and "where 2 <- step 2" in table
    )
    assert "expected one of them" in refusal("show", "swwae_mnist", "--backbone", "test_resnet")


def test_a_runs_own_recipe_runs_again_beside_it(runs: list[Any], tmp_path: Path) -> None:
    own = config.RunConfig(steps=9, out=str(tmp_path / "run"))
    (tmp_path / "run").mkdir()
    (tmp_path / "run/config.toml").write_text(config.to_toml(own))
    (tmp_path / "run/run.json").write_text("{}")
    swwae("train", "--recipe", str(tmp_path / "run/config.toml"))
    (tmp_path / "run-2").mkdir()
    swwae("train", "--recipe", str(tmp_path / "run/config.toml"))
    assert [run.out for run, _ in runs] == [str(tmp_path / "run-2"), str(tmp_path / "run-3")]
    assert runs[0][0].steps == 9


def test_size_and_weights_of_a_backbone(recipe: str, runs: list[Any]) -> None:
    swwae("train", "--recipe", recipe, "--backbone", "resnet18", "--img-size", "96x64", "--pretrained")
    assert runs[0][0].model_args == {
        "drop_rate": 0.5, "backbone": "resnet18", "img_size": [96, 64], "backbone_pretrained": True
    }  # fmt: skip
    swwae("train", "--model", "swwae_mnist", "--pretrained")
    assert runs[1][0].model.startswith("swwae_mnist.")
    assert "comes without weights" in refusal("train", "--model", "swwae_svhn", "--pretrained")
    assert "both say which weights" in refusal("train", "--pretrained", "--checkpoint", "w.pth")
    assert "expected the side of the images" in refusal("train", "--img-size", "96x")


def test_tables_fit_a_narrow_terminal(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    from swwae_zoo.cli.options import print_table

    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TERM", "dumb")
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    print_table(("model", "size", "notation"), [("a[b]", 12345, "(128)3c-" * 20 + "end")])
    shown = capsys.readouterr().out
    shown = re.sub(r"\x1b\[[0-9;]*m", "", shown)
    assert max(map(len, shown.splitlines())) <= 80 and "a[b]" in shown and "12,345" in shown
    assert shown.rstrip().endswith("end")
