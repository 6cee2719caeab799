"""`swwae reproduce`: each run is trained once, resumes where it was stopped, and appears beside the paper's figure."""

import json
import os
import signal
import statistics
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision.datasets as tv
from held import HELD
from PIL import Image
from published_formats import labels_of, pixels, write_cifar, write_mnist, write_stl10, write_svhn
from typer.testing import CliRunner

from swwae_zoo.cli.main import app
from swwae_zoo.config import RunConfig, read_recipe, to_toml
from swwae_zoo.experiments import figure2, figure3, figure5, runs, shifts, tables
from swwae_zoo.experiments.paper import TABLES, PaperTable, TableRow
from swwae_zoo.experiments.reproduce import reproduce
from swwae_zoo.experiments.runs import ExperimentSettings, read_records, run_once
from swwae_zoo.experiments.shifts import SHIFTS, Response
from swwae_zoo.layers.pooling import soft_pool2d, switch_pool2d
from swwae_zoo.training.signals import Stopped

pytestmark = pytest.mark.usefixtures("one_thread")
TINY = {"notation": "(4)3c-2p-(4)3c-2p-10fc", "img_size": 32}
BASE = RunConfig(
    model_args=TINY,
    num_labels=50,
    num_val=50,
    steps=4,
    batch_size=16,
    labeled_batch=16,
    lr=0.01,
    rounds=2,
    device="cpu",
)


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> Counter:
    """How often each folder was really trained."""
    count: Counter = Counter()
    real = runs.train_rounds

    def counting(config: RunConfig, resume: bool = False) -> Any:
        count[Path(config.out).relative_to(Path(config.out).parents[1]).as_posix()] += 1
        return real(config, resume=resume)

    monkeypatch.setattr(runs, "train_rounds", counting)
    return count


def table5(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, recipe: RunConfig = BASE, **row: Any) -> None:
    """A small Table 5 in the paper's place: one row of it, and one that nobody runs."""
    path = tmp_path / "small.toml"
    path.write_text(to_toml(recipe))
    rows = (
        TableRow("small", "small nets", str(path), 8.71, 0.34, twin=True, **row),
        TableRow("other", "another", str(path), 3.31),
    )
    monkeypatch.setitem(TABLES, "table5", PaperTable("Table 5", "test_error", False, rows))


def cells(out: Path, label: str, page: str = "table5.md") -> list[str]:
    line = next(line for line in (out / page).read_text().splitlines() if line.startswith(f"| {label} |"))
    return [cell.strip() for cell in line.strip("|").split("|")]


# --- tables -------------------------------------------------------------------------------------------


def test_runs_are_done_once_and_stand_beside_the_papers_figure(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, trained: Counter
) -> None:
    table5(monkeypatch, tmp_path)
    settings = ExperimentSettings(tmp_path / "out", device="cpu")
    reproduce("table5", settings, "small")
    assert trained == {f"small/seed{seed}{twin}": 1 for seed in (0, 1) for twin in ("", "-twin")}

    records = json.loads((settings.out / "table5.json").read_text())
    errors = {twin: [r["test_error"] for r in records if r["twin"] == twin] for twin in (False, True)}
    mean, spread, convnet = (
        statistics.mean(errors[False]),
        statistics.stdev(errors[False]),
        statistics.mean(errors[True]),
    )
    row = cells(settings.out, "small nets")
    assert row[1:4] == ["8.71 ± 0.34", f"{mean:.2f} ± {spread:.2f}", "2"]
    assert row[5].startswith(f"{convnet:.2f} ± ") and row[6] == f"{convnet - mean:+.2f}"
    assert cells(settings.out, "another")[1:4] == ["3.31", "not run here", ""]
    for record in records:
        assert {
            "seed",
            "lambda_rec",
            "lambda_middle",
            "val_error",
            "test_error",
            "seconds",
            "versions",
            "command",
            "machine",
        } <= record.keys()
        assert not {"out", "data_dir"} & record["recipe"].keys() and str(tmp_path) not in record["command"]
    assert {r["lambda_rec"] for r in records if r["twin"]} == {0.0}

    reproduce("table5", settings, "sm*")
    reproduce("table5", replace(settings, rounds=1), "small")
    assert sum(trained.values()) == 4
    reproduce("table5", replace(settings, rounds=3), "small")
    assert sum(trained.values()) == 6 and trained["small/seed2"] == 1


