"""Predictions for files: in order, in batches, without holding them all, written to a table that nothing runs from."""

import csv
import itertools
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hub_server.fixtures import make_run
from PIL import Image

import swwae_zoo
from swwae_zoo.analysis.load import Prediction, Trained
from swwae_zoo.analysis.predict import FilePrediction, ImageFiles, predict_files, write_csv
from swwae_zoo.data import load_images


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    run = tmp_path_factory.mktemp("runs") / "a"
    make_run(run)
    return swwae_zoo.load(run, device="cpu")


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("pictures")
    paths = [folder / f"{number:02}.png" for number in range(25)]
    for path, image in zip(paths, load_images("digits", "test").images, strict=False):
        Image.fromarray(image[0].numpy()).save(path)
    return paths


@pytest.mark.parametrize("batch_size", [1, 4, 25, 100])
def test_files_in_their_order(trained: Trained, files: list[Path], batch_size: int) -> None:
    found = list(predict_files(trained, files, top=2, batch_size=batch_size))
    assert [row.file for row in found] == files and {len(row.predictions) for row in found} == {2}
    expected = [[each.name for each in one] for one in trained.predict(files, top=2)]
    assert [[each.name for each in row.predictions] for row in found] == expected


def test_no_more_files_are_begun_than_the_threads_need(trained: Trained, files: list[Path]) -> None:
    """Of an endless stream, only as many are read ahead as two batches hold."""
    begun = 0

    def endless() -> Iterator[Path]:
        nonlocal begun
        for file in itertools.cycle(files):
            begun += 1
            yield file

    rows = predict_files(trained, endless(), batch_size=8)
    for number, _ in enumerate(itertools.islice(rows, 200)):
        assert begun <= number + 1 + 3 * 8
    rows.close()  # type: ignore[attr-defined]


def test_bad_images(trained: Trained, files: list[Path], tmp_path: Path) -> None:
    bad = [tmp_path / "words.png", tmp_path / "cut.png", tmp_path / "absent.png"]
    bad[0].write_text("words")
    bad[1].write_bytes(files[0].read_bytes()[:100])
    mixed = [files[0], bad[0], files[1], bad[1], bad[2]]
    told: list[str] = []
    found = predict_files(trained, mixed, bad_images="skip", skipped=told.append)
    assert [row.file for row in found] == files[:2]
    assert [line.partition(":")[0] for line in told] == [str(path) for path in bad]
    with pytest.raises(ValueError, match=r"words.png: it is no image, .*: repair or remove it, or leave it out with"):
        list(predict_files(trained, mixed))
    for wrong in ({"bad_images": "drop"}, {"batch_size": 0}, {"top": 0}):
        with pytest.raises(ValueError, match="expected"):
            list(predict_files(trained, files[:1], **wrong))  # type: ignore[arg-type]


def test_every_image_below_a_folder(files: list[Path], tmp_path: Path) -> None:
    """Held-out ones too, but no hidden files, no run's pictures, and each folder once."""
    for place in ("b/test/cat", "b/train/cat", "a", ".hidden", "a/run"):
        (tmp_path / place).mkdir(parents=True)
        (tmp_path / place / "x.png").write_bytes(files[0].read_bytes())
    for name in ("config.toml", "run.json"):
        (tmp_path / "a" / "run" / name).touch()
    (tmp_path / "a" / "notes.txt").touch()
    (tmp_path / "b" / "again").symlink_to(tmp_path / "a")
    os.mkfifo(tmp_path / "b" / "pipe.png")
    walked = ImageFiles([tmp_path, files[3]])
    found = list(walked)
    names = [str(path.relative_to(tmp_path)) for path in found[:-1]]
    assert names == ["a/x.png", "b/test/cat/x.png", "b/train/cat/x.png"] and found[-1] == files[3]
    assert [note for note in walked.notes() if "1 .txt" in note] and [n for n in walked.notes() if "pipe.png" in n]


def test_what_is_no_image_is_said_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "empty").mkdir()
    for given, words in (
        ([], "got no images"),
        ([tmp_path / "absent"], "absent: no such file or folder"),
        ([tmp_path / "pipe"], "pipe is no regular file"),
        ([tmp_path / "empty"], "no images in .*empty; expected .png"),
    ):
        with pytest.raises(ValueError, match=words):
            list(ImageFiles(given))


def test_a_table_that_no_spreadsheet_runs(tmp_path: Path) -> None:
    names = ["=cmd|' /C calc'!A0", "+1", "-1", "@x", "\tx", "a,b", 'q"u', "a\nb", "ünï", "plain", "\x1b[2J"]
    rows = [FilePrediction(Path(name), [Prediction(name, 0.75), Prediction("b", 0.25)]) for name in names]
    rows.append(FilePrediction(Path(os.fsdecode(b"\xff.png")), [Prediction("a", 1.0), Prediction("b", 0.0)]))
    out = tmp_path / "out.csv"
    with write_csv(out, 2) as write:
        for row in rows:
            write(row)
        assert not out.exists()
    with open(out, encoding="utf-8", newline="") as file:
        header, *table = csv.reader(file)
    assert header == ["file", "class", "probability", "class_2", "probability_2"]
    assert [row[0] for row in table] == [
        "'=cmd|' /C calc'!A0", "'+1", "'-1", "'@x", r"\tx", "a,b", 'q"u', r"a\nb", "ünï", "plain", r"\x1b[2J",
        r"\udcff.png",
    ]  # fmt: skip
    assert table[0][1:] == [table[0][0], "0.750000", "b", "0.250000"] and len(out.read_bytes().splitlines()) == 13
    with pytest.raises(ValueError, match="there is no folder"), write_csv(tmp_path / "none" / "out.csv", 1):
        pass
    with pytest.raises(RuntimeError), write_csv(tmp_path / "broken.csv", 1):
        raise RuntimeError
    assert os.listdir(tmp_path) == ["out.csv"]
