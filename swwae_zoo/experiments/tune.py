"""`tune`: what `swwae tune` does. Searches a recipe's numbers on validation images with Optuna.

OUT/study.db            the study (or where --storage says); it holds every trial
OUT/trials/0007/        run directory of trial 7, without its weights once it is finished
OUT/best.toml           the best recipe so far: `swwae train --recipe OUT/best.toml`
OUT/search.png          error over trials, and each parameter against the error
"""

from __future__ import annotations

import contextlib
import json
import math
import sys
import time
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import sqlalchemy
import sqlalchemy.exc
import torch
from optuna.trial import FrozenTrial, TrialState

from swwae_zoo.config import RunConfig, merge, to_toml
from swwae_zoo.config.fields import toml_comment
from swwae_zoo.data import Splits, pinned
from swwae_zoo.experiments.ranges import Range, default_ranges, nested, parse_ranges, value_of
from swwae_zoo.experiments.search_picture import draw_search
from swwae_zoo.models import SWWAE, build_meta
from swwae_zoo.training.build import build_model, input_shape, resolve_device, splits_of, without_weights
from swwae_zoo.training.choices import with_length, with_size
from swwae_zoo.training.progress import Progress
from swwae_zoo.training.rounds import check_before_data
from swwae_zoo.training.run_directory import RunDirectory
from swwae_zoo.training.signals import Interrupt, Stopped
from swwae_zoo.training.trainer import Trainer, lambdas_of
from swwae_zoo.utils.distributed import World
from swwae_zoo.utils.files import atomic_write, user_path
from swwae_zoo.utils.json_files import digest_of
from swwae_zoo.utils.text import printable

__all__ = ["TrialRecord", "TuneResult", "TuneSettings", "tune"]

TRIALS = 30  # where neither their number nor the hours are given
STARTUP = 8  # trials drawn at random before the sampler has something to go by
BEFORE_PRUNING = 4  # finished trials, and
FIRST_JUDGED = 2  # evaluations of a trial, before it may be stopped early
HOPELESS = 3  # failures without a success that end a search, and killed processes that end a trial
HEARTBEAT, GRACE = 20, 90  # seconds: a worker that has been silent for longer than GRACE was killed
# Another machine may say these otherwise and still share the study.
_OF_ONE_MACHINE = {"out", "device", "data_dir", "track", "save_every", "log_every", "rounds", "twin"}
_FROM_DATABASE = (sqlalchemy.exc.SQLAlchemyError, optuna.exceptions.OptunaError, ImportError, RuntimeError)
# What optuna stumbles on in a damaged database.
_DAMAGED = (LookupError, TypeError, AttributeError, AssertionError, OverflowError, UnicodeError, json.JSONDecodeError)
_SEAL = "sha256 of trial "
_WEIGHTS = ("checkpoint.pt", "last/model.safetensors", "last/config.json", "best/model.safetensors", "best/config.json")


@dataclass(frozen=True)
class TuneSettings:
    """How a search is run.

    out: folder for everything that is written.
    trials: trials of the study, whoever ran them; None: no limit if `hours` is given, else TRIALS.
    hours: of this process; a trial that runs then is put aside and goes on next time.
    storage: database URL of the study; "" for OUT/study.db.
    study: its name in that database; "" for MODEL-DATA-LABELS.
    search: KEY=LOW:HIGH[:log] each (see `parse_ranges`); none for `default_ranges`.
    """

    out: Path
    trials: int | None = None
    hours: float | None = None
    storage: str = ""
    study: str = ""
    search: tuple[str, ...] = ()


@dataclass(frozen=True)
class TrialRecord:
    """One trial: its state ("done", "stopped early", "failed"), error (%) as of its last evaluation, and values."""

    number: int
    state: str
    val_error: float | None
    values: dict[str, float]
    reason: str = ""


@dataclass(frozen=True)
class TuneResult:
    """records: finished trials, best first. recipe: of the best, or None. keys: what was searched."""

    records: list[TrialRecord]
    recipe: Path | None
    picture: Path
    keys: list[str]


