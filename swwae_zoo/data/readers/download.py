"""The published files of a torchvision data set: found where they are, or fetched whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import http.client
import io
import os
import socket
import sys
import tarfile
import tempfile
import textwrap
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

Data = TypeVar("Data")

TIMEOUT = 10.0  # seconds without an answer before a server is given up
_FETCH_ERRORS = (OSError, RuntimeError, ValueError, EOFError, http.client.HTTPException, tarfile.TarError, zlib.error)
# torchvision checks sums of all but the MNIST family, whose parser asserts and indexes on what it finds.
_READ_ERRORS = (OSError, RuntimeError, ValueError, EOFError, AssertionError, LookupError, TypeError)


def published(
    name: str, root: Path, files: Sequence[str], archives: Sequence[tuple[str, str]], read: Callable[[Path, bool], Data]
) -> Data:
    """`read(root, False)`, after fetching the files if some are missing.

    Args:
        name: of the data set, for messages.
        root: the data folder.
        files: what must be there, relative to `root`.
        archives: (path relative to `root`, md5) of what is downloaded; whole ones already there are unpacked
            instead of downloaded again.
        read: opens the torchvision data set under a root, downloading if the second argument is true.

    Raises:
        ValueError: files missing and not to be had, or there and not readable.
    """
    missing = [file for file in files if not (root / file).is_file()]
    if missing:
        _fetch(name, root, missing, archives, read)
    try:
        return read(root, False)
    except _READ_ERRORS as error:
        raise ValueError(
            f"the files of {name} in {root} cannot be read or are damaged ({_one_line(error)}): delete or replace "
            f"{', '.join(files[:4])}{', ...' if len(files) > 4 else ''} there"
        ) from error


def _fetch(
    name: str, root: Path, missing: list[str], archives: Sequence[tuple[str, str]], read: Callable[[Path, bool], Data]
) -> None:
    """Download into a folder beside the place, then move file by file: a broken download leaves nothing."""
    try:
        with _folder(root), tempfile.TemporaryDirectory(prefix=".download-", dir=root) as temporary:
            scratch = Path(temporary)
            _link_archives(root, scratch, archives)
            with _quiet(), _socket_timeout(TIMEOUT), _data_only():
                read(scratch, True)
            _move_files(scratch, root)
    except _FETCH_ERRORS as error:
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            raise ValueError(f"no space left in {root} for {name}: free some, or set --data-dir") from error
        raise ValueError(
            f"{name} is not in {root} (missing {', '.join(missing[:2])}{', ...' if len(missing) > 2 else ''}) and "
            f"could not be downloaded ({_one_line(error)}): point --data-dir or SWWAE_DATA at a folder that has it"
        ) from error


@contextlib.contextmanager
def _folder(root: Path) -> Iterator[None]:
    """`root` and its parents, those made here taken away again when the work inside fails."""
    made = [folder for folder in (root, *root.parents) if not folder.exists()]
    try:
        root.mkdir(parents=True, exist_ok=True)
        yield
    except BaseException:
        for folder in made:
            with contextlib.suppress(OSError):  # not empty: someone else's by now
                folder.rmdir()
        raise


def _link_archives(root: Path, scratch: Path, archives: Sequence[tuple[str, str]]) -> None:
    from torchvision.datasets.utils import check_integrity

    for file, md5 in archives:
        # Only whole ones: torchvision would write its download through the link of a broken one.
        if check_integrity(root / file, md5):
            (scratch / file).parent.mkdir(parents=True, exist_ok=True)
            (scratch / file).symlink_to((root / file).resolve())


def _move_files(source: Path, target: Path) -> None:
    for folder, _, names in os.walk(source):
        for file in (Path(folder) / name for name in names):
            if not file.is_symlink():
                place = target / file.relative_to(source)
                place.parent.mkdir(parents=True, exist_ok=True)
                file.replace(place)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """No chatter from torchvision; its progress bar only where someone can watch it."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(contextlib.redirect_stdout(io.StringIO()))
        if not sys.stderr.isatty():
            stack.enter_context(contextlib.redirect_stderr(io.StringIO()))
        yield


@contextlib.contextmanager
def _socket_timeout(seconds: float) -> Iterator[None]:
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


@contextlib.contextmanager
def _data_only() -> Iterator[None]:
    """No archive writes outside its folder, or anything but plain files and folders: Python's own default from 3.14."""
    # torchvision unpacks without a filter, which Python 3.12 and 3.13 warn of.
    if not hasattr(tarfile, "data_filter"):  # the first releases of 3.10 and 3.11
        yield
        return
    before = tarfile.TarFile.__dict__.get("extraction_filter")
    tarfile.TarFile.extraction_filter = staticmethod(tarfile.data_filter)
    try:
        yield
    finally:
        tarfile.TarFile.extraction_filter = before


def _one_line(error: BaseException) -> str:
    return textwrap.shorten(str(error), 200, placeholder=" ...") or type(error).__name__
