"""`swwae predict`, and the four kinds of models that every command takes."""

import csv
import json
import os
import pty
import re
import shlex
import shutil
from pathlib import Path
from typing import Any

import pytest
from hub_server.fixtures import make_run
from PIL import Image
from typer.testing import CliRunner

from swwae_zoo.cli.main import app
from swwae_zoo.data import load_images

TAG = "swwae_mnist.mnist_100"


def swwae(*args: object, code: int = 0) -> Any:
    result = CliRunner().invoke(app, [str(arg) for arg in args])
    assert result.exit_code == code, result.output
    return result


def refused(*args: object) -> str:
    result = swwae(*args, code=2)
    assert result.stdout == "" and result.stderr.count("\n") == 1, result.output
    return result.stderr


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    for number, image in enumerate(load_images("digits", "test").images[:5]):
        Image.fromarray(image[0].numpy()).save(folder / f"{number}.png")
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("runs") / "a"
    make_run(home)
    return home


def test_a_line_for_each_image(pictures: Path) -> None:
    result = swwae("predict", pictures, "--model", TAG, "--top", 2)
    lines = [line.split("\t") for line in result.stdout.splitlines()]
    assert [line[0] for line in lines] == [str(pictures / f"{number}.png") for number in range(5)]
    assert all(len(line) == 5 and float(line[2]) >= float(line[4]) for line in lines)
    assert "5 images, " in result.stderr and "a second" in result.stderr
    assert len(swwae("predict", pictures / "0.png", "--model", TAG, "--top", 99).stdout.split("\t")) == 21