class TrialFailed(Exception):
    """A trial ended without an error to compare; the study goes on."""


class OutOfTime(Exception):
    """The hours are over in the middle of a trial."""


def tune(recipe: RunConfig | None, overrides: Mapping[str, Any], settings: TuneSettings) -> TuneResult:
    """Goes on with the study, or begins one, until there are enough trials or the time is over.

    Every trial trains on the same labelled images, drawn by the recipe's seed, and is judged by its validation error;
    test images are not looked at. The sampler (TPE) is seeded by the recipe's seed and the trial's number, so a
    study that was stopped between two trials goes on as an unbroken one.

    Args:
        recipe: that is searched around; None for the defaults.
        overrides: flags laid over it, as for `merge`.

    Raises:
        ValueError: anything a user can set right, in one line.
        Stopped: SIGINT or SIGTERM came; the same call goes on.
    """
    if World.from_environment().size > 1:
        raise ValueError("tune runs in one process: start it once on each machine, with the same --storage")
    search = Search(recipe, overrides, settings)
    with Interrupt() as interrupt:
        try:
            search.run(interrupt)
        except Stopped as stop:
            search.write()
            raise Stopped(
                f"stopped; the study is kept: the same command goes on with it ({search.out})", stop.exit_code - 128
            ) from None
    return search.write()


