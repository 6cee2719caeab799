"""The typed configuration of a run: one flat dataclass, read from a TOML recipe, overridden by flags.

Every field is one recipe key and one flag of the same words; its metadata ("group", "help", "choices", bounds) are
what the command line builds its options from. No torch here, so that `swwae --help` answers at once.
"""

import difflib
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from swwae_zoo.config.fields import ModelArg, checked, convert, option

__all__ = [
    "GROUPS",
    "MAX_PIXELS",
    "MAY_CHANGE_ON_RESUME",
    "SCHEMA",
    "RunConfig",
    "check_two_views",
    "fallbacks",
    "fixed_keys",
    "lambdas",
    "merge",
    "parse_model_arg",
    "parse_size",
    "starts_trained",
    "validate",
    "without_lambdas",
]

MAY_CHANGE_ON_RESUME = (
    "out", "device", "data_dir", "eval_every", "save_every", "log_every", "rounds", "twin", "track"
)  # fmt: skip
GROUPS = ("Model", "Data", "Views", "Loss", "Training", "Machine", "Run")
SCHEMA = 1  # of the keys and their defaults: recipes state what differs from them, so neither changes without it
MAX_BATCH = 1 << 20  # images a step: their numbers are drawn at once
MAX_PIXELS = 1 << 26  # of one image; Pillow itself warns from 1.3 times as many
_SIZE = re.compile(r"(\d{1,5})x(\d{1,5})", re.ASCII)
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

    data: str = option(
        "Data", "digits", "Labelled data: digits, mnist, cifar10, folder:PATH, hf:ORG/NAME, ...", required=True
    )
    data_dir: str = option("Data", "", "Where data sets lie (else SWWAE_DATA, else ~/.cache/swwae_zoo).")
    num_labels: int = option(
        "Data", 0, "Labelled images, class-balanced, drawn by the seed; 0 = all.",
        minimum=0, elsewhere=0, flags=("--labels", "--num-labels"),
    )  # fmt: skip
    unlabeled: str = option(
        "Data",
        "same",
        "Unlabelled images: same, none, tinyimages[:PATH], or other data.",
        required=True,
        elsewhere="same",
    )
    exclude: str = option("Data", "", "Unlabelled images to leave out: 1-based:FILE or 0-based:FILE.", elsewhere="")
    copies: str = option(
        "Data", "auto", "Copies of test images to leave out of another unlabelled set.",
        choices=("auto", "off", "exact", "near"),
    )  # fmt: skip
    unlabeled_store: str = option(
        "Data", "auto", "Where unlabelled images lie; auto = on disk when too many.",
        choices=("auto", "memory", "disk"),
    )  # fmt: skip
    num_val: int = option(
        "Data", 0, "Validation images held out of the training set; -1 = a tenth.", minimum=-1, elsewhere=-1, own=-1
    )
    contrast: str = option("Data", "none", "Contrast normalisation of each image.", choices=("none", "image"))
    bad_images: str = option(
        "Data", "refuse", "What to do with unreadable images in a folder.", choices=("refuse", "skip")
    )

    augment: str = option(
        "Views",
        "none",
        "Random view of a training image that surely keeps its class.",
        choices=("none", "shift", "photo"),
    )
    augment_args: dict[str, ModelArg] = option(
        "Views",
        {},
        "KEY=VALUE, an amount of --augment (shift, rotation, ...); may be repeated.",
        flags=("--augment-arg",),
    )
    strong: str = option(
        "Views", "none", "Strong view of an unlabelled image, for consistency.", choices=("none", "grey", "photo")
    )
    strong_args: dict[str, ModelArg] = option(
        "Views", {}, "KEY=VALUE, an amount of --strong; may be repeated.", flags=("--strong-arg",)
    )
    labeled_view: str = option(
        "Views", "weak", "View of the labelled images: weak is that of --augment.", choices=("weak", "strong")
    )
    mirror: bool = option("Views", True, "Mirrored images keep their class; off for digits.")

    lambda_nll: float = option("Loss", 1.0, "Weight of the classification loss.", minimum=0)
    lambda_rec: float = option("Loss", 1.0, "Weight of the image's reconstruction loss, L2rec.", minimum=0)
    lambda_middle: float | list[float] = option(
        "Loss", 1.0, "Weight of the middle losses, L2M: one, or one per middle, shallow to deep.", minimum=0
    )
    lambda_l1: float = option("Loss", 0.0, "Weight of the L1 penalty, the paper's rival in Table 4.", minimum=0)
    lambda_consistency: float = option(
        "Loss", 0.0, "Weight of the consistency of a weak and a strong view.", minimum=0, two_views=True
    )
    lambda_cross: float = option(
        "Loss",
        0.0,
        "Weight of reconstruction by what of the strong and where of the weak view.",
        minimum=0,
        two_views=True,
    )
    lambda_other: dict[str, ModelArg] = option(
        "Loss",
        {},
        "NAME=WEIGHT of a term that was registered from outside; may be repeated.",
        flags=("--lambda-other",),
    )
    detach_targets: bool = option("Loss", False, "Stop the gradient of L2M into the encoder's targets.")
    rec_trains: str = option(
        "Loss", "all", "What reconstruction trains beside the classifier: all, or the decoder.",
        choices=("all", "decoder"),
    )  # fmt: skip
    noise: float = option(
        "Loss", 0.0, "Noise on the encoder's input that reconstruction takes out again; 0 = none.",
        minimum=0,
    )  # fmt: skip
    confidence: float = option(
        "Loss", 0.95, "Least probability at which the teacher's class becomes a target.", above=0, maximum=1
    )
    pseudo_labels: str = option(
        "Loss", "threshold", "How the teacher's classes become targets: from --confidence on, or weighted.",
        choices=("threshold", "softmatch"),
    )  # fmt: skip
    ramp: float = option(
        "Loss", 0.2, "Share of the run over which consistency rises to its weight.", minimum=0, maximum=1
    )
    fade: float = option(
        "Loss", 0.0, "Share of the run, at its end, over which reconstruction falls to 0.", minimum=0, maximum=1
    )

    steps: int = option(
        "Training", 0, "Length of a round in steps; replaces epochs; -1 = by the number of images.", minimum=-1
    )
    epochs: int = option("Training", 0, "Length of a round in passes over the unlabelled images.", minimum=0)
    batch_size: int = option("Training", 128, "Unlabelled images a step.", minimum=1, maximum=MAX_BATCH)
    labeled_batch: int = option("Training", 64, "Labelled images a step.", minimum=1, maximum=MAX_BATCH)
    opt: str = option("Training", "adamw", "Optimiser, by timm's name.", required=True)
    lr: float = option("Training", 1e-3, "Peak learning rate.", above=0)
    weight_decay: float = option("Training", 0.0, "Weight decay.", minimum=0)
    momentum: float = option("Training", 0.9, "Momentum of optimisers that have one.", minimum=0, below=1)
    opt_betas: list[float] = option(
        "Training", [], "Betas of optimisers that have them; none = its own.", minimum=0, below=1
    )
    clip_grad: float = option("Training", 0.0, "Clip the gradient norm; 0 = no clipping.", minimum=0)
    sched: str = option("Training", "cosine", "Learning-rate schedule.", choices=("cosine", "tanh", "poly", "constant"))
    warmup_steps: int = option(
        "Training", 0, "Steps of linear warm-up to the peak rate; -1 = a twentieth of the run.", minimum=-1,
        elsewhere=-1, own=-1, at_length=-1,
    )  # fmt: skip
    min_lr: float = option("Training", 0.0, "Learning rate at the end of the schedule.", minimum=0)
    lr_encoder: float = option("Training", 0.0, "Learning rate of all but decoder and classifier; 0 = lr.", minimum=0)
    layer_decay: float = option(
        "Training", 1.0, "Factor on the learning rate for each layer further from the classifier.", above=0, maximum=1
    )
    freeze_stages: int = option("Training", 0, "Freeze the first stages; 1 = the stem.", minimum=0)
    norm_eval: bool = option("Training", False, "Freeze the statistics of the encoder's batch norm.")
    ema: float = option(
        "Training", 0.0, "Decay of the moving average (EMA) of the weights; 0 = off.", minimum=0, below=1
    )

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

    init: str = option(
        "Run", "", "Weights to start from: a run, a folder, hf-hub:ORG/NAME, a tag or a file.",
        flags=("--init", "--checkpoint"),
    )  # fmt: skip
    seed: int = option("Run", 0, "Seed of the first round; each further round adds 1.", minimum=0, maximum=2**32 - 1)
    rounds: int = option("Run", 1, "Rounds, each with freshly drawn labels.", minimum=1, maximum=10_000, elsewhere=1)
    twin: bool = option("Run", False, "After each round, train its lambda = 0 twin as well.", elsewhere=False)
    eval_every: int = option("Run", 0, "Steps between evaluations; 0 = ten in a round.", minimum=0, at_length=0)
    save_every: int = option("Run", 0, "Steps between checkpoints; 0 = ten in a round.", minimum=0, at_length=0)
    log_every: int = option(
        "Run", 0, "Steps between lines of metrics.jsonl; 0 = fifty in a round.", minimum=0, at_length=0
    )
    track: str = option(
        "Run", "none", "Record losses, errors and pictures there as well.",
        choices=("none", "tensorboard", "trackio", "wandb"),
    )  # fmt: skip
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
    if (config.steps != 0) == (config.epochs > 0):
        raise ValueError(f"steps, epochs: got {config.steps} and {config.epochs}, expected exactly one of them above 0")
    _validate_lambdas(config)
    weights = [weight for name, weight in lambdas(config).items() if name != "l1"]  # a penalty alone teaches nothing
    if not any(_most(weight) for weight in weights):
        raise ValueError("lambda_nll, lambda_rec, lambda_middle: got 0 for all, expected at least one above 0")
    for key in fields(config):
        if key.type == dict[str, ModelArg]:
            _validate_table(key.name, getattr(config, key.name))
        if key.metadata.get("two_views") and getattr(config, key.name):
            check_two_views(config, key.name)
    if config.noise and not (config.lambda_rec or _most(config.lambda_middle)):
        raise ValueError(f"noise: got {config.noise}, but nothing is reconstructed: give --lambda-rec 1, or --noise 0")
    if config.noise and not config.ema:
        raise ValueError("noise: needs a teacher, which sees the clean image: give --ema 0.99")
    if config.pseudo_labels == "softmatch" and config.confidence != RunConfig.confidence:
        raise ValueError(
            f"confidence: got {config.confidence}, but pseudo_labels = 'softmatch' weights all images: leave it out, "
            "or give --pseudo-labels threshold"
        )
    if config.labeled_view == "strong" and config.strong == "none":
        raise ValueError("labeled_view: got 'strong', but strong = 'none': give --strong grey or photo")


