"""The typed configuration of a run: one flat dataclass, read from a TOML recipe, overridden by flags.

Every field is one recipe key and one flag of the same words; its metadata ("help", "group", "choices", bounds)
is the one place from which the command line builds its options and `validate` its messages. No torch here, so
that `swwae --help` answers at once.
"""

import difflib
import importlib.resources
import operator
import re
import sys
from collections.abc import Mapping
from dataclasses import Field, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ModelArg = bool | int | float | str
GROUPS = ("Model", "Data", "Loss", "Training", "Machine", "Run")
AMP = ("off", "bf16", "fp16")
SCHEDULES = ("cosine", "tanh", "poly", "constant")
_MODEL_ALIASES = {"swwae_stl10_vgg": "swwae_stl10"}
_DEVICE = re.compile(r"auto|cpu|mps|cuda(:\d+)?", re.ASCII)
_INT = re.compile(r"[+-]?\d+", re.ASCII)
_FLOAT = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", re.ASCII | re.IGNORECASE)
_SURROGATE = re.compile("[\ud800-\udfff]")
_ESCAPED = re.compile(r'[\x00-\x1f\x7f"\\]')
_ESCAPES = {"\\": r"\\", '"': r"\"", "\n": r"\n", "\t": r"\t", "\r": r"\r"}
_BOUNDS = {
    "minimum": ("at least", operator.ge),
    "above": ("above", operator.gt),
    "maximum": ("at most", operator.le),
    "below": ("below", operator.lt),
}
_EXPECTED: dict[Any, str] = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "text",
    list[float]: "a list of numbers",
    float | list[float]: "a number or a list of numbers",
    dict[str, ModelArg]: "a table of names and values",
}


