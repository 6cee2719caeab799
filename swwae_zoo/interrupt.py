"""SIGINT and SIGTERM as a flag: the step under way ends, the state is saved, then the program stops."""
from __future__ import annotations

import signal
import threading
from types import FrameType

__all__ = ["Interrupt", "Stopped"]


class Stopped(KeyboardInterrupt):
    """A run was told to stop and has saved its state; ``exit_code`` is 128 + the signal's number."""

    def __init__(self, message: str, signal_number: int):
        super().__init__(message)
        self.exit_code = 128 + signal_number


class Interrupt:
    """Context in which the first SIGINT or SIGTERM only sets a flag; a second one stops at once.

    True once a signal has come.  Off the main thread, where signals can't be handled, it stays False.
    """

    def __init__(self) -> None:
        self.signal_number = 0
        self._previous: dict[int, object] = {}

    def __enter__(self) -> Interrupt:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._previous[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._restore()

    def __bool__(self) -> bool:
        return self.signal_number != 0

    def stopped(self, message: str) -> Stopped:
        return Stopped(message, self.signal_number)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.signal_number = number
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous.clear()
