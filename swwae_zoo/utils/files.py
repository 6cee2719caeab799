"""Files that are either as they were or complete, whenever a process is killed, and that tell when they are damaged."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import secrets
import socket
import tempfile
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import safetensors

from swwae_zoo.utils.text import printable

__all__ = [
    "atomic_write",
    "cache_folders",
    "output_path",
    "read_sealed",
    "remove_leftovers",
    "user_path",
    "utf8_path",
    "writable",
    "write_sealed",
]

_SEAL = 32  # hexadecimal digits of a sealed file's checksum


def user_path(path: str | os.PathLike[str]) -> Path:
    """A path that a user gave, with `~` and `~name` expanded.

    Raises:
        ValueError: there is no such home, or the path holds a null character.
    """
    if "\0" in os.fspath(path):
        raise ValueError(f"got the path {os.fspath(path)!r}, expected one without a null character")
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise ValueError(f"{os.fspath(path)}: {error}; expected a path without ~") from error


def utf8_path(path: Path) -> Path:
    """The path itself, for a library that knows no other names than UTF-8 ones, as safetensors does.

    Raises:
        ValueError: it is none.
    """
    try:
        os.fspath(path).encode()
    except UnicodeEncodeError:
        raise ValueError(
            f"{printable(path)} is no name in UTF-8, and weights can't lie below it: rename it, or give a link to it"
        ) from None
    return path


def output_path(path: str | os.PathLike[str], suffixes: Sequence[str], inputs: Iterable[Path] = ()) -> Path:
    """Where a user wants a file written: `user_path` of it, which may replace a file of the same kind alone.

    Args:
        suffixes: of files that may be there already, in lower case, the usual one first.
        inputs: files that are read, and are not to be replaced.

    Raises:
        ValueError: it is a folder, a device or a pipe, a file of another kind or an input, or its folder is not there.
    """
    out = user_path(path)
    shown = printable(out)
    if not out.absolute().parent.is_dir():
        raise ValueError(f"{shown}: there is no folder {printable(out.absolute().parent)} to write it to")
    if not out.exists():
        return out
    if not out.is_file():
        what = "a folder" if out.is_dir() else "no regular file"
        raise ValueError(f"{shown} is {what}: give a file, such as {out.stem or 'name'}{suffixes[0]}")
    if any(each.exists() and out.samefile(each) for each in inputs):
        raise ValueError(f"{shown} is one of the files that are read: give another one to write to")
    if out.suffix.lower() not in suffixes:
        raise ValueError(f"{shown} is there already and no {suffixes[0]} file: delete it, or give another name")
    return out


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Gives a path beside ``path`` to write to, and moves it there when the block ends well.

    The path is this writer's own, whatever other threads, processes and machines write at the same time. What a
    killed process of this machine left for the same file is removed.

    Raises:
        OSError: what writing raised, the disk being full among them; ``path`` is as it was.
    """
    if path.exists() and not path.is_file():  # a device, which the new file would replace
        raise OSError(errno.EISDIR if path.is_dir() else errno.EINVAL, "is no regular file", str(path))
    remove_leftovers(path)
    partial = path.with_name(f"{_partial_prefix(path)}{os.getpid()}-{secrets.token_hex(4)}.part")
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


def remove_leftovers(path: Path) -> None:
    """Removes what killed processes of this machine left of ``path`` when they wrote it."""
    for left in path.parent.glob(f"{_glob_escaped(_partial_prefix(path))}*.part"):
        if not _runs(left.name.split("-")[-2]):
            with contextlib.suppress(OSError):  # gone meanwhile, or in a folder that one may only read
                left.unlink()


def _partial_prefix(path: Path) -> str:
    name = path.name if len(os.fsencode(path.name)) < 200 else hashlib.sha256(os.fsencode(path.name)).hexdigest()
    return f".{name}.{zlib.crc32(socket.gethostname().encode()):08x}-"


def write_sealed(path: Path, payload: bytes) -> None:
    """Writes ``payload`` and its checksum, atomically; `read_sealed` gives it back."""
    with atomic_write(path) as part:
        part.write_bytes(payload + b"\n" + _seal(payload))


def read_sealed(path: Path) -> bytes | None:
    """What `write_sealed` wrote; None where there is no such file, or it is not as it was written."""
    remove_leftovers(path)
    try:
        content = path.read_bytes() if path.is_file() else b""
    except OSError:
        return None
    payload, line, seal = content[: -_SEAL - 1], content[-_SEAL - 1 : -_SEAL], content[-_SEAL:]
    return payload if line == b"\n" and seal == _seal(payload) else None


def cache_folders(folder: Path, name: str) -> list[Path]:
    """Where a cache that belongs to `folder` may lie: in it, else in the user's own cache, else in a temporary folder.

    A temporary folder that somebody else could have filled is not among them.
    """
    places = [folder / name]
    with contextlib.suppress(RuntimeError):  # no home
        places.append(Path("~/.cache/swwae_zoo").expanduser() / name)
    shared = Path(tempfile.gettempdir()) / f"swwae_zoo-{os.getuid() if hasattr(os, 'getuid') else 'cache'}"
    try:
        shared.mkdir(mode=0o700, exist_ok=True)
        stat = shared.lstat()
        own = not hasattr(os, "getuid") or stat.st_uid == os.getuid()
        if own and not shared.is_symlink() and not stat.st_mode & 0o022:
            places.append(shared / name)
    except OSError:
        pass
    return places


def writable(folders: Sequence[Path]) -> Path | None:
    """The first of the folders that a file can be made in (the folder is made where it is missing), or None."""
    for folder in folders:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder):
                return folder
        except OSError:
            continue
    return None


def _seal(payload: bytes) -> bytes:
    return hashlib.blake2b(payload, digest_size=_SEAL // 2).hexdigest().encode()


def _glob_escaped(name: str) -> str:
    return re.sub(r"([*?[])", r"[\1]", name)


def _runs(process: str) -> bool:
    """Whether there is a process of this number."""
    try:
        os.kill(int(process), 0)
    except ProcessLookupError:
        return False
    except (OSError, ValueError, OverflowError):  # another user's; no name of ours
        return True
    return True


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
