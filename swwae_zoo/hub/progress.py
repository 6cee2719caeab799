"""Progress bars on a terminal; elsewhere nothing but the result, or one line of an error."""
from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars, logging

__all__ = ["quiet_unless_terminal"]


@contextmanager
def quiet_unless_terminal() -> Iterator[None]:
    """The client's own warnings of each try are left out; its bars too where stderr is no terminal."""
    verbosity, had_bars = logging.get_verbosity(), not are_progress_bars_disabled()
    logging.set_verbosity_error()
    if had_bars and not sys.stderr.isatty():
        disable_progress_bars()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if had_bars and are_progress_bars_disabled():
            enable_progress_bars()