def _key(group: str, default: Any, help: str, **rules: Any) -> Any:
    """A field; rules are `choices`, `minimum`, `above`, `below`, `maximum` (bounds), `required` and `flags`."""
    metadata = {"group": group, "help": help, **rules}
    if isinstance(default, (list, dict)):
        return field(default_factory=default.copy, metadata=metadata)
    return field(default=default, metadata=metadata)


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """Everything that decides what a run does. Whole numbers are taken for floats; tuples for lists.

    Raises:
        ValueError: one line with the key, what was got and what was expected (see `validate`).
    """

    model: str = _key("Model", "swwae_mnist", "Name of the model, as timm.create_model takes it.", required=True)
    model_args: dict[str, ModelArg] = _key(
        "Model", {}, "KEY=VALUE passed to timm.create_model; repeat it for more.", flags=("--model-arg",)
    )

    data: str = _key("Data", "digits", "Labelled data: digits, mnist, svhn, stl10, cifar10, folder:PATH, ...", required=True)
    data_dir: str = _key("Data", "", "Where data sets lie [default: SWWAE_DATA, else ~/.cache/swwae_zoo].")
    num_labels: int = _key(
        "Data", 0, "Labelled images, class-balanced and drawn by the seed; 0 = all.", minimum=0, flags=("--labels", "--num-labels")
    )
    unlabeled: str = _key("Data", "same", "Unlabelled images: same (as data), none, or a data set.", required=True)
    num_val: int = _key("Data", 0, "Validation images held out of the training set.", minimum=0)
    contrast: str = _key("Data", "none", "Contrast normalisation of each image.", choices=("none", "image"))
    translate: int = _key("Data", 0, "Random shift of up to this many pixels, in training.", minimum=0)
    mirror: bool = _key("Data", False, "Random horizontal mirror, in training.")
    bad_images: str = _key("Data", "refuse", "What to do with unreadable images of a folder.", choices=("refuse", "skip"))

    lambda_nll: float = _key("Loss", 1.0, "Weight of the classification loss.", minimum=0)
    lambda_rec: float = _key("Loss", 1.0, "Weight of the reconstruction loss of the image, L2rec.", minimum=0)
    lambda_middle: float | list[float] = _key(
        "Loss", 1.0, "Weight of the middle losses, L2M: one, or one per middle, shallow to deep.", minimum=0
    )
    lambda_l1: float = _key("Loss", 0.0, "Weight of the L1 penalty on the features.", minimum=0)
    detach_targets: bool = _key("Loss", False, "Stop the L2M gradient into the encoder's targets.")

    steps: int = _key("Training", 0, "Length of a round in steps; replaces epochs.", minimum=0)
    epochs: int = _key("Training", 0, "Length of a round in passes over the unlabelled images; replaces steps.", minimum=0)
    batch_size: int = _key("Training", 128, "Unlabelled images a step.", minimum=1)
    labeled_batch: int = _key("Training", 64, "Labelled images a step.", minimum=1)
    opt: str = _key("Training", "adamw", "Optimiser, by timm's name.", required=True)
    lr: float = _key("Training", 1e-3, "Highest learning rate.", above=0)
    weight_decay: float = _key("Training", 0.0, "Weight decay.", minimum=0)
    momentum: float = _key("Training", 0.9, "Momentum, for optimisers that have one.", minimum=0, below=1)
    opt_betas: list[float] = _key("Training", [], "Betas, for optimisers that have them; none = its own.", minimum=0, below=1)
    clip_grad: float = _key("Training", 0.0, "Largest norm of the gradient; 0 = any.", minimum=0)
    sched: str = _key("Training", "cosine", "Course of the learning rate.", choices=SCHEDULES)
    warmup_steps: int = _key("Training", 0, "Steps of linear warm-up.", minimum=0)
    min_lr: float = _key("Training", 0.0, "Learning rate at the end of the schedule.", minimum=0)
    ema: float = _key("Training", 0.0, "Decay of the weights' moving average; 0 = off.", minimum=0, below=1)

    device: str = _key("Machine", "auto", "auto, cpu, cuda, cuda:N or mps.")
    amp: str = _key("Machine", "off", "Mixed precision.", choices=AMP)
    channels_last: bool = _key("Machine", True, "Channels-last memory format.")
    compile: bool = _key("Machine", False, "Compile the model with torch.compile.")

    seed: int = _key("Run", 0, "Seed of the first round; each further round adds 1.", minimum=0, maximum=2**32 - 1)
    rounds: int = _key("Run", 1, "Rounds, each with freshly drawn labels; reported as mean and spread.", minimum=1)
    twin: bool = _key("Run", False, "After each round, train the lambda = 0 twin and report it beside.")
    eval_every: int = _key("Run", 0, "Steps between evaluations; 0 = ten in a round.", minimum=0)
    save_every: int = _key("Run", 0, "Steps between checkpoints; 0 = ten in a round.", minimum=0)
    log_every: int = _key("Run", 0, "Steps between lines of metrics.jsonl; 0 = fifty in a round.", minimum=0)
    out: str = _key("Run", "", "Run directory [default: runs/MODEL-DATA-LABELS].")

    def __post_init__(self) -> None:
        for key in fields(self):
            object.__setattr__(self, key.name, _typed(key.name, getattr(self, key.name), key.type))
        validate(self)


def validate(config: RunConfig) -> None:
    """Checks ranges, choices and what must hold between keys; construction has checked types already.

    Raises:
        ValueError: one line with the key, what was got and what was expected.
    """
    for key in fields(config):
        _check_range(key, getattr(config, key.name))
    if not _DEVICE.fullmatch(config.device):
        raise ValueError(f"device: got {config.device!r}, expected auto, cpu, cuda, cuda:N or mps")
    if config.lambda_middle == []:
        raise ValueError("lambda_middle: got [], expected a number, or one number per middle")
    if len(config.opt_betas) not in (0, 2, 3):
        raise ValueError(f"opt_betas: got {config.opt_betas}, expected two or three numbers, or none for the optimiser's own")
    if (config.steps > 0) == (config.epochs > 0):
        raise ValueError(f"steps, epochs: got {config.steps} and {config.epochs}, expected exactly one of them above 0")
    if config.min_lr > config.lr:
        raise ValueError(f"min_lr: got {config.min_lr}, expected at most lr, {config.lr}")
    middle = config.lambda_middle if isinstance(config.lambda_middle, list) else [config.lambda_middle]
    if not any([config.lambda_nll, config.lambda_rec, *middle]):
        raise ValueError("lambda_nll, lambda_rec, lambda_middle: got 0 for all, expected one above 0: nothing would be learnt")
    _check_model_args(config)


