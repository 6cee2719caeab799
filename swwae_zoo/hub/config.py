"""config.json, which can come from anyone: read, typed and bounded before anything is built from it.

It may name one of our registered models and the arguments that such a model takes, within bounds; it names no path,
no address and no code.  `expected_tensors` then says what the weights beside it must be, without a byte of memory.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import timm
import torch
from timm.models import is_model, model_entrypoint
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from swwae_zoo.data.transforms import CONTRASTS
from swwae_zoo.hub.errors import HubError

__all__ = [
    "ARGS_OF",
    "ModelConfig",
    "Rule",
    "Undrawn",
    "build_empty",
    "flag",
    "number",
    "one_of",
    "read_model_config",
    "text",
    "whole",
]

MAX_BYTES = 2**20
MAX_PARAMS = 2**30
MAX_SIDE, MAX_CHANS, MAX_CLASSES = 2048, 1024, 1_000_000
CONTRAST_NOTE = "contrast="  # timm's cfg has no place for it but its notes


class Rule(NamedTuple):
    """fits: whether a value may stand there. expected: what may, in words."""

    fits: Callable[[Any], bool]
    expected: str


def whole(low: int, high: int) -> Rule:
    return Rule(lambda value: type(value) is int and low <= value <= high, f"a whole number from {low} to {high}")


def number(low: float, high: float) -> Rule:
    return Rule(
        lambda value: type(value) in (int, float) and math.isfinite(value) and low <= value <= high,
        f"a number from {low} to {high}",
    )


def flag() -> Rule:
    return Rule(lambda value: type(value) is bool, "true or false")


def one_of(*choices: Any) -> Rule:
    return Rule(lambda value: isinstance(value, str) and value in choices, f"one of {', '.join(map(repr, choices))}")


def text(longest: int) -> Rule:
    return Rule(lambda value: isinstance(value, str) and len(value) <= longest, f"text of at most {longest} characters")


def listed(rule: Rule, least: int, most: int) -> Rule:
    return Rule(
        lambda value: isinstance(value, list) and least <= len(value) <= most and all(map(rule.fits, value)),
        f"a list of {least} to {most}, each {rule.expected}",
    )


def either(*rules: Rule) -> Rule:
    return Rule(lambda value: any(rule.fits(value) for rule in rules), " or ".join(rule.expected for rule in rules))


NOTHING = Rule(lambda value: value is None, "null")
SIZE = Rule(
    lambda value: (
        isinstance(value, list)
        and len(value) == 3
        and whole(1, MAX_CHANS).fits(value[0])
        and all(map(whole(1, MAX_SIDE).fits, value[1:]))
    ),
    f"[channels, height, width], at most {MAX_CHANS} and {MAX_SIDE}",
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

ARGS_OF: dict[str, Mapping[str, Rule]] = {}  # architecture -> rules of its arguments; each model file registers its own

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

    @property
    def contrast(self) -> str:
        """How each image's contrast was normalised in training: "none" or "image"."""
        notes = self.pretrained_cfg.get("notes") or ()
        given = [
            note.removeprefix(CONTRAST_NOTE)
            for note in ([notes] if isinstance(notes, str) else notes)
            if note.startswith(CONTRAST_NOTE)
        ]
        return given[0] if given else "none"


