"""Commands met with pipes, read-only folders, damaged exports, a second writer, and Ctrl-C: one line, and at once."""

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
from hub_server.fixtures import TINY, make_run
from PIL import Image
from typer.testing import CliRunner

from swwae_zoo.cli.main import app
from swwae_zoo.data import load_images
from swwae_zoo.training.build import load_file

SHORT = ["--steps", 1, "--warmup-steps", 0, "--batch-size", 8, "--labeled-batch", 8, "--device", "cpu"]
NET = ["--model", "swwae_mnist", "--model-arg", f"notation={TINY['notation']}"]
TRAIN = ["train", *NET, *SHORT, "--rounds", 1, "--no-twin", "--out", "new"]
TUNE = ["tune", *NET, *SHORT, "--data", "digits", "--num-val", 50, "--search", "lr=0.001:0.1:log", "--trials", 1]


def swwae(*args: object) -> Any:
    return CliRunner().invoke(app, [str(arg) for arg in args])


def refused(*args: object) -> str:
    result = swwae(*args)
    assert result.exit_code == 2 and result.stderr.count("\n") == 1, (result.output, result.exception)
    return result.stderr


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    desk = tmp_path_factory.mktemp("made")
    for number, image in enumerate(load_images("digits", "test").images[:3]):
        Image.fromarray(image[0].numpy()).save(desk / f"{number}.png")
    make_run(desk / "run", num_labels=50)
    make_run(desk / "few", num_labels=10)
    make_run(desk / "wrapped", "swwae_wrap", args={"backbone": "test_resnet", "img_size": 32, "num_classes": 10})
    return desk