def merge(config: RunConfig | None, overrides: Mapping[str, Any]) -> RunConfig:
    """Lays flags over a recipe.

    Args:
        config: the recipe; None = the defaults (which lack a length: give steps or epochs).
        overrides: values by key; None = not given. steps replaces the recipe's epochs and the other way
            round; model_args is merged name by name.

    Raises:
        ValueError: for an unknown key or a value that `validate` refuses.
    """
    given = {name: value for name, value in overrides.items() if value is not None}
    for name in given:
        _check_known(name)
    if config is None:
        return RunConfig(**given)
    if isinstance(given.get("model_args"), Mapping):
        given["model_args"] = {**config.model_args, **given["model_args"]}
    for name, other in (("steps", "epochs"), ("epochs", "steps")):
        if given.get(name) and other not in given:
            given[other] = 0
    return replace(config, **given)


def parse_model_arg(text: str) -> tuple[str, ModelArg]:
    """Reads `KEY=VALUE`: `parse_model_arg("beta=100") == ("beta", 100)`; true, false, whole and decimal numbers are typed.

    Raises:
        ValueError: where there is no KEY or no '='.
    """
    name, equals, value = text.partition("=")
    name, value = name.strip(), value.strip()
    if not equals or not name.isidentifier():
        raise ValueError(f"model_args: got {text!r}, expected KEY=VALUE, such as drop_rate=0.5")
    if value.lower() in ("true", "false"):
        return name, value.lower() == "true"
    if _INT.fullmatch(value):
        return name, int(value)
    return name, float(value) if _FLOAT.fullmatch(value) else value


def flags(key: Field) -> tuple[str, ...]:
    """The flags of a field of `RunConfig`, the first the one to show: `("--labels", "--num-labels")`."""
    return key.metadata.get("flags", ("--" + key.name.replace("_", "-"),))


def read_recipe(name_or_path: str | Path) -> RunConfig:
    """Reads a packaged recipe by name, or a file by path (anything with a '/' or that ends in .toml).

    Raises:
        ValueError: one line: no such recipe (with the nearest) or file, a file that is not TOML (with the
            position), an unknown key (with the nearest), or a value that `validate` refuses.
    """
    text, source = _recipe_text(name_or_path)
    try:
        table = tomllib.loads(text)
        for name in table:
            _check_known(name)
        return RunConfig(**table)
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"recipe {source}: not valid TOML: {error}") from None
    except ValueError as error:
        raise ValueError(f"recipe {source}: {error}") from None


def recipe_names() -> list[str]:
    """Names of the packaged recipes, sorted."""
    files = importlib.resources.files("swwae_zoo.recipes").iterdir()
    return sorted(file.name.removesuffix(".toml") for file in files if file.name.endswith(".toml"))


def recipe_title(name: str) -> str:
    """The first comment line of a recipe without its '#'; "" where it has none."""
    text, _ = _recipe_text(name)
    return next((line.lstrip("# ").rstrip() for line in text.splitlines() if line.startswith("#")), "")


def default_recipe(model: str) -> str | None:
    """The recipe that bears the model's name (without timm's pretrained tag), or None."""
    name = model.partition(".")[0]
    name = _MODEL_ALIASES.get(name, name)
    return name if name in recipe_names() else None


def to_toml(config: RunConfig) -> str:
    """Writes a complete recipe, every key in it; `read_recipe` of it gives an equal configuration."""
    title = f"{config.model} on {config.data}, {config.num_labels or 'all'} labels"
    lines = ["# " + _ESCAPED.sub(_escape, title)]  # a line break in a name would end the comment
    for group in GROUPS:
        lines += ["", f"# {group}"]
        for key in fields(config):
            if key.metadata["group"] == group and key.name != "model_args":
                lines.append(f"{key.name} = {_toml_value(getattr(config, key.name))}")
    lines += ["", "[model_args]"]  # last: all that follows a table's head belongs to the table
    lines += [f"{_toml_name(name)} = {_toml_value(value)}" for name, value in config.model_args.items()]
    return "\n".join(lines) + "\n"


