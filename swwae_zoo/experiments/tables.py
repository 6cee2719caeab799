"""Tables 1 to 5 and the two figures on all labels: runs of every row, and the paper's column beside ours."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from typing import Any

from swwae_zoo.config import RunConfig, read_recipe
from swwae_zoo.experiments.rows import TABLES, Row, Table
from swwae_zoo.experiments.runs import Setting, keep, read_records, rounds_of, run_once, write_all, write_text
from swwae_zoo.experiments.study import search

__all__ = ["chosen_rows", "reproduce_table"]

GRID = (0.1, 0.3, 1.0, 3.0)  # times the recipe's lambdas
NONE = "none"


def reproduce_table(target: str, setting: Setting, rows: str = "") -> None:
    """Runs the rows asked for that are not done; writes TARGET.json and TARGET.md after each run.

    Args:
        rows: patterns of keys, separated by commas; "" for all, "none" for none.

    Raises:
        ValueError: no row of that name, and what the runs raise.
    """
    table = TABLES[target]
    for row in chosen_rows(table.rows, rows):
        for _ in runs_of_row(row, setting):
            write(target, table, setting)
    write(target, table, setting)


def chosen_rows(rows: Sequence[Row], patterns: str) -> list[Row]:
    """Rows whose key fits one of the patterns.

    Raises:
        ValueError: a pattern that no row fits.
    """
    if patterns in ("", NONE):
        return list(rows) if patterns == "" else []
    wanted = [pattern.strip() for pattern in patterns.split(",") if pattern.strip()]
    for pattern in wanted:
        if not any(fnmatchcase(row.key, pattern) for row in rows):
            raise ValueError(
                f"rows: got {pattern!r}, expected of {', '.join(row.key for row in rows)}; * and ? as in file names"
            )
    return [row for row in rows if any(fnmatchcase(row.key, pattern) for pattern in wanted)]


def runs_of_row(row: Row, setting: Setting) -> Iterator[dict[str, Any]]:
    """Record after record of one row."""
    recipe = read_recipe(row.recipe)
    if row.folds:
        for fold, data in enumerate(row.folds):
            yield from _runs_of_fold(row, replace(recipe, data=data), fold, setting)
        return
    if setting.search:
        recipe = _with_chosen_lambda(row, recipe, setting)
    for run, is_twin in rounds_of(recipe, row.key, setting, row.twin):
        if row.pretrain:
            run = replace(run, init=_pretrained(row, run.seed, setting))
        yield run_once(run, row.key, setting, twin=is_twin)


def _pretrained(row: Row, seed: int, setting: Setting) -> str:
    """Folder of the unsupervised run with this seed, which all rows of a table share; its validation images are the row's."""
    recipe = replace(read_recipe(row.pretrain), seed=seed)
    run, _ = next(rounds_of(replace(recipe, rounds=1), row.pretrain, replace(setting, rounds=1), twin=False))
    run_once(run, row.pretrain, setting)
    return run.out


# --- lambda, chosen on validation images --------------------------------------------------------------


def grid_of(config: RunConfig) -> list[dict[str, float]]:
    """The recipe's lambda_rec and lambda_middle, times each number of GRID."""
    if isinstance(config.lambda_middle, list):
        raise ValueError("lambda_middle: got a list, but a search varies one number: give one")
    return [
        {"lambda_rec": round(config.lambda_rec * factor, 6), "lambda_middle": round(config.lambda_middle * factor, 6)}
        for factor in GRID
    ]


def searched(config: RunConfig, name: str, setting: Setting) -> list[dict[str, Any]]:
    """Records of one round at every point of the grid; its val_error is what to choose by."""
    if config.num_val == 0:
        raise ValueError(f"num_val: got 0, expected validation images to choose lambda on, for {name}")

    def evaluate(point: dict[str, float]) -> dict[str, Any]:
        slug = f"{name}-rec{point['lambda_rec']:g}-mid{point['lambda_middle']:g}"
        run, _ = next(rounds_of(replace(config, **point, rounds=1), slug, replace(setting, rounds=1), twin=False))
        return run_once(run, slug, setting)

    found = search(name, grid_of(config), evaluate, setting)
    for record in found:
        keep(record, setting)
    return found


