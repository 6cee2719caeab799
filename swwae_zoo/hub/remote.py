"""One look at a repository of the Hub, and the patience that every request needs."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, TypeVar

from huggingface_hub import HfApi, constants
from huggingface_hub.utils import HFValidationError, validate_repo_id

from swwae_zoo.hub.errors import HubError, explained, is_passing, retry_after
from swwae_zoo.version import __version__

__all__ = ["CONFIG", "WEIGHTS", "Remote", "RemoteFile", "api_for", "attempts", "look_at", "split_revision", "store_ref"]

CONFIG, WEIGHTS = "config.json", "model.safetensors"
WAITS = (1.0, 2.0, 4.0)  # seconds between tries
PATIENCE = 60.0  # seconds; the client itself tries several times within one of ours
TIMEOUT = 30.0
_REVISION = re.compile(r"[A-Za-z0-9][\w./-]*", re.ASCII)
T = TypeVar("T")


class RemoteFile(NamedTuple):
    """size: bytes. sha256: of a large file, else None. blob_id: git's SHA-1 of a small file."""

    size: int
    sha256: str | None
    blob_id: str | None


class Remote(NamedTuple):
    """A repository at one commit."""

    repo: str
    commit: str
    private: bool
    files: dict[str, RemoteFile]


def api_for(token: str | None) -> HfApi:
    return HfApi(token=token, library_name="swwae_zoo", library_version=__version__)


def attempts(call: Callable[[], T]) -> T:
    """``call()``, again where the connection broke or the Hub was busy, with growing waits between."""
    start = time.monotonic()
    for wait in (*WAITS, None):
        try:
            return call()
        except Exception as error:
            if wait is None or not is_passing(error) or time.monotonic() - start > PATIENCE:
                raise
            time.sleep(max(wait, min(retry_after(error), PATIENCE)))
    raise AssertionError("the last try returns or raises")


def split_revision(name: str) -> tuple[str, str | None]:
    """`"ORG/NAME@v1"` -> `("ORG/NAME", "v1")`.

    Raises:
        ValueError: it is no name of a repository.
    """
    repo, at, revision = name.partition("@")
    owner, slash, short = repo.partition("/")
    try:
        if not (slash and owner and short):
            raise HFValidationError("no owner")
        validate_repo_id(repo)
    except HFValidationError:
        raise HubError(
            f"got {name!r}, expected ORG/NAME or ORG/NAME@REVISION, as the repository's page has it"
        ) from None
    if at and not is_revision(revision):
        raise HubError(f"got the revision {revision!r}, expected a branch, tag or commit")
    return repo, revision or None


def is_revision(name: str) -> bool:
    return bool(_REVISION.fullmatch(name)) and ".." not in name and len(name) < 200


def look_at(repo: str, revision: str | None = None, token: str | None = None) -> Remote:
    """Resolves ``revision`` to a commit, once, with the files of that commit and what they must hash to.

    Raises:
        HubError: it can't be seen.
    """
    try:
        info = attempts(
            lambda: api_for(token).model_info(repo, revision=revision, files_metadata=True, timeout=TIMEOUT)
        )
    except Exception as error:
        raise explained(error, repo, revision, token) from None  # its request holds the token
    files = {
        file.rfilename: RemoteFile(file.size or 0, file.lfs.sha256 if file.lfs else None, file.blob_id)
        for file in info.siblings or ()
    }
    if not info.sha or not re.fullmatch("[0-9a-f]{40}", info.sha):
        raise HubError(f"{repo}: the Hub names no commit for {revision or 'main'!r}: HF_ENDPOINT may be no Hub")
    return Remote(repo, info.sha, bool(info.private), files)


def cache_of(repo: str, cache_dir: str | Path | None) -> Path:
    """Where the client keeps a repository: blobs/, snapshots/COMMIT/, refs/."""
    return Path(cache_dir or constants.HF_HUB_CACHE) / f"models--{repo.replace('/', '--')}"


def store_ref(remote: Remote, revision: str | None, cache_dir: str | Path | None) -> None:
    """Remembers which commit a branch or tag was, so that it is found again without a network."""
    name = revision or constants.DEFAULT_REVISION
    if name == remote.commit or not is_revision(name):
        return
    path = cache_of(remote.repo, cache_dir) / "refs" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    partial.write_text(remote.commit)
    os.replace(partial, path)
