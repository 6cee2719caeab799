"""What is published: a run, with how it was trained and what was measured, or a folder with a model alone."""

from __future__ import annotations

import math
import os
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from swwae_zoo.config import RunConfig, read_run_recipe
from swwae_zoo.hub.verify import sha256_of
from swwae_zoo.training.places import HUB, Place, find_place, is_registered, rounds_in
from swwae_zoo.utils.files import user_path
from swwae_zoo.utils.json_files import read_json
from swwae_zoo.utils.text import printable

__all__ = ["Figure", "TrainedRun", "find_run", "find_source", "read_provenance", "read_result"]

# Keys of result.json that are numbers, or null where nothing was measured.
FIGURES = ("steps", "seconds", "val_error", "best_val_error", "best_step", "test_error", "test_rec", "seed")


class Figure(NamedTuple):
    """One figure over rounds, e.g. test errors in %."""

    values: tuple[float, ...]

    @property
    def mean(self) -> float:
        return statistics.mean(self.values)

    @property
    def std(self) -> float | None:
        """Sample standard deviation; None of one round."""
        return statistics.stdev(self.values) if len(self.values) > 1 else None

    def text(self, digits: int, unit: str = "") -> str:
        spread = "" if self.std is None else f" ± {self.std:.{digits}f}"
        return f"{self.mean:.{digits}f}{spread}{unit}"


class TrainedRun(NamedTuple):
    """Weights of a run and what is known of them.

    folder: last/ or best/.
    home: the folder of their round.
    config: the recipe of that round; recipe: that of all rounds.
    provenance: run.json of the round.
    result: result.json of the round.
    results: of all rounds and twins that are finished.
    is_twin: whether these weights are a twin's.
    """

    folder: Path
    home: Path
    config: RunConfig
    recipe: RunConfig
    provenance: dict[str, Any]
    result: dict[str, Any]
    results: list[dict[str, Any]]
    is_twin: bool

    @property
    def is_last(self) -> bool:
        """Whether these are the last model's weights, of which the test error is; best/ can hold the same."""
        return self.folder.name == "last" or self._digest("last") == self._digest("best")

    def _digest(self, name: str) -> str | None:
        path = self.home / name / "model.safetensors"
        return sha256_of(path) if path.is_file() else None

    def figure(self, key: str, twin: bool = False) -> Figure | None:
        """A key of the results over the rounds like this one, or over their twins; None where one lacks it."""
        values = [result.get(key) for result in self.results if bool(result.get("twin")) == (twin or self.is_twin)]
        numbers = tuple(float(value) for value in values if isinstance(value, (int, float)))
        return Figure(numbers) if numbers and len(numbers) == len(values) else None

    @property
    def seeds(self) -> list[int]:
        return [result.get("seed", 0) for result in self.results if bool(result.get("twin")) == self.is_twin]


def find_source(place: str | Path, weights: str | None = None) -> TrainedRun | Place:
    """Finds what is to be published: a run (see `find_run`), or a folder with config.json and model.safetensors.

    Raises:
        ValueError: neither of them, or as `find_run`.
    """
    name = os.fspath(place)
    if name.startswith(HUB) or is_registered(name):
        what = "lies on the Hub" if name.startswith(HUB) else "is a registered name"
        raise ValueError(
            f"push: got {printable(name)}, which {what} already: expected a run or a folder (`swwae pull` makes one)"
        )
    if rounds_in(user_path(place)):
        return find_run(place, weights)
    found = find_place(place, weights)
    return find_run(found.folder) if found.kind == "run" else found


def find_run(run: str | Path, weights: str | None = None) -> TrainedRun:
    """Finds the weights of a run to publish.

    Args:
        run: what `swwae train --out` was given, one of its rounds, or the best/ or last/ of one. Of several rounds the
            one of the lowest validation error is taken, or the first where none was measured: never by test error.
        weights: "best" or "last"; by default last, since a run's test error is the last model's.

    Raises:
        ValueError: no run there, or one that is not finished.
    """
    run = user_path(run)
    rounds = rounds_in(run)
    found = find_place(_chosen(rounds) if rounds else run, weights)
    if found.config is None:
        raise ValueError(f"{printable(run)} holds no run: expected the folder that `swwae train` wrote")
    folder, config = found.folder, found.config
    home = Path(os.path.abspath(folder)).parent
    result = read_result(home / "result.json")
    if not result:
        raise ValueError(
            f"{printable(home)} is not finished (it has no result.json): "
            f"go on with `swwae train --resume --out {printable(run)}`"
        )
    above = home.parent
    among = _json(above / "results.json", list) or [] if home.name.startswith("seed") else []
    for entry in among:
        _checkread_result(entry, above / "results.json")
    is_twin = home.name.endswith("-twin")
    known = any(entry.get("seed") == config.seed and bool(entry.get("twin")) == is_twin for entry in among)
    recipe = read_run_recipe(above / "config.toml") if known and (above / "config.toml").is_file() else config
    results = among if known else [{**result, "seed": config.seed, "twin": is_twin}]
    return TrainedRun(folder, home, config, recipe, read_provenance(home / "run.json"), result, results, is_twin)


def _chosen(rounds: Sequence[Path]) -> Path:
    finished = [home for home in rounds if not home.name.endswith("-twin") and (home / "result.json").is_file()]
    if not finished:
        raise ValueError(
            f"{rounds[0].parent} has no finished round: go on with `swwae train --resume --out {rounds[0].parent}`"
        )
    errors = [(read_result(home / "result.json") or {}).get("val_error") for home in finished]
    known = [error for error in errors if error is not None]
    return finished[errors.index(min(known))] if len(known) == len(errors) else finished[0]


def _json(path: Path, kind: type = dict) -> Any:
    return read_json(path, kind, "`swwae train` writes it; take the run from a copy, or train it again")


def read_result(path: Path) -> dict[str, Any] | None:
    """result.json, whose figures are numbers or null."""
    content = _json(path)
    return None if content is None else _checkread_result(content, path)


def _checkread_result(content: dict[str, Any], path: Path) -> dict[str, Any]:
    for key in FIGURES:
        value = content.get(key)
        if value is not None and (type(value) not in (int, float) or not math.isfinite(value)):
            raise ValueError(
                f"{printable(path)} says {key} = {printable(repr(value), 50)}, expected a number: "
                "take the run from a copy, or train it again"
            )
    return content


def read_provenance(path: Path) -> dict[str, Any]:
    """run.json: its tables are tables, and what is in them is printable."""
    content = _json(path) or {}
    found: dict[str, Any] = {
        key: content.get(key) and printable(content[key], limit) for key, limit in (("commit", 100), ("command", 4000))
    }
    for key in ("versions", "machine"):
        table = content.get(key) or {}
        if not isinstance(table, dict):
            raise ValueError(
                f"{printable(path)} says {key} = {printable(repr(table), 50)}, expected a table: "
                "take the run from a copy, or leave the file out"
            )
        found[key] = {name: value and printable(value, 100) for name, value in table.items()}
    return found