def test_a_record_of_another_recipe_does_not_pass_for_this_ones(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    settings = ExperimentSettings(tmp_path / "out", rounds=1, device="cpu")
    run_once(BASE, "row", settings)
    with pytest.raises(ValueError, match=r"is of a run with lr = 0.01, got 0.1: give another --out") as caught:
        run_once(replace(BASE, lr=0.1), "row", settings)
    assert "\n" not in str(caught.value)


INTERRUPTED = """
from swwae_zoo.cli.main import app
from swwae_zoo.experiments.paper import TABLES, PaperTable, TableRow
row = TableRow("small", "small nets", RECIPE, 8.71, twin=True)
TABLES["table5"] = PaperTable("Table 5", "test_error", False, (row,))
sys.argv = ["swwae", "reproduce", "table5", "--out", OUT, "--device", "cpu"]
app()
"""


def test_ctrl_c_and_the_same_command_again(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, child: Callable[..., Any], trained: Counter
) -> None:
    table5(monkeypatch, tmp_path, replace(BASE, steps=20, save_every=10, rounds=1))
    out, whole = tmp_path / "out", tmp_path / "whole"
    names = {"RECIPE": str(tmp_path / "small.toml"), "OUT": str(out), "HELD_AT": 12, "UNTIL": ""}
    process = child(HELD + INTERRUPTED, **names)
    end = time.monotonic() + 240
    while not (out / "runs" / "small" / "seed0" / "checkpoint.pt").exists():
        assert time.monotonic() < end and process.is_alive(), (tmp_path / "stderr").read_text()
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGINT)
    process.join(300)
    assert process.exitcode == 130
    assert (tmp_path / "stderr").read_text().splitlines()[
        -1
    ] == f"stopped; {out} holds what is done; the same command resumes it"
    assert not (out / "records").exists()
    reproduce("table5", ExperimentSettings(out, device="cpu"), "small")
    reproduce("table5", ExperimentSettings(whole, device="cpu"), "small")
    ours, theirs = (
        [{k: r[k] for k in ("val_error", "test_error", "test_rec")} for r in read_records(ExperimentSettings(folder))]
        for folder in (out, whole)
    )
    assert ours == theirs and len(ours) == 2
    assert read_records(ExperimentSettings(out))[0]["resumed"], "it went on, and began no new run"


def test_rivals_start_from_one_unsupervised_run_of_their_seed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, trained: Counter
) -> None:
    plain = replace(BASE, lambda_rec=0.0, lambda_middle=0.0)
    recipes = {
        "unsup": replace(BASE, lambda_nll=0.0, num_labels=0),
        "frozen": replace(plain, freeze_stages=2),
        "free": plain,
    }
    monkeypatch.setattr(tables, "read_recipe", recipes.__getitem__)
    rows = tuple(TableRow(name, name, name, None, pretrain="unsup") for name in ("frozen", "free"))
    monkeypatch.setitem(TABLES, "table4", PaperTable("Table 4", "val_error", False, rows))
    reproduce("table4", ExperimentSettings(tmp_path / "out", device="cpu"))
    assert trained == {f"{name}/seed{seed}": 1 for name in recipes for seed in (0, 1)}
    inits = {
        r["name"]: r["recipe"]["init"] for r in read_records(ExperimentSettings(tmp_path / "out")) if r["seed"] == 1
    }
    assert inits["frozen"] == inits["free"] != ""


@pytest.mark.parametrize(
    "target, rows, words",
    [
        ("tabel5", "", "did you mean table5"),
        ("table5", "drop-99", "expected of nodrop-100"),
        ("fig2", "x", "fig2 has no rows"),
    ],
)
def test_what_does_not_exist_is_said_in_a_line(target: str, rows: str, words: str, tmp_path: Path) -> None:
    said = CliRunner().invoke(app, ["reproduce", target, "--out", str(tmp_path), *(["--rows", rows] if rows else [])])
    assert said.exit_code == 2 and said.stderr.count("\n") == 1 and words in said.stderr


def test_the_empty_tables_hold_the_papers_figures_and_no_others(tmp_path: Path) -> None:
    for target in TABLES:
        assert CliRunner().invoke(app, ["reproduce", target, "--rows", "none", "--out", str(tmp_path)]).exit_code == 0
        text = (tmp_path / f"{target}.md").read_text()
        assert text.count("not run here") == len(TABLES[target].rows)
    assert cells(tmp_path, "SWWAE with dropout, N = 600")[1] == "3.31 ± 0.40"
    assert cells(tmp_path, "unsup-pretr, N = 1000", "table4.md")[1] == "6.13 ± 0.03"


