"""The C kernels of every instruction set that this processor can run, for tests that compare each with plain torch."""

import ctypes

from swwae_zoo.kernels import library, native


def _built() -> dict[str, ctypes.CDLL]:
    found = {}
    try:
        for name in library.runnable():
            found[name] = native.on_torchs_threads(library.open_library(name))
    except OSError:  # installed without a compiler, or with one that doesn't know the wider sets
        pass
    return found


LIBRARIES = _built()
"""name -> library, from the narrowest on; empty without kernels."""
