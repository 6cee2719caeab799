"""Runs of an experiment: each is done once, goes on where it was stopped, and leaves one JSON record.

OUT/runs/NAME/seed0/             the run directory, as of `swwae train`
OUT/runs/NAME/seed0-twin/        its lambda = 0 twin
OUT/records/NAME-seed0.json      what came out of it; while it is there the run is not done again
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from swwae_zoo.config import RunConfig, lambdas
from swwae_zoo.training.rounds import MAY_CHANGE_ON_RESUME, runs_of, train_rounds
from swwae_zoo.training.run_directory import RunDirectory
from swwae_zoo.utils.files import atomic_write

__all__ = ["Setting", "keep", "read_records", "rounds_of", "run_once", "write_all", "write_text"]

KEPT = ("val_error", "best_val_error", "test_error", "test_rec", "steps", "seconds")
QUICK_STEPS = 20


@dataclass(frozen=True)
class Setting:
    """What a call of `swwae reproduce` says beyond the recipes.

    out: folder of everything that is written.
    rounds: of each row; None takes the recipe's.
    quick: a few small steps, to see that all of it works; its figures mean nothing.
    device: as in recipes.
    storage: address of the database that Optuna's studies lie in; "" for a file in ``out``.
    search: choose lambda of each row on validation images first.
    """

    out: Path
    rounds: int | None = None
    quick: bool = False
    device: str = "auto"
    storage: str = ""
    search: bool = False

    def applied_to(self, config: RunConfig) -> RunConfig:
        """The recipe as this call runs it."""
        config = replace(config, device=self.device, rounds=config.rounds if self.rounds is None else self.rounds)
        if not self.quick:
            return config
        return replace(
            config,
            steps=QUICK_STEPS,
            epochs=0,
            warmup_steps=0,
            rounds=min(config.rounds, 2),
            num_val=min(config.num_val, 500),
            batch_size=min(config.batch_size, 16),
            labeled_batch=min(config.labeled_batch, 16),
            eval_every=QUICK_STEPS,
            save_every=QUICK_STEPS,
            log_every=QUICK_STEPS,
        )


def rounds_of(config: RunConfig, name: str, setting: Setting, twin: bool) -> Iterator[tuple[RunConfig, bool]]:
    """Every single run of a row, each with a folder of its own, and whether it is a twin."""
    for run, is_twin in runs_of(setting.applied_to(replace(config, twin=twin))):
        yield (
            replace(run, out=str(setting.out / "runs" / name / f"seed{run.seed}{'-twin' if is_twin else ''}")),
            is_twin,
        )


def run_once(config: RunConfig, name: str, setting: Setting, twin: bool = False, **also: Any) -> dict[str, Any]:
    """Trains one run unless that is done, and gives its record.

    Args:
        config: one round, without a twin, with its folder.
        name: of the row.
        also: what else the record is to hold.

    Returns:
        "name", "seed", "twin", "lambda_rec", "lambda_middle", "lambda_l1", errors and time of `train_rounds`; command,
        commit, versions and machine; under "recipe" every key.

    Raises:
        ValueError: it was done or begun with another recipe, and what `train_rounds` raises.
    """
    file = setting.out / "records" / f"{name}-{Path(config.out).name}.json"
    if file.is_file():
        record = json.loads(file.read_text(encoding="utf-8"))
        _check_same(record["recipe"], config, file)
        return record
    result = train_rounds(config, resume=(Path(config.out) / "config.toml").is_file())[0]
    provenance = RunDirectory(config.out, resume=True).read_json("run.json") or {}
    record = {
        "name": name,
        "seed": config.seed,
        "twin": twin,
        **{f"lambda_{name}": weight for name, weight in lambdas(config).items() if name != "nll"},
        **{key: result[key] for key in KEPT},
        **also,
        "quick": setting.quick,
        **{
            key: provenance.get(key)
            for key in ("command", "commit", "versions", "machine", "resumed")
            if key in provenance
        },
        "recipe": asdict(config),
    }
    keep(record, setting)
    return record


def keep(record: dict[str, Any], setting: Setting) -> None:
    """Writes the record of a run that may have been done on another machine."""
    twin = "-twin" if record["twin"] else ""
    file = setting.out / "records" / f"{record['name']}-seed{record['seed']}{twin}.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(file) as part:
        part.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


def read_records(setting: Setting, name: str = "") -> list[dict[str, Any]]:
    """Records that lie in ``out``, of one row or of all, by name and seed."""
    files = sorted((setting.out / "records").glob("*.json"))
    records = [json.loads(file.read_text(encoding="utf-8")) for file in files]
    return sorted(
        (r for r in records if not name or r["name"] == name), key=lambda r: (r["name"], r["seed"], r["twin"])
    )


def write_all(setting: Setting, target: str) -> None:
    """All records as one file, OUT/TARGET.json, without paths of this machine."""
    records = [
        {
            **record,
            "command": str(record.get("command", "")).replace(str(setting.out), setting.out.name),
            "recipe": {k: v for k, v in record["recipe"].items() if k not in ("out", "init", "data_dir")},
        }
        for record in read_records(setting)
    ]
    setting.out.mkdir(parents=True, exist_ok=True)
    with atomic_write(setting.out / f"{target}.json") as part:
        part.write_text(json.dumps(records, indent=2) + "\n", encoding="utf-8")


def write_text(setting: Setting, name: str, text: str) -> None:
    setting.out.mkdir(parents=True, exist_ok=True)
    with atomic_write(setting.out / name) as part:
        part.write_text(text, encoding="utf-8")


def _check_same(was: dict[str, Any], config: RunConfig, file: Path) -> None:
    """A record of another recipe must not pass for this one's; where files lie makes no difference."""
    for key, now in asdict(config).items():
        if key in MAY_CHANGE_ON_RESUME or key == "init" and bool(was.get(key)) == bool(now):
            continue
        if was.get(key) != now:
            raise ValueError(
                f"{file} is of a run with {key} = {was.get(key)!r}, got {now!r}: give another --out, or remove it"
            )