def _most(weight: float | list[float]) -> float:
    return max(weight) if isinstance(weight, list) else weight


def _validate_table(key: str, table: Mapping[str, Any]) -> None:
    for name, value in table.items():
        if not isinstance(name, str) or not name.isidentifier():
            raise ValueError(f"{key}: got {name!r}, expected the name of an argument, such as drop_rate")
        if key == "model_args" and name in _keys():  # in TOML, every line below [model_args] falls into that table
            raise ValueError(f"model_args: got {name!r}, a key of the recipe itself: put it above [model_args]")
        is_size = (key, name) == ("model_args", "img_size")  # (height, width): the one argument of two numbers
        if convert(value, ModelArg) is None or (isinstance(value, (list, tuple)) and not is_size):
            kind = type(value).__name__
            raise ValueError(f"{key}.{name}: got {value!r} ({kind}), expected true, false, a number or text")
        sides = list(value) if isinstance(value, (list, tuple)) else [value, value]
        if is_size and all(isinstance(side, int) for side in sides) and math.prod(sides) > MAX_PIXELS:
            raise ValueError(f"{key}.{name}: got {value!r}, expected an image of at most {MAX_PIXELS:,} pixels")


def _validate_lambdas(config: RunConfig) -> None:
    own = [key.name for key in fields(config) if _is_lambda(key.name)]
    for name, weight in config.lambda_other.items():
        if f"lambda_{name}" in own:
            raise ValueError(f"lambda_other: got {name!r}, which has a key of its own: set lambda_{name}")
        number = convert(weight, float)
        if number is None or number < 0:
            raise ValueError(f"lambda_other: got {name} = {weight!r}, expected a number at least 0")