class Search:
    """A study, and what this process needs to run its trials."""

    def __init__(self, recipe: RunConfig | None, overrides: Mapping[str, Any], settings: TuneSettings):
        self.recipe, self.settings, self.out = recipe, settings, user_path(settings.out)
        self.overrides = {**overrides, "rounds": 1, "twin": False, "track": "none", "out": str(self.out)}
        if (self.out / "config.toml").exists() or self.out.is_file():
            raise ValueError(f"{self.out} is a file or holds a run: give another --out")
        self.progress = Progress()
        config = merge(recipe, self.overrides)
        self.device = resolve_device(config.device)
        check_before_data(config, self.device)
        if not config.lambda_nll:
            raise ValueError("lambda_nll: got 0, but trials are compared by their validation error: expected above 0")
        parse_ranges(settings.search, config)
        if config.num_val == 0:
            self.overrides["num_val"] = -1
            self.progress.say("num_val: a tenth of the training images, held out to compare trials by")
        for key in ("data", "unlabeled"):  # a data set of the Hub at one commit for all trials
            if self.recipe is not None and self.overrides.get(key) is None:
                self.recipe = replace(self.recipe, **{key: pinned(getattr(config, key))})
            else:
                self.overrides[key] = pinned(getattr(config, key))
        config = with_size(merge(self.recipe, self.overrides))
        splits = splits_of(config, input_shape(config), tell=self.progress.looked_at)
        if splits.val is None:
            raise ValueError("there are no validation images to compare trials by: give --num-val -1, or a number")
        for note in splits.notes:
            self.progress.say(note)
        # What was left to the data is the same in every trial, and in the recipe that comes out.
        self.config = with_length(config, splits)
        self.overrides |= {"model_args": self.config.model_args}
        if self.config.steps != config.steps:
            self.overrides["steps"] = self.config.steps
        self.space = self._space()
        uses_unlabeled = lambdas_of(self.config).uses_unlabeled or any(r.key.startswith("lambda_") for r in self.space)
        self.splits: Splits = splits._replace(test=None).to(self.device, unlabeled=uses_unlabeled)
        self.study = self._open()
        self.failures = 0

    def _space(self) -> list[Range]:
        config = self.config
        if self.settings.search:
            space = parse_ranges(self.settings.search, config)
        else:
            space = default_ranges(config, _has_dropout(config))
        for one in space:  # both ends must be recipes, alone and together with the others' own values
            for end in (one.low, one.high):
                try:
                    self._config_of({one.key: int(end) if one.whole else end})
                except ValueError as error:
                    raise ValueError(f"search: {one}: {error}") from None
        return space

    def _config_of(self, values: Mapping[str, float], out: Path | None = None) -> RunConfig:
        given = {**self.overrides, **({} if out is None else {"out": str(out)})}
        for key, value in nested(values).items():
            given[key] = {**(given.get(key) or {}), **value} if isinstance(value, dict) else value
        if given.get("steps") and "steps" in values:
            given["epochs"] = 0
        return merge(self.recipe, given)

    # --- the study --------------------------------------------------------------------------------

    def _open(self) -> optuna.Study:
        """The study, made or found in its database.

        Raises:
            ValueError: the database cannot be used, or holds a study of this name with another recipe or search.
        """
        self.out.mkdir(parents=True, exist_ok=True)
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        name = self.settings.study or f"{self.config.model}-{self.config.data}-{self.config.num_labels or 'all'}"
        pruner = optuna.pruners.MedianPruner(BEFORE_PRUNING, n_warmup_steps=FIRST_JUDGED)
        url = self.settings.storage or sqlalchemy.URL.create("sqlite", database=str(self.out / "study.db"))
        with _database_errors(url):
            for wait in (0.5, 1.0, 2.0, None):
                try:
                    study = self._opened(url if isinstance(url, str) else url.render_as_string(False), name, pruner)
                    break
                except sqlalchemy.exc.SQLAlchemyError as error:  # two machines that make the tables at once, say
                    if wait is None or type(error) is sqlalchemy.exc.DatabaseError:  # a damaged file
                        raise
                    time.sleep(wait)
            self._check_same(study)
        return study

    def _opened(self, url: str, name: str, pruner: optuna.pruners.BasePruner) -> optuna.Study:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            storage = optuna.storages.RDBStorage(
                url,
                # A server closes connections that idle through a long trial.
                engine_kwargs={"connect_args": {"timeout": 60}}
                if url.startswith("sqlite")
                else {"pool_pre_ping": True},
                heartbeat_interval=HEARTBEAT,
                grace_period=GRACE,
                heartbeat_stale_trial_callback=go_on_with_killed,
            )
            return optuna.create_study(
                storage=storage,
                sampler=SeededSampler(self.config.seed),
                pruner=pruner,
                study_name=name,
                direction="minimize",
                load_if_exists=True,
            )

    def _check_same(self, study: optuna.Study) -> None:
        recipe = {key: value for key, value in asdict(self.config).items() if key not in _OF_ONE_MACHINE}
        mine = {"recipe": recipe, "search": [str(one) for one in self.space]}
        mine = json.loads(json.dumps(mine))
        theirs = study.user_attrs.get("tune")
        if theirs is None:
            study.set_user_attr("tune", mine)
            own = {"model_args.drop_rate": 0.0}  # where the recipe does not say it
            own |= {one.key: value for one in self.space if (value := value_of(self.config, one.key)) is not None}
            own = {
                one.key: one.nearest(own[one.key])
                for one in self.space
                if type(own.get(one.key)) in (int, float)  # else a list of lambdas, or a name that the recipe lacks
            }
            study.enqueue_trial(own, skip_if_exists=True)  # the recipe as it stands is the first to be beaten
            return
        where = f"the study {study.study_name!r}"
        for key, now in mine["recipe"].items():
            was = theirs["recipe"].get(key)
            if was != now:
                raise ValueError(
                    f"{where} was begun with {key} = {was!r}, got {now!r}: give the same, or another --study or --out"
                )
        if theirs["search"] != mine["search"]:
            raise ValueError(
                f"{where} searches {', '.join(theirs['search'])}, got {', '.join(mine['search'])}: give the same, or "
                "another --study or --out"
            )

    @property
    def finished(self) -> list[FrozenTrial]:
        """Trials that have ended, without those that were put aside to go on under another number."""
        with _database_errors(self.settings.storage or self.out):
            seals = self.study.user_attrs  # first: whatever has one by now has ended, also in the trials read next
            trials = self.study.get_trials(deepcopy=False)
        for trial in trials:
            seal = seals.get(f"{_SEAL}{trial.number}")
            if seal is not None and seal != _digest(trial):
                raise ValueError(
                    f"trial {trial.number} of the study {self.study.study_name!r} is not as it was written (its "
                    "checksum differs): restore the database, or begin another --study"
                )
        replaced = {trial.user_attrs.get("instead_of") for trial in trials}
        return [trial for trial in trials if trial.state.is_finished() and trial.number not in replaced]

    # --- trials -----------------------------------------------------------------------------------

    def run(self, interrupt: Interrupt) -> None:
        """Runs trials until there are enough, or the time is over."""
        hours, wanted = self.settings.hours, self.settings.trials
        wanted = TRIALS if wanted is None and hours is None else wanted
        until = math.inf if hours is None else time.monotonic() + 3600 * hours
        self.progress.say(f"searching {', '.join(map(str, self.space))}")

        def after(study: optuna.Study, trial: FrozenTrial) -> None:
            study.set_user_attr(f"{_SEAL}{trial.number}", _digest(trial))
            self._say(trial, wanted)
            if time.monotonic() > until or wanted is not None and len(self.finished) >= wanted:
                study.stop()

        if wanted is not None and len(self.finished) >= wanted:
            self.progress.say(f"the study has {len(self.finished)} trials already, more with a larger --trials")
            return
        with _database_errors(self.settings.storage or self.out):
            while True:
                try:
                    self.study.optimize(
                        lambda trial: self._objective(trial, interrupt, until), catch=(TrialFailed,), callbacks=[after]
                    )
                    return
                except (ValueError, AssertionError) as error:
                    if not _ended_by_another(error):
                        raise
                if time.monotonic() > until or wanted is not None and len(self.finished) >= wanted:
                    return

    def _objective(self, trial: optuna.Trial, interrupt: Interrupt, until: float) -> float:
        values = {one.key: _suggested(trial, one) for one in self.space}
        folder = self.out / "trials" / f"{trial.user_attrs.get('continues', trial.number):04d}"
        try:
            return self._train(trial, self._config_of(values, folder), folder, interrupt, until)
        except (Stopped, OSError):  # a full disk, say: no other trial would fare better
            put_aside(self.study, trial)
            raise
        except OutOfTime:
            put_aside(self.study, trial)
            raise TrialFailed from None
        except optuna.TrialPruned:
            _remove_weights(folder)
            raise
        except Exception as error:
            reason = " ".join(str(error).split()) or type(error).__name__
            if not isinstance(error, (ValueError, ArithmeticError)):
                reason = f"{type(error).__name__}: {reason}"
            trial.set_user_attr("reason", printable(reason.partition(": the checkpoint of")[0], 300))
            _remove_weights(folder)
            self.failures += 1
            if self.failures >= HOPELESS and not any(t.state == TrialState.COMPLETE for t in self.finished):
                raise ValueError(
                    f"{self.failures} trials failed and none succeeded: {printable(reason, 300)}"
                ) from error
            raise TrialFailed from None

    def _train(self, trial: optuna.Trial, config: RunConfig, folder: Path, interrupt: Interrupt, until: float) -> float:
        goes_on = "continues" in trial.user_attrs and (folder / "checkpoint.pt").is_file()
        directory = RunDirectory(folder, resume=goes_on, force=not goes_on)
        quiet = Progress(quiet=not sys.stderr.isatty())  # elsewhere than on a terminal, a line for each trial is enough
        quiet.title = f"trial {trial.number}: "
        try:
            trainer = Trainer(config, self._model(config), self.splits, directory, self.device, quiet)
            directory.begin(config)
            for line in directory.metrics() if goes_on else ():
                if "val_error" in line:
                    trial.report(line["val_error"], math.ceil(line["step"] / trainer.eval_every))

            def evaluated(step: int, error: float) -> None:
                # By its number, not its step: an evaluation is a share of a run, whatever the run's length.
                number = math.ceil(step / trainer.eval_every)
                trial.report(error, number)
                if step < trainer.steps and trial.should_prune():
                    raise optuna.TrialPruned
                if step < trainer.steps and time.monotonic() > until:
                    raise OutOfTime

            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", "The reported value is ignored")  # of a trial that goes on
                error = trainer.run(interrupt, evaluated)["val_error"]
        finally:
            directory.release()
            if self.device.type == "cuda":
                torch.cuda.empty_cache()
        _remove_weights(folder)
        return error

    def _model(self, config: RunConfig) -> SWWAE:
        return build_model(config, self.splits.num_classes, class_names=self.splits.labeled.class_names)

    # --- what is said and written -----------------------------------------------------------------

    def _say(self, trial: FrozenTrial, wanted: int | None) -> None:
        record, best, finished = record_of(trial), self._best(), self.finished
        if all(trial.number != one.number for one in finished):
            self.progress.say(f"trial {trial.number}: put aside, the same command goes on with it")
            return
        error = "" if record.val_error is None else f", validation error {record.val_error:.2f} %"
        best_said = "" if best is None else f"; best {best.val_error:.2f} %, trial {best.number}"
        of = "" if wanted is None else f" of {wanted}"
        reason = f": {record.reason}" if record.reason else ""
        self.progress.say(f"trial {trial.number}: {record.state}{error}{reason}{best_said}; {len(finished)}{of} done")

    def _best(self) -> TrialRecord | None:
        done = [record for record in map(record_of, self.finished) if record.state == "done"]
        return min(done, key=_rank) if done else None

    def write(self) -> TuneResult:
        """Writes the picture and the best recipe of the study as it is now."""
        records, best = sorted(map(record_of, self.finished), key=_rank), self._best()
        picture, recipe = self.out / "search.png", self.out / "best.toml"
        with atomic_write(picture) as part:
            draw_search(part, sorted(records, key=lambda record: record.number), self.space)
        if best is not None:
            config = replace(self._config_of(best.values), out="", device="auto")
            head = toml_comment(
                f"The best of {len(records)} trials of `swwae tune`: trial {best.number}, validation error "
                f"{best.val_error:.2f} % (the lowest of so many is lower than a fresh one's)"
            )
            with atomic_write(recipe) as part:
                part.write_text(f"{head}\n{to_toml(config, complete=False)}", encoding="utf-8")
        return TuneResult(records, recipe if best is not None else None, picture, [one.key for one in self.space])


