"""What a run says while it works: a progress bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

from rich.console import Console, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress
from rich.text import Text

from swwae_zoo.utils.text import markup, printable

__all__ = ["Progress"]

LONGEST_NAME = 24  # characters of a run's name in front of its bar
MEASURED = 5  # steps after which the time is estimated; the first of them is not counted, it prepares
LONG = 5.0  # seconds after which a search that goes on is worth a line


class Bar(RichProgress):
    """A bar with a line below it, where a narrow terminal has room for what the bar's own would cut off."""

    said = acknowledged = ""

    def get_renderables(self) -> Iterable[RenderableType]:
        yield from super().get_renderables()
        yield Text(self.acknowledged or self.said)


class Progress:
    """Loss parts, images/s and time left, on standard error, so that standard output stays a program's.

    Args:
        console: where to; standard error by default.
        quiet: say nothing.
    """

    def __init__(self, console: Console | None = None, quiet: bool = False):
        self.console = console or Console(file=sys.stderr, highlight=False, quiet=quiet)
        self._bar: Bar | None = None
        self._steps = self._first = 0
        self._start = 0.0
        self._said = self._val = ""
        self._begun = 0.0
        self._told = time.monotonic()
        self.title = ""  # which of several nets, before its name

    def say(self, text: str) -> None:
        """A line of its own, never wrapped when it goes to a file."""
        self.console.print(text, markup=False, soft_wrap=True)

    def acknowledge(self, text: str) -> None:
        """A line from within a signal handler, which may have come in the middle of another line's writing."""
        if self._bar is not None:
            self._bar.acknowledged = text  # shown when the bar is drawn next
        elif not self.console.quiet:
            os.write(sys.stderr.fileno(), f"{text}\n".encode())

    def show(self, block: RenderableType) -> None:
        """A block of several lines."""
        self.console.print(block)

    def looked_at(self, count: int, total: int) -> None:
        """Tells how far the search for copies has come, where it takes long."""
        now = time.monotonic()
        if count <= 0 or now - self._told < LONG or count >= total:
            return
        self._told = now
        self.say(f"looking for copies of test and validation images: {count:,} of {total:,} images")

    @contextmanager
    def evaluation(self) -> Iterator[Callable[[int, int], None]]:
        """For the time of an evaluation: what is to be told how many of how many images are done."""
        start, said = time.monotonic(), self._bar.said if self._bar is not None else ""

        def tell(count: int, total: int) -> None:
            now = time.monotonic()
            if self._bar is not None and now - start > 1:
                self._bar.said = f"evaluating: {count:,} of {total:,} images"
            elif self._bar is None and now - max(start, self._told) > LONG and count < total:
                self._told = now
                self.say(f"evaluating: {count:,} of {total:,} images")

        try:
            yield tell
        finally:
            if self._bar is not None:
                self._bar.said = said

    @contextmanager
    def run(self, name: str, steps: int, first: int = 0) -> Iterator[None]:
        """The time of one run of ``steps`` steps, of which ``first`` are done."""
        self._steps, self._first, self._start, self._said, self._val = steps, first, time.monotonic(), "", ""
        name = self.title + name
        if not self.console.is_terminal:
            self.say(f"{printable(name)}: {steps} steps")
            yield
            return
        columns = (
            TextColumn("{task.description}"),
            BarColumn(bar_width=20),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("left"),
        )
        try:
            with Bar(*columns, console=self.console) as self._bar:
                room = LONGEST_NAME - len(self.title)
                tail = name.removeprefix(self.title)
                shown = tail if len(tail) <= room else f"...{tail[3 - room :]}"
                self._task = self._bar.add_task(markup(self.title + shown), total=steps, completed=first)
                yield
        finally:
            self._bar = None

    def tick(self, step: int) -> None:
        """``step`` is done; moves the bar, and says after a few steps how long all of them will take."""
        done = step - self._first
        if done == 1:
            self._begun = time.monotonic()
        elif done == MEASURED and step < self._steps:
            seconds = (time.monotonic() - self._begun) / (MEASURED - 1) * (self._steps - step)
            self.say(f"{self.title}{about(seconds)} for {self._steps - step:,} steps")
        if self._bar is not None:
            self._bar.update(self._task, completed=step)

    def step(self, step: int, parts: dict[str, float], images_per_second: float) -> None:
        """Tell of ``step``: mean loss parts since the last time, and the speed."""
        said = "  ".join(f"{name} {value:.3g}" for name, value in parts.items())
        said += f"  {images_per_second:,.0f} images/s"
        if self._bar is not None:
            self._said = said
            self._bar.said = said + self._val
            self._bar.update(self._task, completed=step)
            return
        spent = time.monotonic() - self._start
        left = spent / max(1, step - self._first) * (self._steps - step)
        self.say(f"step {step}/{self._steps}  {said}{self._val}  {left:.0f} s left")

    def evaluated(self, step: int, val_error: float) -> None:
        self._val = f"  val error {val_error:.2f} %"
        if self._bar is not None:
            self._bar.said = self._said + self._val
        else:
            self.say(f"step {step}/{self._steps}  validation error {val_error:.2f} %")


def about(seconds: float) -> str:
    """An estimate of time in words: `about(250) == "about 4 minutes"`."""
    for unit, size in (("hour", 3600), ("minute", 60)):
        if seconds >= 1.5 * size:
            return f"about {seconds / size:.0f} {unit}s"
    return "about a minute" if seconds > 45 else "less than a minute"
