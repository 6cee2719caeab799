"""Progress bars on a terminal; elsewhere nothing but the result, or one line of an error."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from huggingface_hub import hf_hub_download
from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars, logging, tqdm

__all__ = ["bar_of", "quiet_unless_terminal"]


def bar_of(name: str) -> dict[str, Any]:
    """For `hf_hub_download`: a progress bar labelled with the file's name.

    The client's own is labelled with the end of the address, signature included, where the server sends no name.
    """

    class Bar(tqdm):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **{**kwargs, "desc": name})

    return {"tqdm_class": Bar} if "tqdm_class" in inspect.signature(hf_hub_download).parameters else {}


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