@pytest.fixture
def desk(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with images and runs."""
    shutil.copytree(made, tmp_path / "desk")
    monkeypatch.chdir(tmp_path / "desk")
    return tmp_path / "desk"


# --- pipes, where a file is expected: whoever opens one waits for ever ----------------------------------------


@pytest.fixture
def bell() -> Iterator[None]:
    """Ends a test that waits."""

    def ring(*args: object) -> None:
        raise AssertionError("it waits for somebody to write into the pipe")

    before = signal.signal(signal.SIGALRM, ring)
    signal.alarm(60)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.mark.usefixtures("bell")
@pytest.mark.parametrize(
    "args",
    [
        ["train", "--recipe", "pipe.toml"],
        [*TRAIN, "--data", "npz:pipe.npz"],
        [*TRAIN, "--data", "folder:pipe"],
        [*TRAIN, "--data", "parquet:pipe.parquet"],
        [*TRAIN, "--data", "digits", "--unlabeled", "tinyimages:pipe.bin"],
        [*TRAIN, "--data", "digits", "--unlabeled", "folder:.", "--exclude", "pipe.csv"],
        [*TRAIN, "--data", "folder:of pipes"],
        [*TRAIN, "--data", "digits", "--init", "pipe"],
        ["train", "--backbone", "test_resnet", *SHORT, "--data", "digits", "--checkpoint", "pipe.safetensors"],
        ["predict", "pipe.png", "--model", "run"],
        ["reconstruct", "pipe.png", "--model", "run"],
        ["reconstruct", "0.png", "--model", "pipe"],
        ["eval", "of pipes"],
        ["report", "run", "few", "pipe.json", "--labels", "out.png"],
        ["bench", "--out", "pipe"],
    ],
)
def test_pipes(args: list[object], desk: Path) -> None:
    (desk / "of pipes").mkdir()
    endings = ("", ".toml", ".npz", ".parquet", ".bin", ".csv", ".safetensors", ".png", ".json")
    for name in (*(f"pipe{ending}" for ending in endings), "of pipes/config.json", "of pipes/labels.csv"):
        os.mkfifo(desk / name)
    refused(*args)
    assert not (desk / "new").exists()


# --- what export wrote is no trained model --------------------------------------------------------------------


@pytest.fixture(scope="module")
def exported(made: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("exported")
    for name in ("whole.onnx", "whole.pt2"):
        assert swwae("export", made / "run", "--format", name.partition(".")[2], "--out", folder / name).exit_code == 0
    return folder


@pytest.mark.parametrize("kind", ["onnx", "pt2"])
@pytest.mark.parametrize("damage", ["none", "cut", "flipped", "empty"])
def test_exported_files_in_a_models_place(kind: str, damage: str, exported: Path, desk: Path) -> None:
    raw = bytearray((exported / f"whole.{kind}").read_bytes())
    if damage == "flipped":
        raw[len(raw) // 2] ^= 16
    size = {"cut": len(raw) // 2, "empty": 0}.get(damage, len(raw))
    file = desk / f"net.{kind}"
    file.write_bytes(raw[:size])
    for args in (["eval", file], ["predict", "0.png", "--model", file], ["show", file], ["export", file]):
        assert "which is a file" in refused(*args)
    model: Any = timm.create_model("swwae_mnist", notation=TINY["notation"])
    with pytest.raises(ValueError, match="can't be read") as caught:  # what --init and --checkpoint do with a file
        load_file(model, file)
    assert "\n" not in str(caught.value) and "()" not in str(caught.value) and "weights_only" not in str(caught.value)


# --- folders that one may only read ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "args, out",
    [
        (["export", "run", "--out"], "net.onnx"),
        (["export", "wrapped", "--format", "timm", "--out"], "net"),
        (["predict", "0.png", "--model", "run", "--csv"], "out.csv"),
        (["reconstruct", "0.png", "--model", "run", "--out"], "out.png"),
        (["report", "run", "few", "--labels"], "out.png"),
        ([*TUNE, "--out"], "tune"),
        ([*TRAIN[:-2], "--data", "digits", "--out"], "new"),
        (["report"], "run"),
    ],
)
def test_folders_that_one_may_only_read(
    args: list[object], out: str, desk: Path, small_disk: Callable[[int], Path]
) -> None:
    """By a mount: root may write into any other folder."""
    disk = small_disk(2**24)
    shutil.copytree(desk / "run", disk / "run")
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    said = refused(*args, disk / out)
    assert "Read-only file system" in said and str(disk) in said, said
    assert swwae("eval", disk / "run", "--device", "cpu").exit_code == 0


# --- two at once ----------------------------------------------------------------------------------------------

SWWAE = "import sys\nsys.argv = ['swwae', *ARGS]\nfrom swwae_zoo.cli.main import app\napp()\n"


@pytest.mark.parametrize("what", ["timm", "csv", "report", "labels", "tune"])
def test_two_write_one_output(what: str, desk: Path, tmp_path: Path, child: Callable[..., Any]) -> None:
    """What is there in the end is whole, and one of the two."""
    out = {"timm": "net", "csv": "out.csv", "report": "", "labels": "out.png", "tune": "tune"}[what]
    args = {
        "timm": ["export", "wrapped", "--format", "timm", "--out", out],
        "csv": ["predict", "0.png", "1.png", "2.png", "--model", "run", "--csv", out],
        "report": ["report", "run"],
        "labels": ["report", "run", "few", "--labels", out],
        "tune": [*TUNE, "--trials", 4, "--out", out],
    }[what]
    both = [child(SWWAE, ARGS=[str(arg) for arg in args]) for _ in range(2)]
    for process in both:
        process.join(120)
        assert process.exitcode == 0, (tmp_path / "stderr").read_text()
    if what == "timm":
        assert sorted(os.listdir(out)) == ["config.json", "model.safetensors"]
        timm.create_model(f"local-dir:{out}", pretrained=True)
    if what == "csv":
        assert len(Path(out).read_text().splitlines()) == 4
    if what == "report":
        assert (desk / "run" / "report.html").read_text().rstrip().endswith("</html>")
    if what == "labels":
        Image.open(out).load()
    if what == "tune":
        with sqlite3.connect(Path(out) / "study.db") as database:
            [states] = zip(*database.execute("select state from trials"), strict=True)
        assert 4 <= len(states) <= 5 and set(states) <= {"COMPLETE", "PRUNED"} and (Path(out) / "best.toml").exists()
    assert not [path for path in desk.rglob("*") if path.name.endswith(".part") or path.name.startswith(".net")]


def test_a_trials_value_that_was_changed_on_purpose(desk: Path) -> None:
    assert swwae(*TUNE, "--out", "tune").exit_code == 0
    with sqlite3.connect("tune/study.db") as database:
        database.execute("update trial_values set value = 0.5")
    again = swwae(*TUNE, "--trials", 2, "--out", "tune")
    assert again.exit_code == 2
    said = again.stderr.splitlines()[-1]
    assert "trial 0 of the study" in said and "is not as it was written (its checksum differs)" in said
    assert json.dumps(0.5) not in Path("tune/best.toml").read_text().splitlines()[0]


# --- Ctrl-C ---------------------------------------------------------------------------------------------------

BEGUN = """
import torch
from pathlib import Path
real = torch.nn.Module.__call__
def begun(self, *args, **kwargs):
    Path(BEGUN).touch()
    return real(self, *args, **kwargs)
torch.nn.Module.__call__ = begun
"""


@pytest.mark.parametrize(
    "args",
    [
        ["eval", "swwae_mnist.mnist_100", "--data", "npz:many.npz", "--device", "cpu"],
        ["predict", "many", "--model", "swwae_mnist.mnist_100", "--csv", "out.csv", "--device", "cpu"],
    ],
)
def test_ctrl_c_while_images_are_judged(args: list[str], desk: Path, tmp_path: Path, child: Callable[..., Any]) -> None:
    """Within the set, that takes a minute: at once, in one line, with exit code 130, and nothing is left behind."""
    if args[0] == "eval":
        images = np.random.default_rng(0).integers(0, 256, (60_000, 28, 28), dtype=np.uint8)
        np.savez("many.npz", x_train=images[:1], y_train=[0], x_test=images, y_test=np.zeros(60_000, int))
    else:
        Path("many").mkdir()
        for number in range(20_000):
            os.link("0.png", f"many/{number}.png")
    process = child(BEGUN + SWWAE, ARGS=args, BEGUN=str(tmp_path / "begun"))
    end = time.monotonic() + 60
    while not (tmp_path / "begun").exists():
        assert time.monotonic() < end and process.is_alive(), (tmp_path / "stderr").read_text()
        time.sleep(0.01)
    time.sleep(0.2)
    assert process.is_alive()
    os.kill(process.pid, signal.SIGINT)
    process.join(20)
    assert process.exitcode == 130 and (tmp_path / "stderr").read_text() == "interrupted\n"
    assert not Path("out.csv").exists() and not list(desk.glob(".*"))