def check_two_views(config: RunConfig, name: str) -> None:
    """Checks that there is what a term needs that compares a weak and a strong view of the unlabelled images.

    Args:
        name: of the term's weight, such as "lambda_consistency".

    Raises:
        ValueError: one line that says what to give.
    """
    if config.strong == "none":
        raise ValueError(f"{name}: needs strong views of the unlabelled images: give --strong grey or photo")
    if config.unlabeled == "none":
        raise ValueError(f"{name}: needs unlabelled images, got unlabeled = 'none': name some, or set {name} = 0")
    if not config.ema:
        raise ValueError(f"{name}: needs a teacher, the moving average of the weights: give --ema 0.99")


def lambdas(config: RunConfig) -> dict[str, Any]:
    """The weight of each term of the loss, by the term's name: `lambda_rec = 1` is "rec": 1.0."""
    own = {
        key.name.removeprefix("lambda_"): getattr(config, key.name) for key in fields(config) if _is_lambda(key.name)
    }
    return {**own, **config.lambda_other}


def fixed_keys(config: RunConfig) -> dict[str, Any]:
    """The keys and values that a resumed run must have as it began, or its result would be of no recipe at all."""
    return {key.name: getattr(config, key.name) for key in fields(config) if key.name not in MAY_CHANGE_ON_RESUME}


