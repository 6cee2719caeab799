"""Atomic writes: a file is either as it was or complete, whenever the process is killed."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import safetensors

__all__ = ["atomic_write"]


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Gives a path beside ``path`` to write to, and moves it there when the block ends well.

    Raises:
        OSError: what writing raised, the disk being full among them; ``path`` is as it was.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield partial
        with open(partial, "rb+") as file:  # on disk before it takes the old file's place
            os.fsync(file.fileno())
        os.replace(partial, path)
    except BaseException as error:
        partial.unlink(missing_ok=True)
        if _disk_is_full(error):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path)) from error
        raise


def _disk_is_full(error: BaseException) -> bool:
    """torch and safetensors report a full disk in words of their own, or not by name."""
    if isinstance(error, OSError):
        return error.errno in (errno.ENOSPC, errno.EDQUOT)
    text = str(error).lower()
    ours = isinstance(error, (RuntimeError, safetensors.SafetensorError))
    return ours and any(
        words in text
        for words in ("no space", "file write failed", "failed writing file", "unexpected pos", "os error 28")
    )
