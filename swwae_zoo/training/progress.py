"""What a run says while it works: a progress bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from rich.console import Console, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress
from rich.text import Text

from swwae_zoo.utils.text import markup

__all__ = ["Progress"]


class Bar(RichProgress):
    """A bar with a line below it, where a narrow terminal has room for what the bar's own would cut off."""

    said = ""

    def get_renderables(self) -> Iterable[RenderableType]:
        yield from super().get_renderables()
        yield Text(self.said)


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

    def say(self, text: str) -> None:
        """A line of its own, never wrapped when it goes to a file."""
        self.console.print(text, markup=False, soft_wrap=True)

    @contextmanager
    def run(self, name: str, steps: int, first: int = 0) -> Iterator[None]:
        """The time of one run of ``steps`` steps, of which ``first`` are done."""
        self._steps, self._first, self._start, self._said, self._val = steps, first, time.monotonic(), "", ""
        if not self.console.is_terminal:
            self.say(f"{name}: {steps} steps")
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
                self._task = self._bar.add_task(markup(name), total=steps, completed=first)
                yield
        finally:
            self._bar = None

    def tick(self, step: int) -> None:
        """``step`` is done; moves the bar only."""
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
