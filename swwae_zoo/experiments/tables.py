"""Tables 1 to 5 and the two figures with all labels: the runs of each row, and the paper's column beside ours."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from typing import Any

from swwae_zoo.config import RunConfig, read_recipe, without_lambdas
from swwae_zoo.experiments.pages import mean_and_spread, table_lines, write_page
from swwae_zoo.experiments.paper import TABLES, PaperTable, TableRow
from swwae_zoo.experiments.runs import ExperimentSettings, read_records, rounds_of, run_folder, run_once

__all__ = ["chosen_rows", "reproduce_table"]

FACTORS = (0.1, 0.3, 1.0, 3.0)  # of the recipe's lambdas: the grid that lambda is chosen from


def reproduce_table(target: str, settings: ExperimentSettings, rows: str = "") -> None:
    """Runs the rows that were asked for and are not done; writes TARGET.json and TARGET.md after each run.

    Args:
        rows: patterns of keys, separated by commas; "" for all, "none" for none.

    Raises:
        ValueError: no row of that name, and what the runs raise.
    """
    table = TABLES[target]
    for row in chosen_rows(table.rows, rows):
        for _ in runs_of_row(row, settings):
            write_page(settings, target, page(table, settings))
    write_page(settings, target, page(table, settings))


def chosen_rows(rows: Sequence[TableRow], patterns: str) -> list[TableRow]:
    """Rows whose key matches one of the patterns.

    Raises:
        ValueError: a pattern that matches no row.
    """
    if patterns == "none":
        return []
    wanted = [pattern.strip() for pattern in patterns.split(",") if pattern.strip()] or ["*"]
    for pattern in wanted:
        if not any(fnmatchcase(row.key, pattern) for row in rows):
            raise ValueError(
                f"rows: got {pattern!r}, expected of {', '.join(row.key for row in rows)}; * and ? as in file names"
            )
    return [row for row in rows if any(fnmatchcase(row.key, pattern) for pattern in wanted)]


def runs_of_row(row: TableRow, settings: ExperimentSettings) -> Iterator[dict[str, Any]]:
    """Trains one row, and yields the record of each run."""
    recipe = read_recipe(row.recipe)
    for fold, data in enumerate(row.folds):  # the model that the fold's own lambda gave is the one that is tested
        name, config = f"{row.key}-fold{fold}", replace(recipe, data=data)
        yield from search(config, name, settings)
        if row.twin:
            yield run_once(without_lambdas(config), name, settings, twin=True)
    if row.folds:
        return
    if settings.search:
        held_out = replace(recipe, num_val=recipe.num_val or row.search_val)
        best = min(search(held_out, f"{row.key}-search", settings), key=_val_error)
        recipe = replace(recipe, lambda_rec=best["lambda_rec"], lambda_middle=best["lambda_middle"])
    for run, is_twin in rounds_of(recipe, settings, row.twin):
        if row.pretrain:
            run = replace(run, init=pretrained(row, run.seed, settings))
        yield run_once(run, row.key, settings, twin=is_twin)


def search(config: RunConfig, name: str, settings: ExperimentSettings) -> list[dict[str, Any]]:
    """One round at the recipe's lambdas times each of FACTORS; the record with the lowest "val_error" is to be chosen.

    Raises:
        ValueError: the recipe holds out no validation images, or has a list of lambda_middle.
    """
    if config.num_val == 0:
        raise ValueError(f"num_val: got 0, expected validation images to choose lambda on, for {name}")
    if isinstance(config.lambda_middle, list):
        raise ValueError("lambda_middle: got a list, but a search varies one number: give one")
    records = []
    for factor in FACTORS:
        rec, middle = round(config.lambda_rec * factor, 6), round(config.lambda_middle * factor, 6)
        point = replace(config, lambda_rec=rec, lambda_middle=middle)
        records.append(run_once(point, f"{name}-rec{rec:g}-mid{middle:g}", settings))
    return records


def pretrained(row: TableRow, seed: int, settings: ExperimentSettings) -> str:
    """Folder of the unsupervised run with this seed, which the rows of a table share; it holds out the same images."""
    run_once(replace(read_recipe(row.pretrain), seed=seed), row.pretrain, settings)
    return str(run_folder(settings, row.pretrain, seed))


# --- the page ------------------------------------------------------------------------------------------


def page(table: PaperTable, settings: ExperimentSettings) -> list[str]:
    """The table as markdown, the paper's column beside ours."""
    rows = []
    for row in table.rows:
        records = _records_of(row, settings)
        ours, twins = ([_score(table, r) for r in records if r["twin"] == twin] for twin in (False, True))
        minutes = [r["seconds"] / 60 for r in records if not r["twin"]]
        rows.append(
            (
                row.label,
                mean_and_spread([row.paper], row.spread),
                mean_and_spread(ours) or "not run here",
                str(len(ours) or ""),
                mean_and_spread([row.convnet]),
                mean_and_spread(twins),
                _gain(table, ours, twins),
                f"{statistics.mean(minutes):.1f}" if minutes else "",
            )
        )
    return [
        f"# {table.title}",
        "",
        "Mean ± standard deviation over rounds, each with its own draw of labels. The twin is the same net with the "
        "same recipe and seeds and every λ but lambda_nll at 0.",
        *([table.note] if table.note else []),
        "",
        *table_lines(
            ("row", "paper", "ours", "rounds", "paper's convnet", "our twin", "gain", "minutes a round"), rows
        ),
    ]


def _records_of(row: TableRow, settings: ExperimentSettings) -> list[dict[str, Any]]:
    if not row.folds:
        return read_records(settings, row.key)
    records, found = read_records(settings), []
    for fold in range(len(row.folds)):
        trials = [r for r in records if r["name"].startswith(f"{row.key}-fold{fold}-rec")]
        if len(trials) == len(FACTORS):  # the whole grid, or nothing to choose from
            found.append(min(trials, key=_val_error))
        found += [r for r in records if r["name"] == f"{row.key}-fold{fold}" and r["twin"]]
    return found


def _val_error(record: dict[str, Any]) -> float:
    return record["val_error"]


def _score(table: PaperTable, record: dict[str, Any]) -> float:
    return 100 - record[table.measure] if table.accuracy else record[table.measure]


def _gain(table: PaperTable, ours: list[float], twins: list[float]) -> str:
    """How much better than the twin, in points."""
    if not ours or len(ours) != len(twins):
        return ""
    gain = statistics.mean(twins) - statistics.mean(ours)
    return f"{-gain if table.accuracy else gain:+.2f}"
