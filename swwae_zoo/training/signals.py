"""SIGINT and SIGTERM end a program in one line; while a run trains, only when its state is saved."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

__all__ = ["Interrupt", "Stopped"]


class Stopped(KeyboardInterrupt):
    """A run was told to stop; ``exit_code`` is 128 + the signal's number."""

    def __init__(self, message: str, signal_number: int):
        super().__init__(message)
        self.exit_code = 128 + signal_number


class Interrupt:
    """Context in which SIGINT and SIGTERM raise `Stopped`: at once or, inside `deferred`, when `check` is called.

    True once a signal has come. A second signal has its usual effect, unless ``patient``. Outside the main thread,
    where signals can't be handled, it stays False.

    Args:
        advice: what the user can do then, appended to every message. The attribute ``tell`` is called with a line as
            soon as a signal has come that waits for the end of a step.
        patient: leave further signals without effect: launchers send their processes several for one Ctrl-C, and
            end those that don't stop in time themselves.
    """

    def __init__(self, advice: str = "", patient: bool = False) -> None:
        self.advice, self.patient = advice, patient
        self.signal_number = 0
        self.tell: Callable[[str], None] = lambda line: None
        self._deferred = False
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> Interrupt:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._previous[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._restore()

    def __bool__(self) -> bool:
        return self.signal_number != 0

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """Inside, a signal only sets the flag, so that what is under way can be brought to an end and saved."""
        self._deferred = True
        try:
            yield
        finally:
            self._deferred = False

    def check(self, message: str, number: int | None = None) -> None:
        """Raises `Stopped` with the message if a signal has come.

        Args:
            number: the signal, 0 for none, where processes have agreed on it; else the one that came here.
        """
        number = self.signal_number if number is None else number
        if number:
            raise Stopped(message + (f"; {self.advice}" if self.advice else ""), number)

    def _note(self, number: int, frame: FrameType | None) -> None:
        first, self.signal_number = not self, number
        if not self.patient:
            self._restore()
        if not self._deferred and first:
            self.check("stopped")
        if first:
            again = "" if self.patient else " (once more: at once, unsaved)"
            self.tell(f"stopping after this step, then saving{again} ...")

    def _restore(self) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous.clear()