class SeededSampler(optuna.samplers.BaseSampler):
    """TPE, seeded anew for each trial by the study's seed and the trial's number.

    So machines that share a study do not draw the same, and one that was stopped between two trials goes on as an
    unbroken one.
    """

    def __init__(self, seed: int):
        self._seed = seed
        self._sampler = self._seeded(0)

    def _seeded(self, number: int) -> optuna.samplers.TPESampler:
        seed = int(np.random.SeedSequence([self._seed, number]).generate_state(1)[0])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            return optuna.samplers.TPESampler(
                n_startup_trials=STARTUP, multivariate=True, constant_liar=True, seed=seed
            )

    def before_trial(self, study: optuna.Study, trial: FrozenTrial) -> None:
        self._sampler = self._seeded(trial.number)

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, Any]:
        return self._sampler.infer_relative_search_space(study, trial)

    def sample_relative(self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, Any]) -> dict[str, Any]:
        return self._sampler.sample_relative(study, trial, search_space)

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: Any
    ) -> Any:
        return self._sampler.sample_independent(study, trial, param_name, param_distribution)


def put_aside(study: optuna.Study, trial: optuna.Trial | FrozenTrial, killed: int = 0) -> None:
    """Queues a trial that was stopped: it goes on in its folder, if that is there, under another number.

    Args:
        killed: how often its process was killed in the middle of it.
    """
    folder = trial.user_attrs.get("continues", trial.number)
    facts = {"continues": folder, "instead_of": trial.number, "killed": killed}
    study.enqueue_trial(trial.params, user_attrs=facts)


