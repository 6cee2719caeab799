"""`train_rounds`: what `swwae train` does.  Each round draws its labels anew and trains one net on them;
with ``twin`` also the plain convnet: the same recipe and seeds, every lambda but lambda_nll 0."""

from __future__ import annotations

import math
import shlex
import statistics
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from swwae_zoo.config import RunConfig, fixed_keys, read_run_recipe, without_lambdas
from swwae_zoo.data import Splits, pinned, unpinned
from swwae_zoo.models import build_meta
from swwae_zoo.models import swwae as _registers_the_models  # noqa: F401
from swwae_zoo.optim.optimizer import create_optimizer
from swwae_zoo.task import SWWAETask
from swwae_zoo.training.build import build_model, initial_weights, input_shape, resolve_device, splits_of
from swwae_zoo.training.choices import stored_size, with_length, with_size
from swwae_zoo.training.places import find_place
from swwae_zoo.training.progress import Progress
from swwae_zoo.training.run_directory import Elsewhere, RunDirectory
from swwae_zoo.training.signals import Interrupt
from swwae_zoo.training.start import next_steps, start_block
from swwae_zoo.training.track import check_service
from swwae_zoo.training.trainer import Observer, Trainer, lambdas_of, view_of
from swwae_zoo.utils.distributed import World, connected
from swwae_zoo.utils.files import user_path
from swwae_zoo.utils.precision import Autocast

__all__ = ["best_run", "out_of", "summary", "train_rounds"]

_NO_PATH = str.maketrans(":/\\", "___")


def train_rounds(
    config: RunConfig,
    *,
    resume: bool = False,
    force: bool = False,
    notes: Sequence[str] = (),
    progress: Progress | None = None,
    observe: Observer | None = None,
) -> list[dict[str, Any]]:
    """Run every round of ``config`` and write each to its own folder under ``config.out``.

    One round without a twin is written to ``out`` itself; otherwise each goes to ``out/seedN`` and its twin
    to ``out/seedN-twin``, with all results in ``out/results.json``.

    Args:
        config: the complete recipe.
        resume: go on where a stopped run was; rounds that are finished are not run again.
        force: start over in a folder that already holds a run.
        notes: lines to be said when the run begins.
        progress: told what happens; on standard error by default.
        observe: see `Trainer`; such as `swwae_zoo.publish.report.Pages()`, which writes report.html.

    Returns:
        In rank 0 one dict a run, in other processes none: "seed", "twin", "val_error", "test_error" (%, None without
        such a set or without lambda_nll), "test_rec" (L2rec; None without a decoder), "steps", "seconds", ...

    Raises:
        ValueError: anything a user can set right, in one line; what can be known beforehand, before a file is written.
        Stopped: SIGINT or SIGTERM came; `resume` goes on.
    """
    world = World.from_environment()
    device = resolve_device(config.device, world)
    with Interrupt(patient=world.launched) as interrupt, connected(world, device), ExitStack() as stack:
        progress = progress or Progress(quiet=not world.first)
        interrupt.tell = progress.acknowledge
        results = _train_rounds(config, resume, force, world, device, interrupt, notes, stack, progress, observe)
    return results if world.first else []


def _train_rounds(
    config: RunConfig,
    resume: bool,
    force: bool,
    world: World,
    device: torch.device,
    interrupt: Interrupt,
    notes: Sequence[str],
    stack: ExitStack,
    progress: Progress,
    observe: Observer | None,
) -> list[dict[str, Any]]:
    check_service(config.track)
    check_before_data(config, device)
    out = out_of(config)
    if world.restarts and RunDirectory.begun_by(out, world.job):  # the launcher's command line is that of the start
        resume, force = True, False
    config = pinned_data(replace(config, out=str(out)), out, resume, world)
    config = as_begun(config, out) if resume else with_size(config)
    shape = input_shape(config)
    if resume and world.first:
        check_same_run(config, out)

    def directory_of(path: str | Path) -> RunDirectory:
        directory = RunDirectory(path, resume, force) if world.first else Elsewhere(path)
        stack.callback(directory.release)
        return directory

    root = directory_of(out)
    runs = runs_of(config)
    results: list[dict[str, Any]] = []
    seed = None
    splits: Splits | None = None
    for number, (run, twin) in enumerate(runs, 1):
        if run.seed != seed:
            splits = None  # this round's images first make room for the next's
            with world.one_per_machine_first():
                read = splits_of(run, shape, progress.looked_at)
            splits, seed = read.to(device, unlabeled=lambdas_of(run).uses_unlabeled), run.seed
            del read
            for note in splits.notes:
                progress.say(note)
        assert splits is not None
        config, run = with_length(config, splits), with_length(run, splits)
        progress.title = f"net {number} of {len(runs)}: " if len(runs) > 1 else ""
        directory = root if len(runs) == 1 else directory_of(run.out)
        goes_on = resume and (directory.path / "checkpoint.pt").is_file()
        model = build_model(
            run, splits.num_classes, world, splits.labeled.class_names, progress.say, weights=not goes_on
        )
        trainer = Trainer(run, model, splits, directory, device, progress, world, observe)
        if not results:  # all that can be wrong with the input is known by now
            root.begin(config, world.job, {"data": what_was_read(splits)})
            for note in notes:
                progress.say(note)
            precision = str(trainer.autocast.dtype or torch.float32).removeprefix("torch.")
            progress.show(
                start_block(
                    config, splits, model, device, precision, trainer.steps, len(runs), stored_size(config, splits)
                )
            )
            interrupt.advice = f"go on with: swwae train --resume --out {shlex.quote(str(out))}"
        if directory is not root:
            directory.begin(run)
        directory.track(run)
        results.append({**trainer.run(interrupt), "seed": seed, "twin": twin})
        directory.end_tracking()
        del trainer  # its model and optimiser make room for the next
        if directory is not root:
            root.write_json("results.json", results)
        if len(results) < len(runs):
            interrupt.check(f"stopped when {directory.path} was finished", world.maximum(interrupt.signal_number))
    for line in next_steps(out, best_run(out, results), lambdas_of(config).classifies):
        progress.say(line)
    return results


