"""Runs of an experiment: each is trained once, resumes where it was stopped, and leaves one JSON record.

OUT/runs/NAME/seed0/             run directory, as of `swwae train`
OUT/runs/NAME/seed0-twin/        run directory of its twin, with every lambda but lambda_nll at 0
OUT/records/NAME-seed0.json      its result; while this file exists the run is not repeated
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from swwae_zoo.config import MAY_CHANGE_ON_RESUME, RunConfig, lambdas
from swwae_zoo.training.rounds import runs_of, train_rounds
from swwae_zoo.training.run_directory import RunDirectory
from swwae_zoo.utils.files import atomic_write

__all__ = ["ExperimentSettings", "read_records", "rounds_of", "run_folder", "run_once", "write_records"]

RESULTS = ("val_error", "best_val_error", "test_error", "test_rec", "steps", "seconds")
PROVENANCE = ("command", "commit", "versions", "machine", "resumed")
QUICK_STEPS = 20


@dataclass(frozen=True)
class ExperimentSettings:
    """What `swwae reproduce` sets for every recipe of a target.

    out: folder for everything that is written.
    rounds: number of rounds of each row; None takes the recipe's.
    quick: a few small steps, to check that everything runs; the figures mean nothing.
    device: as in recipes.
    search: choose each row's lambda on validation images first.
    data_dir: where data sets lie; "" = as in recipes.
    """

    out: Path
    rounds: int | None = None
    quick: bool = False
    device: str = "auto"
    search: bool = False
    data_dir: str = ""

    def applied_to(self, config: RunConfig) -> RunConfig:
        """The recipe with these settings."""
        rounds = config.rounds if self.rounds is None else self.rounds
        config = replace(config, device=self.device, rounds=rounds, data_dir=self.data_dir or config.data_dir)
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


def rounds_of(config: RunConfig, settings: ExperimentSettings, twin: bool = False) -> list[tuple[RunConfig, bool]]:
    """The recipe of each single run of a row, and whether it is a twin."""
    return runs_of(replace(settings.applied_to(config), twin=twin))


def run_folder(settings: ExperimentSettings, name: str, seed: int, twin: bool = False) -> Path:
    """Run directory of one round of a row."""
    return settings.out / "runs" / name / f"seed{seed}{'-twin' * twin}"


def run_once(
    config: RunConfig, name: str, settings: ExperimentSettings, twin: bool = False, **also: Any
) -> dict[str, Any]:
    """Trains one run unless that is done, and returns its record.

    Args:
        config: recipe; one round of it, with its seed, is trained.
        name: of the row.
        twin: whether the run is a twin; only its name depends on it.
        also: further fields of the record.

    Returns:
        "name", "seed", "twin", one "lambda_..." for each term but the NLL, errors and seconds of `train_rounds`,
        command, commit, versions and machine, and under "recipe" every key.

    Raises:
        ValueError: the run was done or begun with another recipe, and everything `train_rounds` raises.
    """
    folder = run_folder(settings, name, config.seed, twin)
    config = replace(settings.applied_to(config), rounds=1, twin=False, out=str(folder))
    file = settings.out / "records" / f"{name}-{folder.name}.json"
    if file.is_file():
        record = json.loads(file.read_text(encoding="utf-8"))
        _check_same(record["recipe"], config, file)
        return record
    result = train_rounds(config, resume=(folder / "config.toml").is_file())[0]
    provenance = RunDirectory(folder, resume=True).read_json("run.json") or {}
    record = {
        "name": name,
        "seed": config.seed,
        "twin": twin,
        **{f"lambda_{term}": weight for term, weight in lambdas(config).items() if term != "nll"},
        **{key: result[key] for key in RESULTS},
        **also,
        "quick": settings.quick,
        **{key: provenance[key] for key in PROVENANCE if key in provenance},
        "recipe": asdict(config),
    }
    _write_json(file, record)
    return record


def read_records(settings: ExperimentSettings, name: str = "") -> list[dict[str, Any]]:
    """Records in ``out``, of one row or of all, ordered by name and seed."""
    files = (settings.out / "records").glob("*.json")
    records = [json.loads(file.read_text(encoding="utf-8")) for file in files]
    return sorted((r for r in records if name in ("", r["name"])), key=lambda r: (r["name"], r["seed"], r["twin"]))


def write_records(settings: ExperimentSettings, target: str) -> None:
    """All records in one file, OUT/TARGET.json, without this machine's paths."""
    records = [
        {
            **record,
            "command": str(record.get("command", "")).replace(str(settings.out), settings.out.name),
            "recipe": {k: v for k, v in record["recipe"].items() if k not in ("out", "init", "data_dir")},
        }
        for record in read_records(settings)
    ]
    _write_json(settings.out / f"{target}.json", records)


def _write_json(file: Path, content: Any) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(file) as part:
        part.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _check_same(was: dict[str, Any], config: RunConfig, file: Path) -> None:
    """A record of another recipe must not pass for this one's; where files lie makes no difference."""
    for key, now in asdict(config).items():
        if key in MAY_CHANGE_ON_RESUME or key == "init" and bool(was.get(key)) == bool(now):
            continue
        if was.get(key) != now:
            raise ValueError(
                f"{file} is of a run with {key} = {was.get(key)!r}, got {now!r}: give another --out, or remove it"
            )