def without_lambdas(config: RunConfig) -> RunConfig:
    """The plain convnet's recipe: every lambda but lambda_nll 0, those of terms from outside too."""
    zero = {key.name: 0.0 for key in fields(config) if _is_lambda(key.name) and key.name != "lambda_nll"}
    return replace(config, **zero, lambda_other={}, noise=0.0)


def starts_trained(model_args: Mapping[str, Any], init: str | None) -> bool:
    """Whether a run with these keys starts from weights that have learnt, and so is fine-tuned."""
    return bool(init or model_args.get("backbone_pretrained") or model_args.get("backbone_checkpoint"))


def _is_lambda(name: str) -> bool:
    return name.startswith("lambda_") and name != "lambda_other"


def merge(config: RunConfig | None, overrides: Mapping[str, Any], adapt: bool = True) -> RunConfig:
    """Lays flags over a recipe.

    Args:
        config: the recipe; None = the defaults, which lack a length (steps or epochs must be among the overrides).
        overrides: values by key; None = not given. steps replaces the recipe's epochs and the other way round;
            tables are merged name by name.
        adapt: what the recipe says for its own data or length alone gives way, see `fallbacks`; not for a resumed run.

    Raises:
        ValueError: for an unknown key, or a value that `validate` refuses.
    """
    given = {name: value for name, value in overrides.items() if value is not None}
    check_known(given)
    if config is None:
        if adapt and not (given.get("steps") or given.get("epochs")):
            given["steps"] = -1
        if adapt and str(given.get("data", "")).startswith(OWN_IMAGES):
            given = {"num_val": -1, "warmup_steps": -1, **given}
        return RunConfig(**given)
    changed = fallbacks(config, given) if adapt else {}
    replaced = adapt and _names_backbone(given)
    given = {**changed, **given}
    for key in fields(config):
        if key.type == dict[str, ModelArg] and isinstance(given.get(key.name), Mapping):
            of_recipe = getattr(config, key.name)
            if replaced and key.name == "model_args":
                of_recipe = {name: value for name, value in of_recipe.items() if name not in OF_BACKBONE}
            given[key.name] = {**of_recipe, **given[key.name]}
    for name, other in (("steps", "epochs"), ("epochs", "steps")):
        if given.get(name) and other not in given:
            given[other] = 0
    return replace(config, **given)