def read_model_config(path: Path, where: str | None = None) -> ModelConfig:
    """Reads and checks ``path``.

    Args:
        where: whose it is, for errors; the path by default.

    Raises:
        HubError: anything but a configuration of one of our models; one line.
    """
    where = where or str(path)
    try:
        if path.stat().st_size > MAX_BYTES:
            raise HubError(f"{where}: config.json has {path.stat().st_size:,} bytes, expected at most {MAX_BYTES:,}")
        content = json.loads(path.read_text(encoding="utf-8"), parse_constant=_refuse_constant)
    except HubError:
        raise
    except OSError as error:
        raise HubError(f"{where}: config.json can't be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise HubError(f"{where}: config.json is not valid JSON: {str(error):.100}") from error
    return check_model_config(content, where)


def check_model_config(content: Any, where: str) -> ModelConfig:
    """The typed configuration in parsed JSON.

    Raises:
        HubError: as `read_model_config`.
    """
    content = _table(content, "", where)
    args = _table(content.pop("model_args", {}), "model_args", where)
    pretrained_cfg = _table(content.pop("pretrained_cfg", None), "pretrained_cfg", where)
    if "label_descriptions" in content:
        _table(content.pop("label_descriptions"), "label_descriptions", where)  # nothing is made of them
    _check(content, TOP, "", where)
    architecture = content.get("architecture")
    if not is_ours(architecture):
        raise HubError(
            f"{where}: config.json says architecture {architecture!r}, expected a model of swwae_zoo "
            f"({', '.join(timm.list_models('swwae*'))}); for another use timm itself"
        )
    _check(args, ARGS_OF[architecture], "model_args.", where)
    _check(pretrained_cfg, PRETRAINED, "pretrained_cfg.", where)
    if "num_classes" in content:
        pretrained_cfg["num_classes"] = content["num_classes"]
    pretrained_cfg = {**pretrained_cfg, "architecture": architecture, "custom_load": False}
    config = ModelConfig(architecture, args, pretrained_cfg)
    if config.contrast not in CONTRASTS:
        raise HubError(
            f"{where}: config.json notes contrast={config.contrast[:50]!r}, expected one of {', '.join(CONTRASTS)}"
        )
    return config


def is_ours(architecture: Any) -> bool:
    """Whether a registered model of that exact name is this package's."""
    if not isinstance(architecture, str) or "." in architecture or not is_model(architecture):
        return False
    return (
        architecture in ARGS_OF
        and model_entrypoint(architecture).__module__.partition(".")[0] == __name__.partition(".")[0]
    )


class Undrawn(TorchFunctionMode):
    """While this is open, modules don't draw their first weights, which takes longer than all else where they are loaded over."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__module__", "") == "torch.nn.init":
            return kwargs["tensor"] if "tensor" in kwargs else args[0]
        return args[0] if func in (Tensor.normal_, Tensor.uniform_) else func(*args, **kwargs)


def build_empty(config: ModelConfig, where: str) -> nn.Module:
    """The model that was saved, on the meta device: shapes without memory.

    Raises:
        HubError: the model refuses its arguments, or is absurdly large.
    """
    try:
        with torch.device("meta"), Undrawn():
            model = timm.create_model(
                config.architecture, pretrained_cfg=dict(config.pretrained_cfg), **config.model_args
            )
    except (ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        raise HubError(
            f"{where}: no model can be built from config.json: {' '.join(str(error).split()):.300}"
        ) from error
    params = sum(parameter.numel() for parameter in model.parameters())
    if params > MAX_PARAMS:
        raise HubError(
            f"{where}: config.json asks for a model of {params:,} parameters, expected at most {MAX_PARAMS:,}"
        )
    said = {
        "num_classes": config.pretrained_cfg.get("num_classes"),
        "in_chans": (config.pretrained_cfg.get("input_size") or [None])[0],
    }
    for key, value in said.items():  # timm would leave a layer out, or change it, and say nothing
        if value is not None and value != getattr(model, key, value):
            raise HubError(
                f"{where}: config.json says {key} = {value} in one place, and builds a model of {getattr(model, key)}"
            )
    names = dict(model.named_modules())
    for key in ("first_conv", "classifier"):
        named = config.pretrained_cfg.get(key)
        for name in [named] if isinstance(named, str) else named or ():
            fits = (
                isinstance(names.get(name), nn.Conv2d)
                if key == "first_conv"
                else names.get(name) in _classifiers(model)
            )
            if not fits:
                raise HubError(f"{where}: config.json says {key} = {name!r}, which is none of this model")
    return model


def _classifiers(model: nn.Module) -> list[nn.Module]:
    found = model.get_classifier()
    return list(found) if isinstance(found, (tuple, list)) else [found]


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is no number")


def _table(value: Any, name: str, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise HubError(
            f"{where}: config.json{f', {name}' if name else ''}: got {type(value).__name__}, expected a table of names and values"
        )
    return dict(value)


def _check(table: dict[str, Any], rules: Mapping[str, Rule], prefix: str, where: str) -> None:
    for name, value in table.items():
        rule = rules.get(name)
        if rule is None:
            raise HubError(f"{where}: config.json says {(prefix + name)[:100]!r}, which is none of {', '.join(rules)}")
        if not rule.fits(value):
            raise HubError(f"{where}: config.json: {prefix}{name} is {repr(value)[:80]}, expected {rule.expected}")