def out_of(config: RunConfig) -> Path:
    """The run directory: the recipe's, else runs/MODEL-DATA-LABELS."""
    name = f"{config.model}-{config.data}-{config.num_labels or 'all'}"
    return user_path(config.out or f"runs/{name.translate(_NO_PATH)}")


def best_run(out: Path, results: list[dict[str, Any]]) -> Path:
    """The directory of the net with the lowest validation error (the first without one), no twin."""
    if len(results) < 2:
        return out
    nets = [result for result in results if not result["twin"]]
    errors = [math.inf if result["val_error"] is None else result["val_error"] for result in nets]
    return out / f"seed{nets[errors.index(min(errors))]['seed']}"


def check_before_data(config: RunConfig, device: torch.device) -> None:
    """Whatever can be wrong with a recipe and is known without its data.

    Raises:
        ValueError: one line.
    """
    model = build_meta(config.model, config.model_args)
    Autocast(config.amp, device)
    create_optimizer(replace(config, lr_encoder=0.0, layer_decay=1.0), nn.Linear(1, 1))  # its name and its betas
    SWWAETask(model, lambdas_of(config), device=torch.device("meta"))
    if config.model_args.get("img_size") or config.model.partition(".")[0] != "swwae_wrap":
        for which in ("weak", "strong"):
            view_of(config, which, model.img_size)
    source = initial_weights(config)
    if source and not user_path(source).is_file():
        find_place(source, net_only=True)


def pinned_data(config: RunConfig, out: Path, resume: bool, world: World) -> RunConfig:
    """The recipe with the commit of each data set of the Hub; a resumed run keeps those that it began with."""

    def resolve() -> dict[str, str]:
        begun = read_run_recipe(out / "config.toml") if resume and (out / "config.toml").is_file() else None
        found = {}
        for key in ("data", "unlabeled"):
            now, was = getattr(config, key), getattr(begun, key, "")
            found[key] = was if was and unpinned(was) == now else pinned(now)
        return found

    return replace(config, **world.from_first(resolve))


def what_was_read(splits: Splits) -> dict[str, dict[str, Any]]:
    """Source, number and fingerprint of each part of the data, by which a later run can be compared."""
    parts = {name: getattr(splits, name) for name in ("labeled", "unlabeled", "val", "test")}
    return {
        name: {"source": images.name, "images": images.count, "fingerprint": images.fingerprint()}
        for name, images in parts.items()
        if images is not None
    }


def runs_of(config: RunConfig) -> list[tuple[RunConfig, bool]]:
    """The recipe of each single run, and whether it is a twin: the same seeds and labels, every lambda but
    lambda_nll 0, and so the plain convnet."""
    many = config.rounds > 1 or config.twin
    runs = []
    for seed in range(config.seed, config.seed + config.rounds):
        for twin in (False, True) if config.twin else (False,):
            folder = f"{config.out}/seed{seed}{'-twin' if twin else ''}" if many else config.out
            run = replace(config, seed=seed, rounds=1, twin=False, out=folder)
            runs.append((without_lambdas(run) if twin else run, twin))
    return runs


def as_begun(config: RunConfig, out: Path) -> RunConfig:
    """What was chosen from the data when the run in ``out`` was begun, where ``config`` leaves it open again."""
    file = out / "config.toml"
    before = read_run_recipe(file) if file.is_file() else config
    size = before.model_args.get("img_size")
    if size is not None and "img_size" not in config.model_args:
        config = replace(config, model_args={**config.model_args, "img_size": size})
    return replace(config, steps=before.steps) if config.steps < 0 and not before.epochs else config


def check_same_run(config: RunConfig, out: Path) -> None:
    """A resumed run must go on as it began, or its result would be of no recipe at all.

    Raises:
        ValueError: ``out`` holds no run, or one begun with another value of a key.
    """
    if not (out / "config.toml").exists():
        raise ValueError(f"{out} holds no run to resume: leave --resume out, or give the run's --out")
    before = read_run_recipe(out / "config.toml")
    for (name, was), now in zip(fixed_keys(before).items(), fixed_keys(config).values(), strict=True):
        if was != now:
            raise ValueError(
                f"{out} was begun with {name} = {was!r}, got {now!r}: resume without it, or give another --out"
            )
    if (len(runs_of(before)) > 1) != (len(runs_of(config)) > 1):
        raise ValueError(
            f"{out} was begun with rounds = {before.rounds}, twin = {before.twin}; one run alone lies in another "
            "place than several: resume with the same, or give another --out"
        )


def summary(results: list[dict[str, Any]]) -> list[str]:
    """Test (else validation) error of the runs and of their twins, as mean and sample standard deviation; without
    either, the test images' reconstruction loss."""
    for key, name, digits in (
        ("test_error", "test error", ".2f"),
        ("val_error", "validation error", ".2f"),
        ("test_rec", "test reconstruction loss", ".5f"),
    ):
        unit = " %" if key.endswith("error") else ""
        lines = []
        for twin, kind in ((False, "SWWAE"), (True, "twin, lambda = 0")):
            values = [result[key] for result in results if result["twin"] == twin]
            if values and None not in values:
                spread = f" ± {statistics.stdev(values):{digits}} over {len(values)} rounds" if len(values) > 1 else ""
                lines.append(f"{name}  {kind:16s} {statistics.mean(values):6{digits}}{unit}{spread}")
        if lines:
            return lines
    return []