def _with_chosen_lambda(row: Row, recipe: RunConfig, setting: Setting) -> RunConfig:
    """The recipe at the lambda whose validation error, in one round, is lowest."""
    found = searched(replace(recipe, num_val=recipe.num_val or row.search_val), f"{row.key}-search", setting)
    best = min(found, key=lambda record: record["val_error"])
    return replace(recipe, lambda_rec=best["lambda_rec"], lambda_middle=best["lambda_middle"])


def _runs_of_fold(row: Row, config: RunConfig, fold: int, setting: Setting) -> Iterator[dict[str, Any]]:
    """The fold's own lambda, chosen on images held out of it; the chosen trial's model is the one that is tested."""
    found = searched(config, f"{row.key}-fold{fold}", setting)
    best = min(found, key=lambda record: record["val_error"])
    yield {**best, "name": row.key, "seed": fold}
    if row.twin:
        for run, is_twin in rounds_of(
            replace(config, rounds=1), f"{row.key}-fold{fold}", replace(setting, rounds=1), twin=True
        ):
            if is_twin:
                yield run_once(run, f"{row.key}-fold{fold}", setting, twin=True)


# --- the page ------------------------------------------------------------------------------------------


def write(target: str, table: Table, setting: Setting) -> None:
    write_all(setting, target)
    write_text(setting, f"{target}.md", page(table, setting))


def page(table: Table, setting: Setting) -> str:
    """The table as markdown, the paper's column beside ours."""
    lines = [
        f"# {table.title}",
        "",
        "Mean ± standard deviation over rounds, each with labels drawn anew. The twin is the same net under "
        "the same recipe and seeds with every λ but lambda_nll 0.",
        *([table.note] if table.note else []),
        "",
        "| row | paper | ours | rounds | paper's convnet | our twin | gain | minutes a round |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in table.rows:
        records = _records_of(row, setting)
        ours, twins = ([_score(table, r) for r in records if r["twin"] == twin] for twin in (False, True))
        minutes = [r["seconds"] / 60 for r in records if not r["twin"]]
        lines.append(
            "| "
            + " | ".join(
                (
                    row.label,
                    _figure([row.paper], row.spread),
                    _figure(ours) or "not run here",
                    str(len(ours) or ""),
                    _figure([row.convnet]),
                    _figure(twins),
                    _gain(table, ours, twins),
                    f"{statistics.mean(minutes):.1f}" if minutes else "",
                )
            )
            + " |"
        )
    if setting.quick:
        lines += ["", "A quick check: these are no results."]
    return "\n".join(lines) + "\n"


def _records_of(row: Row, setting: Setting) -> list[dict[str, Any]]:
    if not row.folds:
        return read_records(setting, row.key)
    records = read_records(setting)
    found = []
    for fold in range(len(row.folds)):
        trials = [r for r in records if r["name"].startswith(f"{row.key}-fold{fold}-rec")]
        if len(trials) == len(GRID):  # all of the grid, or no choice
            found.append(min(trials, key=lambda r: r["val_error"]))
        found += [r for r in records if r["name"] == f"{row.key}-fold{fold}" and r["twin"]]
    return found


def _score(table: Table, record: dict[str, Any]) -> float:
    return 100 - record[table.measure] if table.accuracy else record[table.measure]


def _figure(values: Sequence[float | None], spread: float | None = None) -> str:
    """ "8.71 ± 0.34", or "" for nothing."""
    known = [value for value in values if value is not None]
    if not known:
        return ""
    spread = statistics.stdev(known) if len(known) > 1 else spread
    return f"{statistics.mean(known):.2f}" + (f" ± {spread:.2f}" if spread is not None else "")


def _gain(table: Table, ours: list[float], twins: list[float]) -> str:
    """How much better than the twin, in points."""
    if not ours or len(ours) != len(twins):
        return ""
    gain = statistics.mean(twins) - statistics.mean(ours)
    return f"{-gain if table.accuracy else gain:+.2f}"
