"""What can go wrong between a client and the Hub, and when."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Status:
    """Answer with an error, and do nothing."""

    code: int
    headers: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Close:
    """Close the connection instead of answering; nothing is done."""


@dataclass(frozen=True)
class LoseResponse:
    """Do what was asked, then close the connection instead of answering."""


@dataclass(frozen=True)
class CutUpload:
    """Read so many bytes of the request's body, then close the connection."""

    after: int


@dataclass(frozen=True)
class Truncate:
    """Send so many bytes of the answer's body, then close the connection."""

    after: int


@dataclass(frozen=True)
class Corrupt:
    """Send wrong bytes of the right length; of a request that carries bytes, those arrive wrong."""


@dataclass(frozen=True)
class Call:
    """Let something else happen first, then answer."""

    what: Callable[[], object]


Fault = Status | Close | LoseResponse | CutUpload | Truncate | Corrupt | Call


@dataclass
class Rule:
    """`fault` for requests whose "METHOD /path" holds `part`: `times` of them (None: all), `skip` before let pass."""

    part: str
    fault: Fault
    times: int | None
    skip: int


class Faults:
    """The rules in force; each request asks once."""

    def __init__(self) -> None:
        self._rules: list[Rule] = []
        self._lock = threading.Lock()

    def add(self, part: str, fault: Fault, times: int | None = 1, skip: int = 0) -> None:
        self._rules.append(Rule(part, fault, times, skip))

    def clear(self) -> None:
        self._rules = []

    def take(self, request: str) -> Fault | None:
        with self._lock:
            for rule in self._rules:
                if rule.part not in request or rule.times == 0:
                    continue
                if rule.skip > 0:
                    rule.skip -= 1
                    continue
                if rule.times is not None:
                    rule.times -= 1
                return rule.fault
        return None