def _recipe_text(name_or_path: str | Path) -> tuple[str, str]:
    """A recipe's text, and what to call it in messages."""
    name = str(name_or_path)
    names = recipe_names()
    if isinstance(name_or_path, str) and name in names:
        file = importlib.resources.files("swwae_zoo.recipes") / f"{name}.toml"
    elif isinstance(name_or_path, Path) or "/" in name or "\\" in name or name.endswith(".toml"):
        file = Path(name).expanduser()
    else:
        raise ValueError(f"recipe: got {name!r}, expected a path to a .toml file or one of {', '.join(names)}{_nearest(name, names)}")
    try:
        return file.read_text(encoding="utf-8"), name
    except FileNotFoundError:
        stem = Path(name).stem
        raise ValueError(f"recipe {name}: no such file{_nearest(stem, names)}") from None
    except OSError as error:
        raise ValueError(f"recipe {name}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise ValueError(f"recipe {name}: not UTF-8 text, at byte {error.start}") from None


def _nearest(name: str, names: list[str]) -> str:
    near = difflib.get_close_matches(name, names, n=1)
    return f"; did you mean {near[0]}?" if near else ""


def _check_known(name: str) -> None:
    names = [key.name for key in fields(RunConfig)]
    if name not in names:
        near = _nearest(name, names) or "; `swwae train --help` lists them all"
        raise ValueError(f"unknown key {name!r}{near}")


def _typed(key: str, value: Any, kind: Any) -> Any:
    """The value in its field's own type: whole numbers turned to floats, containers copied."""
    typed = _converted(value, kind)
    if typed is None:
        raise ValueError(f"{key}: got {value!r} ({type(value).__name__}), expected {_EXPECTED[kind]}")
    return typed


def _converted(value: Any, kind: Any) -> Any:
    """As `_typed`, but None where the value is not of that kind. A bool is not a number here."""
    if kind is float:
        number = type(value) in (int, float) and abs(value) < 2**63  # refuses nan and infinity too
        return float(value) if number else None
    if kind is int:
        return value if type(value) is int and abs(value) < 2**63 else None
    if kind is bool:
        return value if type(value) is bool else None
    if kind is str:
        # Half a surrogate pair (from a file name that is not UTF-8) could not be written to a recipe.
        return value if isinstance(value, str) and not _SURROGATE.search(value) else None
    if kind == list[float]:
        numbers = [_converted(item, float) for item in value] if isinstance(value, (list, tuple)) else [None]
        return None if None in numbers else numbers
    if kind == float | list[float]:
        return _converted(value, list[float] if isinstance(value, (list, tuple)) else float)
    return dict(value) if isinstance(value, Mapping) else None


def _check_range(key: Field, value: Any) -> None:
    rules, values = key.metadata, value if isinstance(value, list) else [value]
    if "choices" in rules and value not in rules["choices"]:
        raise ValueError(f"{key.name}: got {value!r}, expected one of {', '.join(rules['choices'])}")
    if rules.get("required") and not value.strip():
        raise ValueError(f"{key.name}: got {value!r}, expected a name")
    bounds = [f"{words} {rules[rule]}" for rule, (words, _) in _BOUNDS.items() if rule in rules]
    if not all(holds(one, rules[rule]) for one in values for rule, (_, holds) in _BOUNDS.items() if rule in rules):
        raise ValueError(f"{key.name}: got {value!r}, expected {' and '.join(bounds)}")


def _check_model_args(config: RunConfig) -> None:
    names = {key.name for key in fields(config)}
    for name, value in config.model_args.items():
        if not isinstance(name, str) or not name.isidentifier():
            raise ValueError(f"model_args: got the name {name!r}, expected the name of an argument, such as drop_rate")
        if name in names:  # in TOML every line below [model_args] falls into that table
            raise ValueError(f"model_args: got {name!r}, which is a key of the recipe itself, expected it above [model_args]")
        if all(_converted(value, kind) is None for kind in (bool, int, float, str)):
            raise ValueError(f"model_args.{name}: got {value!r} ({type(value).__name__}), expected true, false, a number or text")


def _toml_value(value: ModelArg | list[float]) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float)):
        return repr(value)
    if isinstance(value, list):
        return f"[{', '.join(map(_toml_value, value))}]"
    return f'"{_ESCAPED.sub(_escape, value)}"'


def _escape(match: re.Match[str]) -> str:
    return _ESCAPES.get(match[0]) or f"\\u{ord(match[0]):04x}"


def _toml_name(name: str) -> str:
    return name if name.isascii() else f'"{name}"'
