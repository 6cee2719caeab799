"""The typed configuration of a run: one flat dataclass, read from a TOML recipe, overridden by flags.

Every field is one recipe key and one flag of the same words; its metadata ("group", "help", "choices", bounds) are
what the command line builds its options from. No torch here, so that `swwae --help` answers at once.
"""

import difflib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from swwae_zoo.config.fields import ModelArg, checked, convert, option

__all__ = ["GROUPS", "RunConfig", "merge", "parse_model_arg", "validate"]

GROUPS = ("Model", "Data", "Loss", "Training", "Machine", "Run")
_DEVICE = re.compile(r"auto|cpu|mps|cuda(:\d+)?", re.ASCII)
_INT = re.compile(r"[+-]?\d+", re.ASCII)
_FLOAT = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", re.ASCII | re.IGNORECASE)


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """Everything that decides what a run does. Whole numbers are taken for floats, tuples for lists.

    Raises:
        ValueError: one line with the key, what was got and what was expected (see `validate`).
    """

    model: str = option("Model", "swwae_mnist", "Name of the model, as timm.create_model takes it.", required=True)
    model_args: dict[str, ModelArg] = option(
        "Model", {}, "KEY=VALUE for timm.create_model; may be repeated.", flags=("--model-arg",)
    )

    data: str = option("Data", "digits", "Labelled data: digits, mnist, svhn, cifar10, folder:PATH, ...", required=True)
    data_dir: str = option("Data", "", "Where data sets lie (else SWWAE_DATA, else ~/.cache/swwae_zoo).")
    num_labels: int = option(
        "Data", 0, "Labelled images, class-balanced, drawn by the seed; 0 = all.",
        minimum=0, flags=("--labels", "--num-labels"),
    )  # fmt: skip
    unlabeled: str = option(
        "Data", "same", "Unlabelled images: same, none, tinyimages[:PATH], or other data.", required=True
    )
    exclude: str = option("Data", "", "Unlabelled images to leave out: 1-based:FILE or 0-based:FILE.")
    copies: str = option(
        "Data", "auto", "Copies of test images to leave out of another unlabelled set.",
        choices=("auto", "off", "exact", "near"),
    )  # fmt: skip
    unlabeled_store: str = option(
        "Data", "auto", "Where unlabelled images lie; auto = on disk when too many.",
        choices=("auto", "memory", "disk"),
    )  # fmt: skip
    num_val: int = option("Data", 0, "Validation images held out of the training set.", minimum=0)
    contrast: str = option("Data", "none", "Contrast normalisation of each image.", choices=("none", "image"))
    translate: int = option("Data", 0, "Random shift of a training image, in pixels each way.", minimum=0)
    mirror: bool = option("Data", False, "Random horizontal mirror of a training image.")
    bad_images: str = option(
        "Data", "refuse", "What to do with unreadable images in a folder.", choices=("refuse", "skip")
    )

    lambda_nll: float = option("Loss", 1.0, "Weight of the classification loss.", minimum=0)
    lambda_rec: float = option("Loss", 1.0, "Weight of the image's reconstruction loss, L2rec.", minimum=0)
    lambda_middle: float | list[float] = option(
        "Loss", 1.0, "Weight of the middle losses, L2M: one, or one per middle, shallow to deep.", minimum=0
    )
    lambda_l1: float = option("Loss", 0.0, "Weight of the L1 penalty, the paper's rival in Table 4.", minimum=0)
    detach_targets: bool = option("Loss", False, "Stop the gradient of L2M into the encoder's targets.")

    steps: int = option("Training", 0, "Length of a round in steps; replaces epochs.", minimum=0)
    epochs: int = option("Training", 0, "Length of a round in passes over the unlabelled images.", minimum=0)
    batch_size: int = option("Training", 128, "Unlabelled images a step.", minimum=1)
    labeled_batch: int = option("Training", 64, "Labelled images a step.", minimum=1)
    opt: str = option("Training", "adamw", "Optimiser, by timm's name.", required=True)
    lr: float = option("Training", 1e-3, "Highest learning rate.", above=0)
    weight_decay: float = option("Training", 0.0, "Weight decay.", minimum=0)
    momentum: float = option("Training", 0.9, "Momentum of optimisers that have one.", minimum=0, below=1)
    opt_betas: list[float] = option(
        "Training", [], "Betas of optimisers that have them; none = its own.", minimum=0, below=1
    )
    clip_grad: float = option("Training", 0.0, "Largest norm of the gradient; 0 = any.", minimum=0)
    sched: str = option(
        "Training", "cosine", "Course of the learning rate.", choices=("cosine", "tanh", "poly", "constant")
    )
    warmup_steps: int = option("Training", 0, "Steps over which the learning rate rises to its highest.", minimum=0)
    min_lr: float = option("Training", 0.0, "Learning rate at the end of the schedule.", minimum=0)
    lr_encoder: float = option("Training", 0.0, "Learning rate of all but decoder and classifier; 0 = lr.", minimum=0)
    layer_decay: float = option(
        "Training", 1.0, "Factor on the learning rate for each layer further from the classifier.", above=0, maximum=1
    )
    freeze_stages: int = option(
        "Training", 0, "Stages that keep their weights, from the image on; 1 = the stem.", minimum=0
    )
    norm_eval: bool = option("Training", False, "Batch norm of the encoder keeps its statistics, as in evaluation.")
    ema: float = option("Training", 0.0, "Decay of the weights' moving average; 0 = off.", minimum=0, below=1)

    device: str = option("Machine", "auto", "auto, cpu, cuda, cuda:N or mps.")
    amp: str = option(
        "Machine", "off", "Mixed precision; auto = bf16 where the device computes in it.",
        choices=("auto", "off", "bf16", "fp16"),
    )  # fmt: skip
    channels_last: bool = option("Machine", True, "Channels-last memory format.")
    compile: bool = option("Machine", False, "Compile the step with torch.compile.")
    compile_mode: str = option(
        "Machine", "default", "How torch.compile works; reduce-overhead replays CUDA graphs.",
        choices=("default", "reduce-overhead", "max-autotune"),
    )  # fmt: skip
    sync_bn: bool = option("Machine", False, "Batch norm over the whole batch of all processes, not each one's part.")

    init: str = option("Run", "", "Weights to start from: a run directory, or its best/ or last/.")
    seed: int = option("Run", 0, "Seed of the first round; each further round adds 1.", minimum=0, maximum=2**32 - 1)
    rounds: int = option("Run", 1, "Rounds, each with freshly drawn labels.", minimum=1)
    twin: bool = option("Run", False, "After each round, train its lambda = 0 twin and report it beside.")
    eval_every: int = option("Run", 0, "Steps between evaluations; 0 = ten in a round.", minimum=0)
    save_every: int = option("Run", 0, "Steps between checkpoints; 0 = ten in a round.", minimum=0)
    log_every: int = option("Run", 0, "Steps between lines of metrics.jsonl; 0 = fifty in a round.", minimum=0)
    out: str = option("Run", "", "Run directory (else runs/MODEL-DATA-LABELS).")

    def __post_init__(self) -> None:
        for key in fields(self):
            object.__setattr__(self, key.name, checked(key, getattr(self, key.name)))
        validate(self)