OF_BACKBONE = ("backbone", "decoder", "decoder_depth", "img_size", "pools", "stages")  # arguments chosen for one
OWN_IMAGES = ("folder:", "npz:", "parquet:", "hf:")  # of the user's: no published protocol says how


def fallbacks(config: RunConfig, overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Keys that a recipe chose for its own data, backbone or length, with what they become under other ones.

    Args:
        config: the recipe.
        overrides: what the user gave; those keys stay as given.

    Returns:
        Key -> value; empty where neither `data`, nor the backbone, nor `steps` or `epochs` are others than
            the recipe's.
    """
    given = {name: value for name, value in overrides.items() if value is not None}
    changed: dict[str, Any] = {}
    data, moved = given.get("data", config.data), given.get("data", config.data) != config.data
    has_length = any(given.get(name) for name in ("steps", "epochs"))
    if moved:
        changed |= _of_rule(config, "elsewhere")
    elif _names_backbone(given):
        changed |= {name: value for name, value in _of_rule(config, "elsewhere").items() if name in ("rounds", "twin")}
    if moved and data.startswith(OWN_IMAGES):
        changed |= _of_rule(config, "own", always=True)
        if not has_length:
            changed |= {"steps": -1, "epochs": 0} if config.epochs else {"steps": -1}
    if any(given.get(name) and given[name] != getattr(config, name) for name in ("steps", "epochs")):
        changed |= _of_rule(config, "at_length")
    return {name: value for name, value in changed.items() if name not in given}


def _of_rule(config: RunConfig, rule: str, always: bool = False) -> dict[str, Any]:
    """What that rule makes of the recipe's keys: of those that it sets itself or, with ``always``, of every one."""
    return {
        key.name: key.metadata[rule]
        for key in fields(config)
        if rule in key.metadata and getattr(config, key.name) != (key.metadata[rule] if always else key.default)
    }


def _names_backbone(given: Mapping[str, Any]) -> bool:
    """Whether the user names a backbone: the size and the decoder of the recipe's own are then no longer meant."""
    return "backbone" in (given.get("model_args") or {})


def parse_model_arg(text: str, key: str = "model_args") -> tuple[str, ModelArg]:
    """Reads KEY=VALUE, typing true, false and numbers: `parse_model_arg("beta=100") == ("beta", 100)`.

    Raises:
        ValueError: where there is no '=' or no name before it.
    """
    name, equals, value = (part.strip() for part in text.partition("="))
    if not equals or not name.isidentifier():
        raise ValueError(f"{key}: got {text!r}, expected KEY=VALUE, such as drop_rate=0.5")
    if value.lower() in ("true", "false"):
        return name, value.lower() == "true"
    if _INT.fullmatch(value):
        return name, int(value)
    if name == "img_size":
        return name, parse_size(value, key=name)
    return name, float(value) if _FLOAT.fullmatch(value) else value


def parse_size(text: str, key: str = "--img-size") -> int | list[int]:
    """Height and width in pixels: `parse_size("64x96") == [64, 96]`, and `parse_size("64") == 64`.

    Raises:
        ValueError: any other text, or a side of 0.
    """
    text = text.strip()
    pair = _SIZE.fullmatch(text)
    sides = [int(side) for side in pair.groups()] if pair else [int(text)] if _INT.fullmatch(text) else []
    if not sides or min(sides) < 1:
        raise ValueError(f"{key}: got {text!r}, expected the side of the images, or HxW such as 64x96")
    return sides if len(sides) == 2 else sides[0]


def check_known(names: Iterable[str]) -> None:
    for name in names:
        if name not in _keys():
            near = nearest(name, _keys()) or "; `swwae train --help` lists them all"
            raise ValueError(f"unknown key {name!r}{near}")


def _keys() -> list[str]:
    return [key.name for key in fields(RunConfig)]


def nearest(name: str, names: list[str]) -> str:
    near = difflib.get_close_matches(name, names, n=1)
    return f"; did you mean {near[0]}?" if near else ""
