"""What `swwae tune` searches: a range for each key of a recipe."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any

from swwae_zoo.config import ModelArg, RunConfig, lambdas, parse_model_arg
from swwae_zoo.config.schema import nearest

__all__ = ["Range", "default_ranges", "nested", "parse_ranges", "value_of"]

# Other values of these change what is compared, and not how well a net learns.
_FIXED = {"num_labels", "num_val", "seed", "rounds", "eval_every", "save_every", "log_every"}
_FACTOR = 10  # a positive value is searched from a tenth of the recipe's to ten times it
_HIGHEST_DROPOUT = 0.7
_DECAY = (1e-5, 0.1)  # where the recipe has none


@dataclass(frozen=True)
class Range:
    """From `low` to `high`, both included.

    Args:
        key: of a recipe, or TABLE.NAME, such as model_args.drop_rate.
        log: even on a logarithmic scale.
        whole: whole numbers alone.
    """

    key: str
    low: float
    high: float
    log: bool = False
    whole: bool = False

    def __str__(self) -> str:
        return f"{self.key}={self.low:g}:{self.high:g}{':log' * self.log}"

    def nearest(self, value: float) -> float:
        """The value, or the end of the range that it lies beyond."""
        return min(max(value, self.low), self.high)


def default_ranges(config: RunConfig, has_dropout: bool) -> list[Range]:
    """The lambdas that the recipe uses, learning rates, weight decay, dropout where the model has it, and length."""
    active = [
        f"lambda_{name}"
        for name, weight in lambdas(config).items()
        if name != "nll" and not isinstance(weight, list) and weight > 0 and name not in config.lambda_other
    ]
    active += [f"lambda_other.{name}" for name, weight in config.lambda_other.items() if weight]
    rates = ["lr", *(["lr_encoder"] if config.lr_encoder else []), "weight_decay"]
    dropout = ["model_args.drop_rate"] if has_dropout else []
    return [default_range(key, config) for key in (*active, *rates, *dropout, _length(config))]


def default_range(key: str, config: RunConfig) -> Range:
    """The range of one key around the recipe's value.

    Raises:
        ValueError: a key without a positive number in the recipe, so that there is nothing to lie around.
    """
    value = value_of(config, key)
    if key == "model_args.drop_rate":
        return Range(key, 0.0, _HIGHEST_DROPOUT)
    if key == "weight_decay" and not value:
        return Range(key, *_DECAY, log=True)
    if key in ("steps", "epochs") and value:
        return Range(key, max(1, int(value) // 2), 2 * int(value), log=True, whole=True)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or value <= 0:
        raise ValueError(f"search: {key} is {value!r} in this recipe: say from where to where, {key}=LOW:HIGH[:log]")
    low = value / _FACTOR
    return Range(key, max(low, config.min_lr) if key == "lr" else low, value * _FACTOR, log=True)


def parse_ranges(texts: Iterable[str], config: RunConfig) -> list[Range]:
    """Reads `--search KEY=LOW:HIGH[:log]`, or KEY for its range around the recipe's value.

    KEY is a key of a recipe that is a number, TABLE.NAME, "dropout" or "length".

    Raises:
        ValueError: one line with what was got and what was expected.
    """
    found: dict[str, Range] = {}
    for text in texts:
        given, equals, bounds = (part.strip() for part in text.partition("="))
        key = {"dropout": "model_args.drop_rate", "length": _length(config)}.get(given, given)
        is_whole = _check_key(key)
        if key in found:
            raise ValueError(f"search: got {key} twice, expected it once")
        found[key] = _parsed(text, key, bounds, is_whole) if equals else default_range(key, config)
    return list(found.values())


def _parsed(text: str, key: str, bounds: str, is_whole: bool | None) -> Range:
    low, *more = (part.strip() for part in bounds.split(":"))
    if len(more) not in (1, 2) or more[1:] not in ([], ["log"]):
        raise ValueError(f"search: got {text!r}, expected KEY=LOW:HIGH or KEY=LOW:HIGH:log, such as lr=1e-4:1e-2:log")
    ends = [parse_model_arg(f"value={end}", "search")[1] for end in (low, more[0])]
    numbers = [float(end) for end in ends if isinstance(end, (int, float)) and type(end) is not bool]
    numbers = [number for number in numbers if math.isfinite(number)]
    if len(numbers) < 2:
        raise ValueError(f"search: got {text!r}, expected numbers on both sides of the colon")
    all_whole = all(isinstance(end, int) for end in ends)
    if is_whole and not all_whole:
        raise ValueError(f"search: got {text!r}, but {key} is a whole number: expected whole ends")
    if not numbers[0] < numbers[1]:
        raise ValueError(f"search: got {text!r}, expected the lower end first")
    if key == "model_args.drop_rate" and not 0 <= numbers[0] < numbers[1] < 1:
        raise ValueError(f"search: got {text!r}, expected a drop_rate of at least 0 and below 1")
    if len(more) == 2 and numbers[0] <= 0:
        raise ValueError(f"search: got {text!r}, but a logarithmic range begins above 0")
    return Range(key, *numbers, log=len(more) == 2, whole=all_whole if is_whole is None else is_whole)


def _check_key(key: str) -> bool | None:
    """Whether the key takes whole numbers alone; None where nobody says (a name in a table)."""
    known = {field.name: field.type for field in fields(RunConfig)}
    table, dot, name = key.partition(".")
    if dot and known.get(table) == dict[str, ModelArg] and name.isidentifier():
        return None
    numbers = [name for name, kind in known.items() if kind in (int, float, float | list[float]) and name not in _FIXED]
    if key not in numbers:
        hint = nearest(key, numbers)
        if known.get(key) == dict[str, ModelArg]:
            hint = f"; name one of it, such as {key}.NAME"
        elif not hint:
            hint = f"; expected a key that is a number and is learnt with: {', '.join(numbers)}, dropout, length"
        raise ValueError(f"search: {key!r} cannot be searched{hint}")
    return known[key] is int


def _length(config: RunConfig) -> str:
    return "steps" if config.steps else "epochs"


def value_of(config: RunConfig, key: str) -> Any:
    """The recipe's value of a key, or of TABLE.NAME; None where the table lacks it."""
    table, dot, name = key.partition(".")
    return getattr(config, table).get(name) if dot else getattr(config, key)


def nested(values: Mapping[str, Any]) -> dict[str, Any]:
    """`{"lr": 0.1, "model_args.drop_rate": 0.5}` -> `{"lr": 0.1, "model_args": {"drop_rate": 0.5}}`."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        table, dot, name = key.partition(".")
        if dot:
            found.setdefault(table, {})[name] = value
        else:
            found[key] = value
    return found
