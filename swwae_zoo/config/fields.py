"""One key of a run's configuration: its rules, the check of a value against them, and the value's TOML form."""

import operator
import re
from collections.abc import Mapping
from dataclasses import Field, field
from typing import Any

ModelArg = bool | int | float | str | list[int]
_KINDS: dict[Any, str] = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "text",
    list[float]: "a list of numbers",
    float | list[float]: "a number or a list of numbers",
    ModelArg: "true, false, a number or text",
    dict[str, ModelArg]: "a table of names and values",
}
_BOUNDS = {
    "minimum": ("at least", operator.ge),
    "above": ("above", operator.gt),
    "maximum": ("at most", operator.le),
    "below": ("below", operator.lt),
}
_SURROGATE = re.compile("[\ud800-\udfff]")
# Control characters, and those that change the order of what is shown.
_ESCAPED = re.compile(r'[\x00-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069"\\]')
_ESCAPES = {"\\": r"\\", '"': r"\"", "\n": r"\n", "\t": r"\t", "\r": r"\r"}


def option(group: str, default: Any, help: str, **rules: Any) -> Any:
    """A dataclass field whose metadata hold "group", "help" and the rules.

    Args:
        group: the heading it stands under in recipes and in the command line's help.
        default: its default; a list or dict is copied.
        help: one line.
        rules: `choices` (a tuple); the bounds `minimum`, `above`, `maximum`, `below`; `required=True` for text that
            may not be empty; `flags` where they are not the name with dashes; `elsewhere` and `at_length`, what a
            recipe's value becomes under other data or another length; `two_views=True` for the weight of a term that
            compares two views.
    """
    metadata = {"group": group, "help": help, **rules}
    if isinstance(default, (list, dict)):
        return field(default_factory=default.copy, metadata=metadata)
    return field(default=default, metadata=metadata)


def flags(key: Field) -> tuple[str, ...]:
    """A key's command line flags, the one to show first: `("--labels", "--num-labels")`."""
    return key.metadata.get("flags", ("--" + key.name.replace("_", "-"),))


def checked(key: Field, value: Any) -> Any:
    """The value in the key's own type: whole numbers made floats where it is one, lists and tables copied.

    Raises:
        ValueError: one line with the key, what was got and what was expected.
    """
    typed = convert(value, key.type)
    if typed is None and isinstance(value, str) and _SURROGATE.search(value):
        raise ValueError(f"{key.name}: got {value!r}, expected text in UTF-8: rename it, or give a link to it")
    if typed is None:
        raise ValueError(f"{key.name}: got {value!r} ({type(value).__name__}), expected {expected(key)}")
    rules, numbers = key.metadata, typed if isinstance(typed, list) else [typed]
    fits = all(
        holds(number, rules[bound]) for bound, (_, holds) in _BOUNDS.items() if bound in rules for number in numbers
    )
    chosen = "choices" not in rules or typed in rules["choices"]
    if not fits or not chosen or (rules.get("required") and not str(typed).strip()):
        raise ValueError(f"{key.name}: got {typed!r}, expected {expected(key)}")
    return typed


def expected(key: Field) -> str:
    """What a key takes, in words: "a number at least 0 and below 1"."""
    rules = key.metadata
    if "choices" in rules:
        return "one of " + ", ".join(rules["choices"])
    if rules.get("required"):
        return "a name"
    bounds = [f"{words} {rules[bound]}" for bound, (words, _) in _BOUNDS.items() if bound in rules]
    return " ".join([_KINDS[key.type], " and ".join(bounds)]).strip()


def convert(value: Any, kind: Any) -> Any:
    """The value as that kind (a key of `_KINDS`), or None where it is not one. A bool is not a number here."""
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
        numbers = [convert(item, float) for item in value] if isinstance(value, (list, tuple)) else [None]
        return None if None in numbers else numbers
    if kind == float | list[float]:
        return convert(value, list[float] if isinstance(value, (list, tuple)) else float)
    if kind == list[int]:
        numbers = [convert(item, int) for item in value] if isinstance(value, (list, tuple)) and value else [None]
        return None if None in numbers else numbers
    if kind == ModelArg:
        if isinstance(value, (list, tuple)):
            return convert(value, list[int])
        return next((value for kind in (bool, int, float, str) if convert(value, kind) is not None), None)
    return dict(value) if isinstance(value, Mapping) else None


def toml_line(name: str, value: ModelArg | list[int] | list[float]) -> str:
    """`toml_line("lr", 0.001) == "lr = 0.001"`."""
    return f"{name if name.isascii() else _toml(name)} = {_toml(value)}"


def toml_comment(text: str) -> str:
    """`# text`, with line breaks escaped, so that it stays one line."""
    return "# " + _ESCAPED.sub(_escape, text)


def _toml(value: ModelArg | list[int] | list[float]) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float)):
        return repr(value)
    if isinstance(value, list):
        return f"[{', '.join(map(_toml, value))}]"
    return f'"{_ESCAPED.sub(_escape, value)}"'


def _escape(match: re.Match[str]) -> str:
    return _ESCAPES.get(match[0]) or f"\\u{ord(match[0]):04x}"
