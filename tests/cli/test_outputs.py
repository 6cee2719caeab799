"""What a command is told to write never takes the place of what it reads, nor of anything but an earlier output."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hub_server.fixtures import TINY, make_run
from PIL import Image
from typer.testing import CliRunner

from swwae_zoo.cli.main import app
from swwae_zoo.data import load_images

TUNE = ["--data", "digits", "--labels", 50, "--num-val", 50, "--unlabeled", "same", "--steps", 1, "--device", "cpu"]
TUNE += ["--batch-size", 8, "--labeled-batch", 8, "--model-arg", f"notation={TINY['notation']}", "--trials", 1]
# Each command that writes where it is told to, up to the flag that says where, and the usual ending of the file.
COMMANDS: dict[str, tuple[list[object], str]] = {
    "predict": (["predict", "a.png", "pictures", "--model", "run", "--csv"], ".csv"),
    "reconstruct": (["reconstruct", "a.png", "--model", "run", "--out"], ".png"),
    "report": (["report", "run", "few", "--labels"], ".png"),
    "onnx": (["export", "run", "--out"], ".onnx"),
    "pt2": (["export", "run", "--format", "pt2", "--out"], ".pt2"),
    "timm": (["export", "wrapped", "--format", "timm", "--out"], ""),
    "tune": (["tune", "--model", "swwae_mnist", *TUNE, "--out"], ""),
    "train": (["train", "--model", "swwae_mnist", *TUNE[:-2], "--rounds", 1, "--no-twin", "--out"], ""),
}
FILES = [name for name, (_, suffix) in COMMANDS.items() if suffix]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    desk = tmp_path_factory.mktemp("made")
    (desk / "pictures").mkdir()
    for number, image in enumerate(load_images("digits", "test").images[:2]):
        Image.fromarray(image[0].numpy()).save(desk / "pictures" / f"{number}.png")
    shutil.copy(desk / "pictures" / "0.png", desk / "a.png")
    make_run(desk / "run", num_labels=50)
    make_run(desk / "few", num_labels=10)
    make_run(desk / "wrapped", "swwae_wrap", args={"backbone": "test_resnet", "img_size": 32, "num_classes": 10})
    (desk / "notes.txt").write_text("mine")
    (desk / "notes").write_text("mine")
    return desk


@pytest.fixture
def desk(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A working folder with images, runs and files of the user's own, all of which are as they were in the end."""
    desk = tmp_path / "desk"
    shutil.copytree(made, desk)
    os.mkfifo(desk / "pipe")
    monkeypatch.chdir(desk)
    before = content(desk)
    yield desk
    after = content(desk)
    assert {path: after.get(path) for path in before} == before


def content(folder: Path) -> dict[Path, Any]:
    return {path: path.read_bytes() if path.is_file() else path.is_fifo() for path in folder.rglob("*")}


def refused(command: str, target: object) -> str:
    result = CliRunner().invoke(app, [str(arg) for arg in [*COMMANDS[command][0], target]])
    assert result.exit_code == 2, (target, result.output, result.exception)
    line = result.stderr.splitlines()[-1]
    assert line.startswith("error: ") and "Traceback" not in result.output, result.output
    return line


@pytest.mark.parametrize("command", COMMANDS)
def test_nothing_else_is_replaced(command: str, desk: Path) -> None:
    targets = {"a.png", "run/last/model.safetensors", "run/config.toml", "notes", "notes.txt", "notes/below"}
    targets |= {"pipe", "/dev/null", "run", "run/last", "wrapped/last", "pictures"}
    ours = {"report": {"a.png"}, "predict": {"notes.txt"}}  # what it writes has such a name, or may lie there
    ours |= {"tune": {"pictures", "run/last", "wrapped/last"}, "train": {"pictures", "run/last", "wrapped/last"}}
    before = set(desk.iterdir())
    for target in sorted(targets - ours.get(command, set())):
        refused(command, target)
    assert set(desk.iterdir()) == before, "nothing was left beside them"


@pytest.mark.parametrize("command", FILES)
def test_a_link_is_replaced_and_not_what_it_leads_to(command: str, desk: Path) -> None:
    """However the name ends."""
    out = desk / f"link{COMMANDS[command][1]}"
    out.symlink_to(desk / "run" / "last" / "model.safetensors")
    written(command, out)
    assert not out.is_symlink() and out.stat().st_size


@pytest.mark.parametrize("command", COMMANDS)
def test_home_and_names_that_are_not_utf8(command: str, desk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    suffix = COMMANDS[command][1]
    (desk / "home").mkdir()
    monkeypatch.setenv("HOME", str(desk / "home"))
    out = desk / "home" / ("out" + suffix)
    if suffix:
        out.write_text("of an earlier time")
    written(command, "~/out" + suffix)
    assert (out.stat().st_size > 20 if suffix else any(out.iterdir())) and not (desk / "~").exists()
    if command == "timm":
        written(command, "~/out")  # over its own
    odd = os.fsdecode(b"gr\xf6\x1b[2J" + suffix.encode())
    if suffix:
        said = written(command, odd)
        assert (desk / odd).is_file()
    else:  # weights can't lie there, nor can a recipe hold the name
        said = refused(command, odd)
        assert "UTF-8" in said and "rename it" in said and not (desk / odd).exists()
    assert "\x1b" not in said


@pytest.mark.parametrize("args", [["eval"], ["export"], ["predict", "a.png", "--model"], ["push", "--repo", "a/b"]])
def test_a_run_below_a_name_that_is_not_utf8(args: list[str], desk: Path) -> None:
    odd = desk / os.fsdecode(b"gr\xf6\x1b[2J")
    shutil.copytree(desk / "run", odd / "run")
    result = CliRunner().invoke(app, [*args, str(odd / "run"), *(["--dry-run"] if args[0] == "push" else [])])
    assert result.exit_code == 2 and result.stderr.count("\n") == 1, result.output
    assert "is no name in UTF-8" in result.stderr and "\x1b" not in result.output
    (desk / "link").symlink_to(odd / "run")
    assert CliRunner().invoke(app, ["eval", "link", "--device", "cpu"]).exit_code == 0


def written(command: str, target: object) -> str:
    args = [str(arg) for arg in [*COMMANDS[command][0], target]]
    result = CliRunner().invoke(app, args)
    assert result.exit_code == 0, (args, result.output, result.exception)
    return result.output