def go_on_with_killed(study: optuna.Study, trial: FrozenTrial) -> None:
    """Queues a trial whose process has been silent for too long, unless it has brought down several."""
    killed = trial.user_attrs.get("killed", 0) + 1
    if killed < HOPELESS:
        put_aside(study, trial, killed)


def _ended_by_another(error: Exception) -> bool:
    """Whether a trial could not be ended because another process had done so.

    It took the same waiting trial, or took this process for killed while it was only slow or asleep. Where the trial
    was set to failed, optuna raises an assertion over its own error.
    """
    return any("Cannot tell a" in str(each) for each in (error, error.__context__))


def record_of(trial: FrozenTrial) -> TrialRecord:
    """A finished trial as it is shown."""
    states = {TrialState.COMPLETE: "done", TrialState.PRUNED: "stopped early", TrialState.FAIL: "failed"}
    last = trial.intermediate_values.get(max(trial.intermediate_values, default=0))
    error = trial.value if trial.state == TrialState.COMPLETE else last
    reason = str(trial.user_attrs.get("reason", "its process was killed")) if trial.state == TrialState.FAIL else ""
    return TrialRecord(trial.number, states[trial.state], error, dict(trial.params), reason)


def _digest(trial: FrozenTrial) -> str:
    """Of what a finished trial's record is made of, and of what tells how it came about."""
    steps = {str(step): value for step, value in trial.intermediate_values.items()}
    return digest_of([trial.number, trial.state.name, trial.values, trial.params, steps, trial.user_attrs])


