"""config.json, which can come from anyone: read, typed and bounded before anything is built from it.

It may name one of our registered models and the arguments that such a model takes; it names no path, no address and no
code.  Models register the rules of their arguments with `register_arguments`.  A file from the Hub is held to bounds;
one in a local folder, which may be a run's own, to types alone: what training accepted, loading accepts.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import timm
from timm.models import is_model, model_entrypoint

from swwae_zoo.hub.errors import HubError
from swwae_zoo.utils.text import printable

__all__ = [
    "ModelConfig",
    "Rule",
    "check_model_config",
    "either",
    "flag",
    "is_ours",
    "listed",
    "number",
    "one_of",
    "read_model_config",
    "register_arguments",
    "text",
    "whole",
]

MAX_BYTES = 2**20
MAX_LOCAL_BYTES = 2**26
MAX_SIDE, MAX_CHANS, MAX_CLASSES = 2048, 1024, 1_000_000


class Rule(NamedTuple):
    """What may stand as a value.

    fits: whether a value from the Hub may. expected: what may, in words. type_fits: whether a value of a local folder
    may; None: as ``fits``.
    """

    fits: Callable[[Any], bool]
    expected: str
    type_fits: Callable[[Any], bool] | None = None

    def allows(self, value: Any, local: bool) -> bool:
        return (self.type_fits if local and self.type_fits is not None else self.fits)(value)


def whole(low: int, high: int) -> Rule:
    return Rule(
        lambda value: type(value) is int and low <= value <= high,
        f"a whole number from {low} to {high}",
        lambda value: type(value) is int and low <= value,
    )


def number(low: float, high: float) -> Rule:
    def is_number(value: Any) -> bool:
        return type(value) is int or type(value) is float and math.isfinite(value)

    return Rule(lambda value: is_number(value) and low <= value <= high, f"a number from {low} to {high}", is_number)


def flag() -> Rule:
    return Rule(lambda value: type(value) is bool, "true or false")


def one_of(*choices: Any) -> Rule:
    return Rule(lambda value: isinstance(value, str) and value in choices, f"one of {', '.join(map(repr, choices))}")


def text(longest: int) -> Rule:
    return Rule(
        lambda value: isinstance(value, str) and len(value) <= longest,
        f"text of at most {longest} characters",
        lambda value: isinstance(value, str),
    )


def listed(rule: Rule, least: int, most: int) -> Rule:
    return Rule(
        lambda value: isinstance(value, list) and least <= len(value) <= most and all(map(rule.fits, value)),
        f"a list of {least} to {most}, each {rule.expected}",
        lambda value: isinstance(value, list) and all(rule.allows(each, True) for each in value),
    )


def either(*rules: Rule) -> Rule:
    return Rule(
        lambda value: any(rule.fits(value) for rule in rules),
        " or ".join(rule.expected for rule in rules),
        lambda value: any(rule.allows(value, True) for rule in rules),
    )


NOTHING = Rule(lambda value: value is None, "null")


def _is_size(value: Any, chans: Rule, side: Rule, local: bool) -> bool:
    is_three = isinstance(value, list) and len(value) == 3
    return is_three and chans.allows(value[0], local) and all(side.allows(each, local) for each in value[1:])


SIZE = Rule(
    lambda value: _is_size(value, whole(1, MAX_CHANS), whole(1, MAX_SIDE), local=False),
    f"[channels, height, width], at most {MAX_CHANS} and {MAX_SIDE}",
    lambda value: _is_size(value, whole(1, MAX_CHANS), whole(1, MAX_SIDE), local=True),
)
MODULE = Rule(
    lambda value: (
        isinstance(value, str)
        and len(value) < 200
        and all(map(str.isidentifier, ("_" + part for part in value.split("."))))
    ),
    "the name of a module",
)
TEXTS = either(text(4000), listed(text(4000), 0, 100))

_SCALAR = either(NOTHING, flag(), number(-(2**16), 2**16), text(100))
_ARGUMENT = either(_SCALAR, listed(either(_SCALAR, listed(_SCALAR, 0, 64)), 0, 64))  # a backbone's, which we don't know
# timm's and torch's own: where weights come from, what else is built, where it lies.
_NEVER = frozenset(
    (
        "backbone_checkpoint", "backbone_pretrained", "cache_dir", "checkpoint_path", "device", "dtype", "exportable",
        "feature_cfg", "feature_cls", "features_only", "file", "hf_hub_id", "kwargs_filter", "model_cfg", "model_cls",
        "model_name", "no_jit", "out_indices", "pretrained", "pretrained_cfg", "pretrained_cfg_overlay",
        "pretrained_filter_fn", "pretrained_model_args", "pretrained_strict", "pruned", "scriptable", "state_dict",
        "url", "variant",
    )
)  # fmt: skip


class _Arguments(NamedTuple):
    rules: Mapping[str, Rule]
    others: bool


_ARGUMENTS: dict[str, _Arguments] = {}


def register_arguments(architectures: Iterable[str], rules: Mapping[str, Rule], others: bool = False) -> None:
    """Lets config.json describe a model; called by the file that registers it with timm.

    Args:
        architectures: registered names.
        rules: name of an argument -> what may stand there.
        others: whether other arguments may be there too, scalars and short lists of them: those of a backbone.
    """
    _ARGUMENTS.update(dict.fromkeys(architectures, _Arguments(rules, others)))


_PAIR = either(NOTHING, listed(whole(0, MAX_SIDE), 2, 2))
PRETRAINED = {
    "architecture": text(100),
    "tag": either(NOTHING, text(100)),
    "custom_load": Rule(lambda value: value is False, "false"),
    "num_classes": whole(0, MAX_CLASSES),
    "input_size": SIZE,
    "test_input_size": SIZE,
    "min_input_size": SIZE,
    "fixed_input_size": flag(),
    "pool_size": _PAIR,
    "test_pool_size": _PAIR,
    "interpolation": one_of("nearest", "bilinear", "bicubic", "lanczos", "random"),
    "crop_mode": one_of("center", "squash", "border"),
    "crop_pct": number(0.01, 10),
    "test_crop_pct": number(0.01, 10),
    "mean": listed(number(-1e3, 1e3), 1, MAX_CHANS),
    "std": listed(number(1e-6, 1e3), 1, MAX_CHANS),
    "first_conv": either(NOTHING, MODULE, listed(MODULE, 1, 20)),
    "classifier": either(NOTHING, MODULE, listed(MODULE, 1, 20)),
    "label_names": listed(text(1000), 0, MAX_CLASSES),
    "license": text(100),
    "description": text(4000),
    "origin_url": text(1000),
    "paper_name": text(1000),
    "paper_ids": TEXTS,
    "notes": TEXTS,
}
TOP = {
    "architecture": text(100),
    "num_classes": whole(0, MAX_CLASSES),
    "num_features": whole(0, MAX_CLASSES * 100),
    "global_pool": text(100),
    "label_names": listed(text(1000), 0, MAX_CLASSES),
}


class ModelConfig(NamedTuple):
    """What a checked config.json says.

    architecture: one of our models' names.
    model_args: arguments for it.
    pretrained_cfg: timm's, without any source of weights.
    """

    architecture: str
    model_args: dict[str, Any]
    pretrained_cfg: dict[str, Any]


def read_model_config(path: Path, where: str | None = None, local: bool = False) -> ModelConfig:
    """Reads and checks ``path``.

    Args:
        where: whose it is, for errors; the path by default.
        local: it lies in a folder of the user's: types are checked, sizes are not.

    Raises:
        HubError: anything but a configuration of one of our models; one line.
    """
    where, largest = printable(where or path), MAX_LOCAL_BYTES if local else MAX_BYTES
    try:
        if not path.is_file():
            raise HubError(f"{where}: config.json is no regular file: give a folder that `swwae train` or a pull wrote")
        if path.stat().st_size > largest:
            raise HubError(f"{where}: config.json has {path.stat().st_size:,} bytes, expected at most {largest:,}")
        content = json.loads(path.read_text(encoding="utf-8"), parse_constant=_refuse_constant)
    except HubError:
        raise
    except OSError as error:
        raise HubError(f"{where}: config.json can't be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise HubError(f"{where}: config.json is not valid JSON: {str(error):.100}") from error
    return check_model_config(content, where, local)


def check_model_config(content: Any, where: str, local: bool = False) -> ModelConfig:
    """The typed configuration in parsed JSON.

    Raises:
        HubError: as `read_model_config`.
    """
    content = _table(content, "", where)
    args = _table(content.pop("model_args", {}), "model_args", where)
    pretrained_cfg = _table(content.pop("pretrained_cfg", None), "pretrained_cfg", where)
    if "label_descriptions" in content:
        _table(content.pop("label_descriptions"), "label_descriptions", where)  # nothing is made of them
    _check(content, TOP, "", where, local)
    architecture = content.get("architecture")
    if not is_ours(architecture):
        raise HubError(
            f"{where}: config.json says architecture {printable(repr(architecture), 100)}, expected a model of "
            f"swwae_zoo ({', '.join(timm.list_models('swwae*'))}); for another use timm itself"
        )
    arguments = _ARGUMENTS[architecture]
    _check(args, arguments.rules, "model_args.", where, local, arguments.others)
    _check(pretrained_cfg, PRETRAINED, "pretrained_cfg.", where, local)
    for key in ("num_classes", "label_names"):
        if key in content:
            pretrained_cfg[key] = content[key]
    pretrained_cfg = {**pretrained_cfg, "architecture": architecture, "custom_load": False}
    return ModelConfig(architecture, args, pretrained_cfg)


def is_ours(architecture: Any) -> bool:
    """Whether a registered model of that exact name is this package's."""
    if not isinstance(architecture, str) or "." in architecture or not is_model(architecture):
        return False
    return (
        architecture in _ARGUMENTS
        and model_entrypoint(architecture).__module__.partition(".")[0] == __name__.partition(".")[0]
    )


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is no number")


def _table(value: Any, name: str, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        of = f", {name}" if name else ""
        raise HubError(f"{where}: config.json{of}: got {type(value).__name__}, expected a table of names and values")
    return dict(value)


def _check(
    table: dict[str, Any], rules: Mapping[str, Rule], prefix: str, where: str, local: bool, others: bool = False
) -> None:
    for name, value in table.items():
        rule = rules.get(name)
        if rule is None and others and name.isidentifier() and name not in _NEVER:
            rule = _ARGUMENT
        if rule is None:
            known = ", ".join(rules) + (" or an argument of the backbone" if others else "")
            raise HubError(f"{where}: config.json says {printable(repr(prefix + name), 100)}, which is none of {known}")
        if not rule.allows(value, local):
            raise HubError(
                f"{where}: config.json: {printable(prefix + name, 100)} is {printable(repr(value), 80)}, "
                f"expected {rule.expected}"
            )
