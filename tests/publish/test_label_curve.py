"""Error against number of labels, from runs and from a table of `swwae reproduce`."""

import json
from pathlib import Path

import pytest
from hub_server.fixtures import make_run
from PIL import Image
from typer.testing import CliRunner

from swwae_zoo.cli.main import app
from swwae_zoo.publish.label_curve import Point, _points_of, draw_label_curve
from swwae_zoo.utils.json_files import write_json

ALONE = {"lambda_rec": 0.0, "lambda_middle": 0.0}


def test_runs_with_their_twins(tmp_path: Path) -> None:
    for labels, errors in ((50, (9.0, 11.0)), (100, (4.0, 6.0))):
        for name, error, terms in zip(("seed0", "seed0-twin"), errors, ({}, ALONE), strict=True):
            make_run(tmp_path / str(labels) / name, result={"test_error": error}, num_labels=labels, **terms)
    assert sorted(_points_of(tmp_path / "50")) == [
        Point("+ L2rec + L2M", 50, 9.0),
        Point("labelled images alone", 50, 11.0),
    ]
    runs = [str(tmp_path / "50"), str(tmp_path / "100")]
    done = CliRunner().invoke(app, ["report", *runs, "--labels", str(tmp_path / "a.png")])
    assert done.exit_code == 0 and done.stdout.strip() == str(tmp_path / "a.png"), done.output
    with Image.open(tmp_path / "a.png") as picture:
        assert picture.width == 600
    with pytest.raises(ValueError, match="50 labels alone: expected at least two"):
        draw_label_curve(runs[:1], tmp_path / "b.png")


def test_rounds_that_took_all_labels(tmp_path: Path) -> None:
    make_run(tmp_path / "all" / "seed0", result={"test_error": 1.0}, num_labels=0)
    with pytest.raises(ValueError, match="does not say how many labels there were"):
        list(_points_of(tmp_path / "all"))
    write_json(tmp_path / "all" / "run.json", {"data": {"labeled": {"images": 500}}})
    assert [point.labels for point in _points_of(tmp_path / "all")] == [500]


def test_another_kind_of_file_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match="is there already and no .png file"):
        draw_label_curve([tmp_path], tmp_path / "notes.txt")
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_a_table_of_reproduce(tmp_path: Path) -> None:
    table = tmp_path / "table5.json"
    row = {"name": "drop-100", "twin": True, "test_error": 9.5, "val_error": None, "recipe": {"num_labels": 100}}
    table.write_text(json.dumps([row, {**row, "twin": False, "test_error": None, "val_error": 8}]))
    assert list(_points_of(table)) == [Point("drop, labelled images alone", 100, 9.5), Point("drop", 100, 8.0)]


def test_what_is_no_run_is_refused_in_a_line(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"a": 1}')
    for place, said in ((tmp_path, "holds no finished run"), (tmp_path / "a.json", "expected the TARGET.json")):
        done = CliRunner().invoke(app, ["report", str(place), "--labels", str(tmp_path / "a.png")])
        assert done.exit_code == 2 and said in done.stderr and done.stderr.count("\n") == 1, done.output
    assert not (tmp_path / "a.png").exists()