def _rank(record: TrialRecord) -> tuple[bool, float, int]:
    return record.state != "done", math.inf if record.val_error is None else record.val_error, record.number


def _suggested(trial: optuna.Trial, one: Range) -> float:
    if one.whole:
        return trial.suggest_int(one.key, int(one.low), int(one.high), log=one.log)
    return trial.suggest_float(one.key, one.low, one.high, log=one.log)


def _has_dropout(config: RunConfig) -> bool:
    """Whether `drop_rate` reaches a layer of the model."""
    if "drop_rate" in config.model_args:
        return True
    try:
        model = build_meta(config.model, {**without_weights(config.model_args), "drop_rate": 0.25})
    except ValueError:
        return False
    return any(0.25 in (getattr(module, "drop_rate", None), getattr(module, "p", None)) for module in model.modules())


def _remove_weights(folder: Path) -> None:
    """A finished trial keeps its recipe, metrics and curves; many trials' weights would fill a disk."""
    for name in _WEIGHTS:
        (folder / name).unlink(missing_ok=True)
    for name in ("last", "best"):
        with contextlib.suppress(OSError):  # not there, or not empty
            (folder / name).rmdir()


@contextlib.contextmanager
def _database_errors(url: Any) -> Iterator[None]:
    """What the database refuses, in one line, without its password."""
    try:
        yield
    except (*_FROM_DATABASE, *_DAMAGED) as error:
        shown, secret = str(url), None
        with contextlib.suppress(sqlalchemy.exc.ArgumentError):
            made = sqlalchemy.make_url(url) if not isinstance(url, Path) else None
            if made is not None:
                shown, secret = made.render_as_string(hide_password=True), made.password
        cause: BaseException = error
        while cause.__cause__ is not None:
            cause = cause.__cause__
        why = " ".join(str(cause).split()) or type(cause).__name__
        why = f"it is damaged ({type(cause).__name__}: {why})" if isinstance(error, _DAMAGED) else why
        why = why.replace(str(secret), "***") if secret else why
        raise ValueError(
            f"storage: {printable(shown)} cannot be used: {printable(why, 300)}; expected sqlite:///FILE, or the URL "
            "of a database whose driver is installed"
        ) from None