def test_every_row_has_its_recipe() -> None:
    for table in TABLES.values():
        for row in table.rows:
            recipe = read_recipe(row.recipe)
            if row.pretrain:
                assert read_recipe(row.pretrain).num_val == recipe.num_val > 0 and recipe.init
            if table.measure == "val_error":
                assert recipe.num_val > 0
            assert recipe.lambda_rec > 0 or not row.twin


# --- lambda on validation images ----------------------------------------------------------------------


def test_lambda_is_the_one_with_the_lowest_validation_error(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, trained: Counter
) -> None:
    table5(monkeypatch, tmp_path, replace(BASE, num_val=0, lambda_rec=2.0, lambda_middle=1.0, rounds=1), search_val=60)
    settings = ExperimentSettings(tmp_path / "out", device="cpu", search=True)
    reproduce("table5", settings, "small")
    tried = [r for r in read_records(settings) if r["name"].startswith("small-search")]
    assert sorted(r["lambda_rec"] for r in tried) == [0.2, 0.6, 2.0, 6.0]
    assert all(r["recipe"]["num_val"] == 60 and r["lambda_rec"] == 2 * r["lambda_middle"] for r in tried)
    best = min(tried, key=lambda r: r["val_error"])
    ours = next(r for r in read_records(settings, "small") if not r["twin"])
    assert ours["lambda_rec"] == best["lambda_rec"] and ours["recipe"]["num_val"] == 0
    before = sum(trained.values())
    reproduce("table5", settings, "small")
    assert sum(trained.values()) == before == 6


def test_an_interrupted_search_repeats_only_what_is_missing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, trained: Counter
) -> None:
    table5(monkeypatch, tmp_path, replace(BASE, num_val=0, rounds=1), search_val=60)
    settings = ExperimentSettings(tmp_path / "out", device="cpu", search=True)
    count, interrupted = runs.train_rounds, []

    def third_is_interrupted(config: RunConfig, resume: bool = False) -> Any:
        if sum(trained.values()) == 2 and not interrupted:
            interrupted.append(config.lambda_rec)
            raise Stopped("stopped", signal.SIGINT)
        return count(config, resume=resume)

    monkeypatch.setattr(runs, "train_rounds", third_is_interrupted)
    with pytest.raises(Stopped, match="the same command resumes it"):
        reproduce("table5", settings, "small")
    assert interrupted == [1.0] and {r["lambda_rec"] for r in read_records(settings)} == {0.1, 0.3}
    reproduce("table5", settings, "small")
    assert len(trained) == 6 and set(trained.values()) == {1}


# --- data sets that are published in formats of their own ------------------------------------------------


def small(recipe: str, folder: Path, **keys: Any) -> str:
    """The packaged recipe for a tiny net, on the files in ``folder``."""
    config = read_recipe(recipe)
    chans = {"in_chans": 3} if config.model == "swwae_mnist" else {}
    path = folder / f"{recipe}.toml"
    args = {**config.model_args, "notation": "(4)3c-2p-(4)3c-4p-10fc", **chans}
    path.write_text(to_toml(replace(config, data_dir=str(folder), model_args=args, rounds=1, **keys)))
    return str(path)