def test_json_and_a_table_say_the_same(pictures: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.csv"
    result = swwae("predict", pictures, "--model", TAG, "--csv", out, "--json", "--batch-size", 2)
    found = json.loads(result.stdout)
    with open(out, newline="") as file:
        table = list(csv.DictReader(file))
    assert [row["file"] for row in table] == [row["file"] for row in found] and len(found) == 5
    for row, each in zip(table, found, strict=True):
        assert [row["class"], row["class_2"], row["class_3"]] == [part["name"] for part in each["predictions"]]
        assert float(row["probability"]) == pytest.approx(each["predictions"][0]["probability"], abs=1e-6)


def test_bad_images_are_refused_or_left_out(pictures: Path, tmp_path: Path) -> None:
    shutil.copytree(pictures, tmp_path / "mixed")
    (tmp_path / "mixed" / "a\x1b[2J.png").write_text("no image")
    out = tmp_path / "out.csv"
    stopped = swwae("predict", tmp_path / "mixed", "--model", TAG, "--csv", out, code=2)
    assert stopped.stderr.endswith("it is no image, or none that Pillow reads: repair or remove it, or leave it out "
                                   "with --bad-images skip\n")  # fmt: skip
    assert "\x1b" not in stopped.stderr and not out.exists()
    skipped = swwae("predict", tmp_path / "mixed", "--model", TAG, "--bad-images", "skip")
    assert len(skipped.stdout.splitlines()) == 5 and "they can't be read: 1 of 6 images: " in skipped.stderr
    assert "\x1b" not in skipped.stderr
    only = tmp_path / "mixed" / "a\x1b[2J.png"
    assert "none of the 1 images can be read, such as " in refused(
        "predict", only, "--model", TAG, "--bad-images", "skip"
    )


def test_a_table_on_a_terminal(pictures: Path, tmp_path: Path, child: Any) -> None:
    folder = tmp_path / ("a long name of a folder " * 4) / "größe 数字"
    shutil.copytree(pictures, folder)
    shown = in_terminal(child, "predict", str(folder), "--model", TAG)
    head, *rows = [line for line in shown.splitlines() if line.startswith(("file", "…"))]
    assert len(rows) == 5 and head.count("class") == 3
    assert all(len(row) <= 80 and row.rstrip().endswith(" %") and ".png  " in row for row in rows)


ON_TERMINAL = """
os.environ["COLUMNS"], sys.argv = "80", ["swwae", *ARGS]
sys.stdout = open(os.open(TERMINAL, os.O_WRONLY | os.O_NOCTTY), "w", encoding="utf-8")
from swwae_zoo.cli.main import app
app()
"""


def in_terminal(child: Any, *args: str) -> str:
    """What the command shows on a terminal of 80 columns; it must fit into the terminal's buffer of 4 KiB."""
    ours, theirs = pty.openpty()
    process = child(ON_TERMINAL, ARGS=args, TERMINAL=os.ttyname(theirs))
    process.join(300)
    shown = os.read(ours, 65536)
    os.close(theirs)
    os.close(ours)
    assert process.exitcode == 0, shown
    return shown.decode()


@pytest.mark.parametrize(
    "args, words",
    [
        (["--model", TAG], "Missing argument"),
        (["0.png"], "Missing option '--model'"),
        (["absent.png", "--model", TAG], "absent.png: no such file or folder"),
        (["0.png", "--model", "absent"], "got absent, which is not there; expected a run"),
        (["0.png", "--model", TAG, "--top", "0"], "--top"),
        (["0.png", "--model", TAG, "--weights", "best"], "holds one set of weights"),
        (["0.png", "--model", TAG, "--amp", "bf61"], "expected one of auto"),
        (["0.png", "--model", TAG, "--device", "cuda:99"], "device cuda:99"),
        (["0.png", "--model", TAG, "--csv", "none/out.csv"], "there is no folder"),
        (["0.png", "--model", TAG, "--bad-images", "drop"], "expected one of refuse, skip"),
    ],
)
def test_wrong_input_is_one_line(args: list[str], words: str, pictures: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(pictures)
    assert words in refused("predict", *args)


# --- the same places for every command ----------------------------------------------------------------------


def test_commands_take_every_kind_of_model(run: Path, pictures: Path, tmp_path: Path) -> None:
    shutil.copytree(run / "last", tmp_path / "folder")
    for place in (run, run / "best", tmp_path / "folder", TAG):
        shown = swwae("show", place).stdout
        assert shown.startswith(f"{place}: (") and "decoder.stages.0" in shown
        made = swwae("reconstruct", pictures / "0.png", "--model", place, "--out", tmp_path / "out.png", "--json")
        assert json.loads(made.stdout)["picture"] == str(tmp_path / "out.png")
        measured = json.loads(swwae("eval", place, "--data", "digits", "--device", "cpu", "--json").stdout)
        assert 0 <= measured["error"] <= 100 and measured["images"] == 500
    assert json.loads(swwae("show", TAG, "--json").stdout)["label_names"] == list("0123456789")
    assert swwae("reconstruct", pictures / "0.png", "--run", run, "--out", tmp_path / "out.png").stdout


def test_show_knows_its_registered_names_still() -> None:
    assert swwae("show", "swwae_mnist").stdout.startswith("swwae_mnist: (64)5c")
    assert "did you mean swwae_mnist?" in refused("show", "swwae_minst")
    assert "no such weights" in refused("show", "swwae_mnist.nope")
    assert "which is not there" in refused("show", "runs/absent")


def test_an_unsupervised_run_has_no_error(tmp_path: Path, pictures: Path) -> None:
    make_run(tmp_path / "run", lambda_nll=0.0)
    shown = swwae("eval", tmp_path / "run", "--device", "cpu").stdout
    assert "none: the classifier was not trained" in shown and "reconstruction" in shown
    assert json.loads(swwae("eval", tmp_path / "run", "--device", "cpu", "--json").stdout)["error"] is None
    assert "learnt without labels" in refused("predict", pictures, "--model", tmp_path / "run")


def test_a_tag_trains_from_its_weights(tmp_path: Path) -> None:
    short = ("--data", "digits", "--labels", 50, "--steps", 1, "--lr", 1e-9, "--num-val", 0, "--rounds", 1, "--no-twin")
    args = (*short, "--device", "cpu", "--batch-size", 16, "--labeled-batch", 16)
    from_tag = swwae("train", "--model", TAG, *args, "--out", tmp_path / "tag")
    assert f"starts from the weights of {TAG}" in from_tag.stderr
    swwae("train", "--model", "swwae_mnist", *args, "--out", tmp_path / "random")
    errors = [json.loads((tmp_path / name / "result.json").read_text())["test_error"] for name in ("tag", "random")]
    assert errors[0] < 60 < errors[1]
    assert "names weights to start from, and so does init" in refused("train", "--model", TAG, "--init", TAG, *args)
    assert "there are no such weights" in refused("train", "--model", "swwae_mnist.nope", *args)


def test_help_says_what_it_means() -> None:
    shown = " ".join(swwae("push", "--help").stdout.split())
    assert "Which weights ." not in shown and "Which weights of a run (else last" in shown


# --- docs/predict.md -----------------------------------------------------------------------------------------

PAGE = (Path(__file__).parents[2] / "docs" / "predict.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
COMMANDS = [line.partition("  #")[0] for kind, block in BLOCKS if not kind for line in block.splitlines()]
ELSEWHERE = ("hf-hub:", "--data mnist", "--backbone")  # the Hub, a download, a minute: tests of their own


@pytest.fixture
def desk(run: Path, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with all that the page names."""
    monkeypatch.chdir(tmp_path)
    for name in ("pets", "first"):
        make_run(Path("runs") / name, num_val=100)
    for name in ("photos", "digits/train/0", "digits/train/1", "more"):
        shutil.copytree(pictures, name)
    shutil.copy(pictures / "0.png", "more/cat.jpg")
    for name in ("a.png", "b.png"):
        shutil.copy(pictures / "1.png", name)
    return tmp_path


@pytest.mark.parametrize("command", [line for line in COMMANDS if not any(each in line for each in ELSEWHERE)])
def test_the_commands_of_the_page(desk: Path, command: str) -> None:
    program, *args = shlex.split(command)
    assert program == "swwae"
    short = ["--steps", "1", "--rounds", "1", "--no-twin", "--num-val", "0", "--device", "cpu"]
    assert swwae(*args, *(short if args[0] == "train" else [])).exit_code == 0


@pytest.mark.parametrize("code", [block for kind, block in BLOCKS if kind == "python"])
def test_the_python_of_the_page(desk: Path, code: str) -> None:
    exec(code, {})
    assert (desk / "again.png").is_file()
