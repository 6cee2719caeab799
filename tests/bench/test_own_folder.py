"""`benchmarks/own_folder.py`: the story of a user's own folder, on generated photos."""

import runpy
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "own_folder.py"


def run(monkeypatch: pytest.MonkeyPatch, *args: object) -> int:
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), *map(str, args)])
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(SCRIPT), run_name="__main__")
    return int(end.value.code or 0)


def test_what_it_takes(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(monkeypatch, "--help") == 0 and "generated-png" in capsys.readouterr().out
    for args, words in (
        (["--sets", "cifar10-png"], "got cifar10-png, expected some of generated-png, generated-jpg without --data"),
        (["--models", "nope,resnet18"], "got nope, expected some of swwae_mnist"),
    ):
        assert run(monkeypatch, *args) == 2 and words in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("model", ["swwae_mnist", "swwae_stl10", "swwae_wrap", "resnet18"])
def test_generated_photos(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--models", model, "--sets", "generated-png,generated-jpg", "--steps", 1, "--out", tmp_path / "table.md"]
    assert run(monkeypatch, *flags) == 0, capsys.readouterr().err
    head, _, row = (tmp_path / "table.md").read_text().splitlines()
    assert head == "| model | generated-png | generated-jpg |" and row.startswith(f"| {model} | ") and "×" in row