def test_stl10s_folds_each_take_their_own_lambda(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    folds = [[(40 * k + i) % 60 for i in range(40)] for k in range(10)]
    write_stl10(
        tmp_path,
        monkeypatch,
        (pixels(60, 3, 96, 96), labels_of(60)),
        (pixels(10, 3, 96, 96), labels_of(10)),
        pixels(20, 3, 96, 96),
        folds,
    )
    recipe = small("table2", tmp_path, num_val=10, steps=1, epochs=0, warmup_steps=0, batch_size=4, labeled_batch=4)
    row = TABLES["table2"].rows[0]._replace(recipe=recipe, folds=("stl10:fold=0", "stl10:fold=9"))
    monkeypatch.setitem(TABLES, "table2", TABLES["table2"]._replace(rows=(row,)))
    settings = ExperimentSettings(tmp_path / "out", device="cpu")
    reproduce("table2", settings)
    trials = [r for r in read_records(settings) if "-rec" in r["name"]]
    assert Counter(r["recipe"]["data"] for r in trials) == {"stl10:fold=0": 4, "stl10:fold=9": 4}
    best = [
        min((r for r in trials if r["recipe"]["data"] == fold), key=lambda r: r["val_error"])["test_error"]
        for fold in row.folds
    ]
    assert cells(settings.out, "SWWAE", "table2.md")[1:4] == [
        "74.33",
        f"{100 - statistics.mean(best):.2f} ± {statistics.stdev(best):.2f}",
        "2",
    ]
    assert len([r for r in read_records(settings) if r["twin"]]) == 2


def test_svhn_and_cifar_rows_run_on_published_files(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    write_svhn(
        tmp_path,
        monkeypatch,
        **{part: (pixels(1200, 32, 32, 3), labels_of(1200) + 1) for part in ("train", "test", "extra")},
    )
    batches = {
        name: (pixels(300, 3, 32, 32), labels_of(300, 100))
        for name, _ in tv.CIFAR100.train_list + tv.CIFAR100.test_list
    }
    write_cifar(tmp_path, monkeypatch, tv.CIFAR100, batches, "fine_labels", [f"class {i}" for i in range(100)])
    few = {"steps": 2, "epochs": 0, "warmup_steps": 0, "batch_size": 8, "labeled_batch": 8, "num_val": 100}
    for target, key, keys in (("table1", "drop", few), ("svhn_full", "swwae", few), ("table3", "cifar100", few)):
        row = next(row for row in TABLES[target].rows if row.key == key)
        recipe = small(row.recipe, tmp_path, **(keys | ({"num_labels": 100} if target == "table1" else {})))
        monkeypatch.setitem(TABLES, target, TABLES[target]._replace(rows=(row._replace(recipe=recipe),)))
        out = tmp_path / target
        reproduce(target, ExperimentSettings(out, device="cpu"))
        assert [r["twin"] for r in read_records(ExperimentSettings(out))] == [False, True]
        assert float(cells(out, row.label, f"{target}.md")[2]) > 0


# --- figures --------------------------------------------------------------------------------------------


def assert_shows_something(path: Path) -> None:
    picture = np.asarray(Image.open(path).convert("L"), dtype=np.float64)
    assert min(picture.shape) > 100 and picture.std() > 20


def test_figure2_has_a_number_and_a_row_of_pictures_for_each_window(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, trained: Counter
) -> None:
    recipe = replace(
        BASE,
        model_args={"notation": "(4)3c-(4)3c-2p-10fc", "img_size": 32},
        lambda_nll=0.0,
        lambda_middle=0.0,
        num_labels=0,
        rounds=1,
    )
    monkeypatch.setattr(figure2, "read_recipe", lambda name: recipe)
    settings = ExperimentSettings(tmp_path, device="cpu")
    for _ in range(2):
        reproduce("fig2", settings)
    assert len(trained) == 8 and set(trained.values()) == {1}
    errors = {r["name"]: r["test_rec"] for r in json.loads((tmp_path / "fig2.json").read_text())}
    for window in (2, 4, 8, 16):
        with_where, without = errors[f"switch-{window}"], errors[f"upsample-{window}"]
        assert cells(tmp_path, f"{window}×{window}", "fig2.md")[1:4] == [
            f"{with_where:.5f}",
            f"{without:.5f}",
            f"{with_where / without:.3f}",
        ]
    assert_shows_something(tmp_path / "fig2.png")


def test_figures_3_and_4_share_their_nets(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, trained: Counter) -> None:
    recipe = replace(
        BASE,
        model_args={"notation": "(4)5c-2p-(4)3c-16p-10fc", "img_size": 32, "beta": 100.0},
        lambda_nll=0.0,
        num_labels=0,
        rounds=1,
    )
    monkeypatch.setattr(figure3, "read_recipe", lambda name: recipe)
    for target in ("fig3", "fig4"):
        reproduce(target, ExperimentSettings(tmp_path, device="cpu"))
    assert trained == {"soft/seed0": 1, "hard/seed0": 1}
    for name in ("fig3-soft", "fig3-hard", "fig4-soft", "fig4-hard"):
        assert_shows_something(tmp_path / f"{name}.png")
    ideal = 2 / (15 * 2)  # the window's 15 steps are 2 pixels each
    assert cells(tmp_path, "soft", "fig3.md")[4] == f"{ideal:.4f}"


@pytest.mark.parametrize("pool", ["soft", "hard"])
def test_the_where_of_a_moving_pixel_is_a_straight_line(pool: str) -> None:
    """A bright pixel that moves is followed exactly: slope as ideal, R2 of 1, and the what stays."""
    whats, wheres = [], []
    for shift in SHIFTS:
        x = torch.zeros(2, 1, 16, 16)
        x[0, 0, 5, 6 + shift] = x[1, 0, 9, 8 + shift] = 1.0
        what, where = switch_pool2d(x, 16) if pool == "hard" else soft_pool2d(x, 16, 1000.0)
        whats.append(what.flatten(1))
        wheres.append(shifts.coordinates(where, 16) if pool == "hard" else where.permute(0, 1, 3, 4, 2).flatten(1, 3))
    response = Response(torch.stack(whats), torch.stack(wheres))
    x, y = shifts.line(response, 0, 15), shifts.line(response, 1, 15, moves=False)
    assert x.slope == pytest.approx(x.ideal) == pytest.approx(2 / 15) and x.r2 == pytest.approx(1)
    assert (y.slope, y.ideal) == (0, 0)
    assert max(shifts.stability(response).values()) < 1e-5


def test_a_where_that_does_not_follow_is_no_line() -> None:
    what = torch.rand(7, 50, 3, generator=torch.Generator().manual_seed(0)) + 1
    where = torch.rand(7, 50, 3, 2, generator=torch.Generator().manual_seed(1)) * 2 - 1
    found = shifts.line(Response(what, where), 0, 15)
    assert abs(found.slope) < 0.3 * found.ideal and found.r2 < 0.6
    assert min(value for shift, value in shifts.stability(Response(what, where)).items() if shift) > 0.1
    assert abs(shifts.agreement(Response(what, where))) < 0.3


def test_images_move_and_zeros_come_in() -> None:
    x = torch.arange(1.0, 10.0).reshape(1, 1, 3, 3)
    assert shifts.shifted(x, 1, 0)[0, 0].tolist() == [[0, 1, 2], [0, 4, 5], [0, 7, 8]]
    assert shifts.shifted(x, 0, -2)[0, 0].tolist() == [[7, 8, 9], [0, 0, 0], [0, 0, 0]]


def test_figure5_draws_a_curve_over_lambda(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, trained: Counter) -> None:
    monkeypatch.setattr(figure5, "read_recipe", lambda name: replace(BASE, lambda_rec=1.0))
    monkeypatch.setattr(figure5, "LAMBDAS", {"mnist": (0.0, 1.0), "svhn": (0.0,)})
    for _ in range(2):
        reproduce("fig5", ExperimentSettings(tmp_path, device="cpu"), "mnist-100")
    assert sum(trained.values()) == 4
    found = {(r["lambda_rec"], r["seed"]): r["val_error"] for r in read_records(ExperimentSettings(tmp_path))}
    text = (tmp_path / "fig5.md").read_text()
    for value in (0.0, 1.0):
        errors = [found[value, 0], found[value, 1]]
        assert f"{statistics.mean(errors):.2f} ± {statistics.stdev(errors):.2f}" in text
    assert "MNIST, N = 600: not run here" in text
    assert_shows_something(tmp_path / "fig5.png")


def test_the_command_names_its_twins_and_finds_its_data(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    labels = (np.arange(150) % 10).astype(np.uint8)
    write_mnist(tmp_path / "data" / "MNIST" / "raw", (pixels(150, 28, 28), labels), (pixels(50, 28, 28), labels[:50]))
    table5(monkeypatch, tmp_path, replace(BASE, data="mnist", rounds=1))
    args = ["reproduce", "table5", "--rows", "small", "--device", "cpu", "--json", "--out", str(tmp_path / "out")]
    said = CliRunner().invoke(app, [*args, "--data-dir", str(tmp_path / "data")])
    assert said.exit_code == 0, said.output
    found = json.loads(said.stdout)
    assert [(record["name"], record["twin"]) for record in found] == [("small", False), ("small", True)]
    assert [record["lambda_rec"] > 0 for record in found] == [True, False]
    progress = said.stderr + capfd.readouterr().err
    heads = [line for line in progress.splitlines() if line.endswith(": 4 steps")]
    assert [head.rpartition("/")[2] for head in heads] == ["seed0: 4 steps", "seed0-twin: 4 steps"]
    assert "SWWAE" not in progress, "which of the two it is stands in its folder's name"
    assert json.loads(CliRunner().invoke(app, args).stdout) == found, "nothing is run again, nor read"
