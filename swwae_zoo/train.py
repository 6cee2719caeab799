"""`train_rounds`: what `swwae train` does.  Each round draws its labels anew and trains one net on them;
with ``twin`` also the same convnet under the same recipe and seeds with lambda_rec = lambda_middle = 0."""
from __future__ import annotations

import json
import statistics
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import timm
import torch

from . import swwae as _registers_the_models  # noqa: F401
from .config import RunConfig, read_recipe, to_toml
from .data import Splits, make_splits
from .describe import check_model_name
from .progress import Progress
from .run_directory import RunDirectory, atomic_write
from .swwae import SWWAE
from .trainer import Trainer

__all__ = ["build_model", "input_shape", "resolve_device", "train_rounds"]


def train_rounds(config: RunConfig, *, resume: bool = False, force: bool = False) -> list[dict[str, Any]]:
    """Run every round of ``config`` and write each to its own folder under ``config.out``.

    One round without a twin is written to ``out`` itself; otherwise each goes to ``out/seedN`` and its twin
    to ``out/seedN-twin``, with all results in ``out/results.json``.

    Args:
        config: the complete recipe.
        resume: go on where a stopped run was; rounds that are finished are not run again.
        force: start over in a folder that already holds a run.

    Returns:
        One dict a run: "seed", "twin", "val_error", "test_error" (%, None without such a set), "steps", "seconds"...

    Raises:
        ValueError: anything a user can set right, in one line.
    """
    device = resolve_device(config.device)
    check_model_name(config.model)
    out = Path(config.out or f"runs/{config.model}-{config.data.replace(':', '_').replace('/', '_')}"
                             f"-{config.num_labels or 'all'}")
    config = replace(config, out=str(out))
    many = config.rounds > 1 or config.twin
    if resume:
        check_same_run(config, out)
    progress = Progress()
    if many:
        start_rounds(config, out, resume, force)
    results = []
    for seed in range(config.seed, config.seed + config.rounds):
        one = replace(config, seed=seed, rounds=1, twin=False)
        splits = splits_of(one)
        for twin in (False, True) if config.twin else (False,):
            folder = out / f"seed{seed}{'-twin' if twin else ''}" if many else out
            part = replace(one, out=str(folder), **(dict(lambda_rec=0.0, lambda_middle=0.0) if twin else {}))
            directory = RunDirectory(folder, resume=resume, force=force)
            trainer = Trainer(part, build_model(part, splits.num_classes), splits, directory, device, progress)
            result = {**trainer.run(), "seed": seed, "twin": twin}
            results.append(result)
            if many:
                with atomic_write(out / "results.json") as file:
                    file.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    progress.say(summary(results))
    return results


MAY_CHANGE_ON_RESUME = {"out", "device", "data_dir", "eval_every", "save_every", "log_every", "rounds", "twin"}


def check_same_run(config: RunConfig, out: Path) -> None:
    """A resumed run must go on as it began, or its result would be of no recipe at all."""
    if not (out / "config.toml").exists():
        raise ValueError(f"{out} holds no run to resume: leave --resume out, or give the run's --out")
    before = read_recipe(out / "config.toml")
    for key in fields(config):
        was, now = getattr(before, key.name), getattr(config, key.name)
        if was != now and key.name not in MAY_CHANGE_ON_RESUME:
            raise ValueError(f"{out} was begun with {key.name} = {was!r}, got {now!r}: resume without it, or give another --out")


def start_rounds(config: RunConfig, out: Path, resume: bool, force: bool) -> None:
    """The folder above the rounds holds the recipe of them all."""
    if (out / "config.toml").exists() and not (resume or force):
        raise ValueError(f"{out} already holds a run: --resume goes on with it, --force starts over, or give another --out")
    out.mkdir(parents=True, exist_ok=True)
    with atomic_write(out / "config.toml") as file:
        file.write_text(to_toml(config), encoding="utf-8")


def splits_of(config: RunConfig) -> Splits:
    """The data of one round; the seed decides which images are labelled and which validate."""
    shape = input_shape(config)
    return make_splits(
        data=config.data, unlabeled=config.unlabeled, num_labels=config.num_labels, num_val=config.num_val,
        seed=config.seed, data_dir=config.data_dir or None, img_size=shape[1:], in_chans=shape[0],
        bad_images=config.bad_images,
    )


def input_shape(config: RunConfig) -> tuple[int, int, int]:
    """(C, H, W) the model is built for: its default, or model_args' in_chans and img_size."""
    cfg = timm.get_pretrained_cfg(config.model)
    chans, height, width = cfg.input_size
    size = config.model_args.get("img_size")
    return config.model_args.get("in_chans", chans), size or height, size or width


def build_model(config: RunConfig, num_classes: int) -> SWWAE:
    """The model of ``config``, initialised from its seed.

    Raises:
        ValueError: an argument the model does not take, or a model that is not a SWWAE.
    """
    torch.manual_seed(config.seed)
    args = {"num_classes": num_classes, **config.model_args}
    try:
        model = timm.create_model(config.model, **args)
    except TypeError as error:  # an argument of another name, or of another type
        raise ValueError(f"model_args: {config.model} can't be built with {config.model_args}: {error}") from error
    if not isinstance(model, SWWAE):
        raise ValueError(f"{config.model} has no decoder, so it can't learn from unlabelled images; `swwae list` shows models that can")
    return model


def resolve_device(name: str) -> torch.device:
    """"auto" takes CUDA, then Apple's GPU, then the CPU.

    Raises:
        ValueError: the device asked for is absent.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    device = torch.device(name)
    if device.type == "cuda":
        count = torch.cuda.device_count()
        if (device.index or 0) >= count:
            raise ValueError(f"device {name} was asked for, but this machine has {count or 'no'} CUDA device{'s' * (count != 1)}: "
                             "use --device cpu or auto")
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise ValueError("device mps was asked for, but this machine has none: use --device cpu or auto")
    return device


def summary(results: list[dict[str, Any]]) -> str:
    """Test (else validation) error of the runs and of their twins, as mean and sample standard deviation."""
    key = "test_error" if all(r["test_error"] is not None for r in results) else "val_error"
    lines = []
    for twin, name in ((False, "SWWAE"), (True, "twin, lambda = 0")):
        errors = [r[key] for r in results if r["twin"] == twin]
        if errors and errors[0] is not None:
            spread = f" ± {statistics.stdev(errors):.2f} over {len(errors)} rounds" if len(errors) > 1 else ""
            lines.append(f"{key.replace('_', ' ')}  {name:17s} {statistics.mean(errors):6.2f} %{spread}")
    return "\n".join(lines)
