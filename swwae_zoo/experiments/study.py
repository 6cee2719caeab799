"""Searches over a grid, as Optuna studies that many workers share without doing a point twice.

Every point of the grid is put into the study's queue once, and taken from it by whoever is free; the database
decides who got it.  Two workers that begin at the same moment may both fill the queue: the later copy of a point
is then pruned unrun.  A worker that dies stops its heartbeat, and its point is queued again.
"""

from __future__ import annotations

import json
import time
import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from swwae_zoo.experiments.runs import Setting

__all__ = ["search"]

Point = dict[str, float]
HEARTBEAT, GRACE, POLL = 20, 90, 2.0  # seconds


def search(
    name: str, points: Sequence[Point], evaluate: Callable[[Point], dict[str, Any]], setting: Setting
) -> list[dict[str, Any]]:
    """What every point gives, found by this worker or another.

    Args:
        name: of the study.
        points: recipe keys and their values.
        evaluate: trains at a point and gives what is to be kept, "val_error" among it, which the study minimises.

    Returns:
        For each point, in order, what `evaluate` gave.

    Raises:
        ValueError: Optuna is not installed, or its database can't be opened.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import optuna
    except ImportError:
        raise ValueError("searches need Optuna: pip install 'swwae_zoo[search]'") from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = _open(optuna, name, setting)

    def objective(trial: Any) -> float:
        point = trial.user_attrs.get("point")
        if point is None or _done_elsewhere(study, trial.number, point):
            raise optuna.TrialPruned
        for key, value in point.items():
            trial.suggest_float(key, value, value)
        found = evaluate(point)
        trial.set_user_attr("found", found)
        return found["val_error"]

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        while True:
            optuna.storages.fail_stale_trials(study)
            trials = study.get_trials(deepcopy=False)
            taken = {
                _key(t.user_attrs.get("point")) for t in trials if t.state.name in ("WAITING", "RUNNING", "COMPLETE")
            }
            for point in points:
                if _key(point) not in taken:
                    study.enqueue_trial(point, user_attrs={"point": point})
            states = {
                t.state.name
                for t in study.get_trials(deepcopy=False)
                if _key(t.user_attrs.get("point")) in map(_key, points)
            }
            if "WAITING" in states:
                with suppress(
                    optuna.exceptions.UpdateFinishedTrialError
                ):  # this worker was taken for dead: another has the trial
                    study.optimize(objective, n_trials=1)
            elif "RUNNING" in states:
                time.sleep(POLL)  # another worker has the last points
            else:
                break
    complete = {
        _key(t.user_attrs["point"]): t.user_attrs["found"]
        for t in study.get_trials(deepcopy=False)
        if t.state.name == "COMPLETE"
    }
    return [complete[_key(point)] for point in points]


def _open(optuna: Any, name: str, setting: Setting) -> Any:
    url = setting.storage
    if not url:
        setting.out.mkdir(parents=True, exist_ok=True)
        url = f"sqlite:///{(setting.out / 'search.db').resolve()}"
    arguments = {"connect_args": {"timeout": 60}} if url.startswith("sqlite") else {"pool_pre_ping": True}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            storage = optuna.storages.RDBStorage(
                url, engine_kwargs=arguments, heartbeat_interval=HEARTBEAT, grace_period=GRACE
            )
            if url.startswith("sqlite"):
                _one_writer_at_a_time(storage.engine)
            return optuna.create_study(storage=storage, study_name=name, load_if_exists=True, direction="minimize")
    except Exception as error:  # SQLAlchemy's, the driver's, Optuna's own
        raise ValueError(
            f"storage: {url.partition('@')[2] or url} can't be opened: {' '.join(str(error).split()):.200}"
        ) from error


def _one_writer_at_a_time(engine: Any) -> None:
    """Lets every transaction lock the SQLite file before it reads.

    Python's sqlite3 begins a transaction at the first write only, so two workers that look at a trial in the same
    millisecond would both find it free and take it.
    """
    from sqlalchemy import event

    event.listen(engine, "connect", lambda connection, _: setattr(connection, "isolation_level", None))
    event.listen(engine, "begin", lambda connection: connection.exec_driver_sql("BEGIN IMMEDIATE"))
    engine.dispose()  # connections of before


def _done_elsewhere(study: Any, number: int, point: Point) -> bool:
    """Whether this trial is a copy: the queue gives out the lowest number first, so an earlier copy is under way or done."""
    return any(
        t.number < number and t.state.name in ("RUNNING", "COMPLETE") and _key(t.user_attrs.get("point")) == _key(point)
        for t in study.get_trials(deepcopy=False)
    )


def _key(point: Point | None) -> str:
    return json.dumps(point, sort_keys=True)