def validate(config: RunConfig) -> None:
    """Checks what must hold beyond each key's own type and rules; construction does both.

    Raises:
        ValueError: one line with the key, what was got and what was expected.
    """
    if not _DEVICE.fullmatch(config.device):
        raise ValueError(f"device: got {config.device!r}, expected auto, cpu, cuda, cuda:N or mps")
    if config.lambda_middle == []:
        raise ValueError("lambda_middle: got [], expected a number, or one number per middle")
    if len(config.opt_betas) not in (0, 2, 3):
        raise ValueError(f"opt_betas: got {config.opt_betas}, expected two or three, or none")
    if config.min_lr > config.lr:
        raise ValueError(f"min_lr: got {config.min_lr}, expected at most lr, {config.lr}")
    if (config.steps > 0) == (config.epochs > 0):
        raise ValueError(f"steps, epochs: got {config.steps} and {config.epochs}, expected exactly one of them above 0")
    middle = config.lambda_middle if isinstance(config.lambda_middle, list) else [config.lambda_middle]
    if not any([config.lambda_nll, config.lambda_rec, *middle]):
        raise ValueError("lambda_nll, lambda_rec, lambda_middle: got 0 for all, expected at least one above 0")
    for name, value in config.model_args.items():
        if not isinstance(name, str) or not name.isidentifier():
            raise ValueError(f"model_args: got {name!r}, expected the name of an argument, such as drop_rate")
        if name in _keys():  # in TOML, every line below [model_args] falls into that table
            raise ValueError(f"model_args: got {name!r}, a key of the recipe itself: put it above [model_args]")
        if convert(value, ModelArg) is None:
            kind = type(value).__name__
            raise ValueError(f"model_args.{name}: got {value!r} ({kind}), expected true, false, a number or text")


def merge(config: RunConfig | None, overrides: Mapping[str, Any]) -> RunConfig:
    """Lays flags over a recipe.

    Args:
        config: the recipe; None = the defaults, which lack a length (steps or epochs must be among the overrides).
        overrides: values by key; None = not given. steps replaces the recipe's epochs and the other way round;
            model_args is merged name by name.

    Raises:
        ValueError: for an unknown key, or a value that `validate` refuses.
    """
    given = {name: value for name, value in overrides.items() if value is not None}
    _check_known(given)
    if config is None:
        return RunConfig(**given)
    if isinstance(given.get("model_args"), Mapping):
        given["model_args"] = {**config.model_args, **given["model_args"]}
    for name, other in (("steps", "epochs"), ("epochs", "steps")):
        if given.get(name) and other not in given:
            given[other] = 0
    return replace(config, **given)


def parse_model_arg(text: str) -> tuple[str, ModelArg]:
    """Reads KEY=VALUE, typing true, false and numbers: `parse_model_arg("beta=100") == ("beta", 100)`.

    Raises:
        ValueError: where there is no '=' or no name before it.
    """
    name, equals, value = (part.strip() for part in text.partition("="))
    if not equals or not name.isidentifier():
        raise ValueError(f"model_args: got {text!r}, expected KEY=VALUE, such as drop_rate=0.5")
    if value.lower() in ("true", "false"):
        return name, value.lower() == "true"
    if _INT.fullmatch(value):
        return name, int(value)
    return name, float(value) if _FLOAT.fullmatch(value) else value


def _check_known(names: Iterable[str]) -> None:
    for name in names:
        if name not in _keys():
            near = _nearest(name, _keys()) or "; `swwae train --help` lists them all"
            raise ValueError(f"unknown key {name!r}{near}")


def _keys() -> list[str]:
    return [key.name for key in fields(RunConfig)]


def _nearest(name: str, names: list[str]) -> str:
    near = difflib.get_close_matches(name, names, n=1)
    return f"; did you mean {near[0]}?" if near else ""
