"""The paper's notation for an encoder: parsed into a list of layers, and formatted.

    (64)5c-2p-(64)3c-2p-10fc

is a convolution with 64 maps and a 5x5 kernel, a 2x2 pool, a convolution with 64 maps and a 3x3 kernel,
a 2x2 pool, and a fully connected layer with 10 features. ReLUs (and batch norms) are not written.

Rules: a convolution comes first, fully connected layers come last, a pool is 2 to 16 wide (256 positions fit
a uint8 switch), a kernel is odd ("same" convolution). Upper case, spaces around '-', after ')' and at both
ends are accepted.
"""

import re
from collections.abc import Iterable
from typing import NamedTuple

MIN_POOL, MAX_POOL = 2, 16
MAX_DIGITS = 6
_DIGITS = "0123456789"  # str.isdigit also takes superscripts and other scripts' digits


class Conv(NamedTuple):
    """A "same" convolution: `(maps)kernel c`."""

    maps: int
    kernel: int


class Pool(NamedTuple):
    """A what-where pool with windows of kernel x kernel that do not overlap: `kernel p`."""

    kernel: int


class Linear(NamedTuple):
    """A fully connected layer: `features fc`."""

    features: int


Layer = Conv | Pool | Linear


class NotationError(ValueError):
    """A text that is not in the notation; the message names the offending character, with a caret below it.

    Attributes:
        text: the whole text, as given.
        column: 0-based position of the offending character; `len(text)` where something is missing at the end.
        expected: what was expected there.
    """

    def __init__(self, text: str, column: int, expected: str) -> None:
        self.text, self.column, self.expected = text, column, expected
        number = re.match("[0-9]+", text[column:])
        got = repr(number[0] if number else text[column]) if column < len(text) else "the end"
        # A tab or a line break would push the caret away from its character.
        shown = "".join(char if char.isprintable() else " " for char in text)
        place = f"at character {column + 1} of {text!r}" if text else "of an empty text"
        super().__init__(f"notation: got {got} {place}, expected {expected}\n  {shown}\n  {' ' * column}^")


def parse(text: str) -> tuple[Layer, ...]:
    """Parses the notation: `parse("(64)5c-2p-10fc") == (Conv(64, 5), Pool(2), Linear(10))`.

    Args:
        text: layers joined by '-'.

    Returns:
        The layers, shallow to deep; at least one, the first a `Conv`.

    Raises:
        NotationError: (a ValueError) naming the first offending character and what was expected there.
    """
    if not isinstance(text, str):
        raise ValueError(f"notation: got {text!r} ({type(text).__name__}), expected text such as '(64)5c-2p-10fc'")
    return _Reader(text).layers()


def format(layers: Iterable[Layer]) -> str:
    """Formats layers in the notation; `parse(format(layers)) == tuple(layers)`.

    Raises:
        TypeError: for anything that is not a `Conv`, `Pool` or `Linear`.
        NotationError: (a ValueError) for layers that break a rule.
    """
    text = "-".join(_format_layer(layer) for layer in layers)
    parse(text)
    return text


def _format_layer(layer: Layer) -> str:
    match layer:
        case Conv(maps, kernel):
            return f"({maps}){kernel}c"
        case Pool(kernel):
            return f"{kernel}p"
        case Linear(features):
            return f"{features}fc"
    raise TypeError(f"got {layer!r}, expected a Conv, Pool or Linear")


class _Reader:
    """Parser of one text, from left to right; `at` is the position of the next character."""

    def __init__(self, text: str) -> None:
        self.text, self.at = text, 0

    def layers(self) -> tuple[Layer, ...]:
        layers: list[Layer] = []
        while True:
            self.spaces()
            start = self.at
            layer = self.layer(first=not layers)
            if layers and isinstance(layers[-1], Linear) and not isinstance(layer, Linear):
                raise self.error("a fully connected layer such as 10fc, as the one before it is one", start)
            layers.append(layer)
            self.spaces()
            if self.at == len(self.text):
                return tuple(layers)
            self.take("-", "'-' and another layer, or the end")

    def layer(self, first: bool) -> Layer:
        start = self.at
        if self.next() == "(":
            self.at += 1
            maps = self.number("a number of maps, 1 or more", minimum=1)
            self.take(")", "')' after the number of maps")
            self.spaces()
            kernel_at = self.at
            kernel = self.number("an odd kernel size, such as 3 or 5", minimum=1)
            if kernel % 2 == 0:
                raise self.error("an odd kernel size, such as 3 or 5", kernel_at)
            self.take("c", "'c' after the kernel size")
            return Conv(maps, kernel)
        if first:
            raise self.error("a convolution first, such as (64)5c")
        size = self.number("a layer, such as (64)3c, 2p or 10fc", minimum=0)
        if self.next() == "p":
            if not MIN_POOL <= size <= MAX_POOL:
                raise self.error(f"a pool size from {MIN_POOL} to {MAX_POOL}", start)
            self.at += 1
            return Pool(size)
        self.take("f", "'p' for a pool or 'fc' for a fully connected layer; a convolution is written (64)3c")
        self.take("c", "'c', to end 'fc'")
        if size < 1:
            raise self.error("a number of features, 1 or more", start)
        return Linear(size)

    def number(self, expected: str, minimum: int) -> int:
        start = self.at
        while self.at < len(self.text) and self.text[self.at] in _DIGITS:
            self.at += 1
        digits = self.text[start : self.at]
        if len(digits) > MAX_DIGITS:
            raise self.error(f"a number of at most {MAX_DIGITS} digits", start)
        if not digits or int(digits) < minimum:
            raise self.error(expected, start)
        return int(digits)

    def take(self, char: str, expected: str) -> None:
        if self.next() != char:
            raise self.error(expected)
        self.at += 1

    def next(self) -> str:
        return self.text[self.at : self.at + 1].lower()

    def spaces(self) -> None:
        while self.next().isspace():
            self.at += 1

    def error(self, expected: str, column: int | None = None) -> NotationError:
        return NotationError(self.text, self.at if column is None else column, expected)
