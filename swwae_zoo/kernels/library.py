"""Chooses and loads the C kernels that were built when the package was installed (`setup.py`). Doesn't import torch.

There is one shared library per instruction set. The widest that the processor can run is loaded.

Environment:
    SWWAE_KERNELS   "auto" (default): the fastest there is, else plain torch. "off": plain torch. "require": an error
                    where plain torch would be used. "baseline", "avx2" or "avx512": that instruction set or an error.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path
from typing import NamedTuple

__all__ = ["INSTRUCTION_SETS", "Loaded", "describe", "load", "open_library", "runnable"]

INSTRUCTION_SETS = ("baseline", "avx2", "avx512")  # from the narrowest on, as `instruction_set` of runtime.c counts
_FOLDER = Path(__file__).parent
_REMEDY = "install a C compiler (gcc or clang) and install swwae_zoo again"


class Loaded(NamedTuple):
    """What `load` found: the instruction set and its library, or no library and why."""

    name: str
    library: ctypes.CDLL | None
    reason: str = ""


@functools.cache
def load() -> Loaded:
    """The kernels to use. Reads the environment once.

    Raises:
        ValueError: SWWAE_KERNELS has an unknown value, or what it requires can't be loaded.
    """
    wish = os.environ.get("SWWAE_KERNELS", "auto")
    if wish not in ("auto", "off", "require", *INSTRUCTION_SETS):
        raise ValueError(
            f"SWWAE_KERNELS: got {wish!r}, expected auto, off, require or one of {', '.join(INSTRUCTION_SETS)}; "
            "unset it to use the fastest"
        )
    if wish == "off":
        return Loaded("none", None)
    reason = ""
    try:
        names = runnable()
        if wish in INSTRUCTION_SETS and wish not in names:
            raise OSError(f"of {', '.join(INSTRUCTION_SETS)} this processor can run {', '.join(names)}")
        for name in [wish] if wish in INSTRUCTION_SETS else reversed(names):
            try:
                return Loaded(name, open_library(name))
            except OSError as error:  # this one was not built: the next narrower one
                reason = reason or str(error)
    except OSError as error:
        reason = str(error)
    if wish != "auto":
        raise ValueError(f"SWWAE_KERNELS={wish}, but these kernels can't be used: {reason}")
    return Loaded("none", None, reason)


def describe() -> str:
    """For `swwae --version`: "kernels: avx512", or "kernels: none, plain torch"."""
    name = load().name
    return f"kernels: {name}" if name != "none" else "kernels: none, plain torch"


def runnable() -> tuple[str, ...]:
    """Instruction sets that this processor can run, from the narrowest on, built or not.

    Raises:
        OSError: there are no kernels at all.
    """
    return INSTRUCTION_SETS[: open_library("baseline").instruction_set() + 1]


@functools.cache
def open_library(name: str) -> ctypes.CDLL:
    """The library for one instruction set, which the processor must be able to run.

    Raises:
        OSError: it was not built, it can't be loaded, or it was built from other sources than those beside it.
    """
    paths = [path for suffix in EXTENSION_SUFFIXES if (path := _FOLDER / f"_{name}{suffix}").is_file()]
    if not paths:
        raise OSError(f"the C kernels ({name}) were not built when swwae_zoo was installed; {_REMEDY}")
    library = ctypes.CDLL(str(paths[0]))
    # Only a checkout has the sources beside the libraries, and there they may have changed since the installation.
    files = sorted(path for path in _FOLDER.iterdir() if path.suffix in (".c", ".h"))
    digest = hashlib.sha256(b"".join(path.name.encode() + path.read_bytes() for path in files)).hexdigest()
    built_from = ctypes.c_char.in_dll(library, "sources")
    if files and ctypes.string_at(ctypes.addressof(built_from)).decode() != digest:
        raise OSError(f"{paths[0].name} was built from other sources than {_FOLDER} has; install swwae_zoo again")
    return library
