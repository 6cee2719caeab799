"""`pull`: one commit of a repository, checked, in the cache or in a folder."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from huggingface_hub import constants, hf_hub_download, try_to_load_from_cache
from torch import nn

from swwae_zoo.hub.building import MAX_PARAMS, build_on_meta
from swwae_zoo.hub.config import MAX_BYTES, ModelConfig, read_model_config
from swwae_zoo.hub.errors import HubError, Missing, Unreachable, check_token, explained
from swwae_zoo.hub.progress import bar_of
from swwae_zoo.hub.remote import CONFIG, WEIGHTS, Remote, attempts, cache_of, look_at, split_revision, store_ref
from swwae_zoo.hub.verify import check_tensors, is_file_of, largest_file, sha256_of
from swwae_zoo.utils.files import user_path
from swwae_zoo.utils.text import printable
from swwae_zoo.version import __version__

__all__ = ["Fetched", "Located", "Pulled", "fetch_file", "locate", "pull", "snapshots"]

EXTRAS = {"README.md": 2**20, "reconstructions.png": 2**24, "curves.png": 2**24}  # name -> bytes it may have
LARGEST_WEIGHTS = 8 * MAX_PARAMS + 2**24
PICKLES = (".bin", ".pth", ".pt", ".pkl", ".ckpt")


class Located(NamedTuple):
    """One commit of a repository of ours: its config.json, checked; the weights are fetched once there is a model.

    folder: of the commit in the client's cache; holds config.json.
    where: ORG/NAME@COMMIT, for errors.
    remote: None: the Hub is out of reach, and all comes from the cache.
    """

    folder: Path
    where: str
    commit: str
    config: ModelConfig
    remote: Remote | None
    revision: str | None
    token: str | None
    cache_dir: str | Path | None

    def weights_for(self, model: nn.Module, changed: bool = False) -> Path:
        """model.safetensors, fetched if need be, its bytes and tensors checked.

        Args:
            model: the one that is filled, or one like it on the meta device.
            changed: the caller's arguments change the saved model, so that names and shapes may differ.

        Raises:
            HubError: the file can't be had, is damaged, or holds another model's tensors.
        """
        if self.remote is None:
            path = self.folder / WEIGHTS
            if not _is_whole(path):
                raise HubError(f"{self.where}: {WEIGHTS} is damaged: pull it again while online")
        else:
            largest = LARGEST_WEIGHTS if changed else largest_file(model)
            path = _download(self.remote, WEIGHTS, self.token, self.cache_dir, largest)
        check_tensors(path, model, self.where, exact=not changed)
        if self.remote is not None:
            store_ref(self.remote, self.revision, self.cache_dir)
        return path


class Fetched(NamedTuple):
    """One file of a commit, in the client's cache."""

    path: Path
    commit: str


class Pulled(NamedTuple):
    """What `pull` gives.

    folder: for `timm.create_model("local-dir:FOLDER", pretrained=True)`.
    cached: whether it comes from the cache since the Hub was out of reach.
    unchanged: whether the folder held the same before.
    """

    repo: str
    revision: str | None
    commit: str
    architecture: str
    folder: Path
    cached: bool
    unchanged: bool


def pull(
    name: str, out: str | Path | None = None, *, token: str | None = None, cache_dir: str | Path | None = None
) -> Pulled:
    """Downloads a model of ours, one commit of it, and checks every byte.

    Args:
        name: ORG/NAME, or ORG/NAME@REVISION: a branch, tag or commit.
        out: a folder to copy it to; must be empty or absent, or hold the same. By default it stays in the client's
            cache.
        token: by default the stored one, or HF_TOKEN.
        cache_dir: the client's cache; its own by default.

    Raises:
        HubError: (a ValueError) it is not there or may not be seen, the Hub is out of reach and nothing is cached, or
            what came is damaged or not a model of ours.  Nothing is left in ``out`` then.
    """
    repo, revision = split_revision(name)
    target = user_path(out) if out is not None else None
    if target is not None and target.exists() and not target.is_dir():
        raise HubError(f"{target} is a file: give another --out")
    found = locate(repo, revision, token=token, cache_dir=cache_dir)
    remote = found.remote
    if remote is not None:
        for extra, most in EXTRAS.items():
            _check_size(remote, extra, most, cache_dir)
    found.weights_for(build_on_meta(found.config, found.where))
    for extra in EXTRAS if remote is not None else ():
        if remote is not None and extra in remote.files:
            _download(remote, extra, token, cache_dir, EXTRAS[extra])
    unchanged = False
    if target is not None:
        try:
            unchanged = _copy(found.folder, target)
        except OSError as error:
            raise explained(error, str(target), token=token) from None  # its request holds the token
    folder, cached = target or found.folder, found.remote is None
    return Pulled(repo, revision, found.commit, found.config.architecture, folder, cached, unchanged)


def locate(
    repo: str, revision: str | None = None, *, token: str | None = None, cache_dir: str | Path | None = None
) -> Located:
    """Resolves a revision to a commit, and reads that commit's config.json; without the Hub, as the cache has it.

    Raises:
        HubError: as `pull`.
    """
    try:
        remote = _look(repo, revision, token)
    except Unreachable as error:
        found = _cached(repo, revision, cache_dir)
        if found is None:
            raise error
        return found
    if WEIGHTS not in remote.files or CONFIG not in remote.files:
        lacking = " and ".join(name for name in (CONFIG, WEIGHTS) if name not in remote.files)
        raise HubError(
            f"{repo} has no {lacking} at {revision or 'main'!r}: `swwae push` makes both{_pickles_in(remote)}"
        )
    _check_size(remote, WEIGHTS, LARGEST_WEIGHTS, cache_dir)
    where = f"{repo}@{remote.commit[:8]}"
    path = _download(remote, CONFIG, token, cache_dir, MAX_BYTES)
    config = read_model_config(path, where)
    return Located(path.parent, where, remote.commit, config, remote, revision, token, cache_dir)


def fetch_file(repo: str, revision: str | None, name: str, cache_dir: str | Path | None = None) -> Fetched:
    """One file of a repository that need not be ours, checked against the Hub's sums; without the Hub, the cache's.

    Raises:
        HubError: it can't be had, or is damaged.
    """
    try:
        remote = _look(repo, revision, None)
    except Unreachable as error:
        path = try_to_load_from_cache(repo, name, cache_dir=cache_dir, revision=revision)
        if not isinstance(path, str):
            raise error
        if not _is_whole(Path(path)):
            raise HubError(f"{repo} in the cache: {name} is damaged: load it again while online") from error
        return Fetched(Path(path), Path(path).parent.name)
    if name not in remote.files:
        raise Missing(f"{repo} has no {name} at {revision or 'main'!r}{_pickles_in(remote)}")
    path = _download(remote, name, None, cache_dir, MAX_BYTES if name == CONFIG else LARGEST_WEIGHTS)
    store_ref(remote, revision, cache_dir)
    return Fetched(path, remote.commit)


def _look(repo: str, revision: str | None, token: str | None) -> Remote:
    check_token(token)
    if constants.HF_HUB_OFFLINE:
        raise Unreachable(
            f"{repo}: HF_HUB_OFFLINE is set, and {repo} at {revision or 'main'!r} is not in the cache: "
            "unset it, or pull once while online"
        )
    return look_at(repo, revision, token)


def _pickles_in(remote: Remote) -> str:
    pickles = [name for name in remote.files if name.endswith(PICKLES)]
    return f"; {printable(pickles[0], 100)} is a pickle, and pickles are not read" if pickles else ""


def _check_size(remote: Remote, name: str, most: int, cache_dir: str | Path | None) -> None:
    """Refuses a file by the size that the Hub lists; what timm, which does not look, may have cached of it is removed.

    Raises:
        HubError: it is larger.
    """
    if name not in remote.files or remote.files[name].size <= most:
        return
    cached = try_to_load_from_cache(remote.repo, name, cache_dir=cache_dir, revision=remote.commit)
    if isinstance(cached, str):
        _forget(Path(cached))
    where = f"{remote.repo}@{remote.commit[:8]}"
    raise HubError(f"{where}: {name} has {remote.files[name].size:,} bytes, expected at most {most:,}")


def _download(remote: Remote, name: str, token: str | None, cache_dir: str | Path | None, most: int) -> Path:
    """One file of the commit, its bytes checked: wrong ones are fetched again once, and never left in the cache."""
    _check_size(remote, name, most, cache_dir)

    def get(force: bool) -> Path:
        return Path(
            hf_hub_download(
                remote.repo,
                name,
                revision=remote.commit,
                token=token,
                cache_dir=cache_dir,
                force_download=force,
                library_name="swwae_zoo",
                library_version=__version__,
                **bar_of(name),
            )
        )

    try:
        for force in (False, True):
            path = attempts(lambda force=force: get(force))
            if is_file_of(path, remote.files[name]):
                return path
            _forget(path)
    except Exception as error:
        raise explained(error, remote.repo, remote.commit[:8], token) from None  # its request holds the token
    raise HubError(
        f"{remote.repo}: {name} came damaged twice (its bytes are not those that the Hub lists): "
        "nothing of it was kept; try again later"
    )


def _forget(path: Path) -> None:
    """Takes a file out of the client's cache: the link in the snapshot, and all that it leads to."""
    while path.is_symlink():
        link, path = path, path.parent / os.readlink(path)
        link.unlink()
    path.unlink(missing_ok=True)


def _cached(repo: str, revision: str | None, cache_dir: str | Path | None) -> Located | None:
    """The commit that the cache has for ``revision``; None where it has none."""
    home = cache_of(repo, cache_dir)
    ref = home / "refs" / (revision or constants.DEFAULT_REVISION)
    commit = ref.read_text().strip() if ref.is_file() else revision or ""
    folder = home / "snapshots" / commit
    if not re.fullmatch("[0-9a-f]{40}", commit) or not all((folder / name).is_file() for name in (CONFIG, WEIGHTS)):
        return None
    where = f"{repo}@{commit[:8]} in the cache"
    return Located(folder, where, commit, read_model_config(folder / CONFIG, where), None, revision, None, cache_dir)


def _is_whole(path: Path) -> bool:
    """Whether a file of the cache has the bytes of its name: the client names a large file by its sha256."""
    expected = Path(os.readlink(path)).name if path.is_symlink() else ""
    return not re.fullmatch("[0-9a-f]{64}", expected) or sha256_of(path) == expected


def snapshots(repo: str, cache_dir: str | Path | None, fits: Callable[[Path], bool]) -> list[str]:
    """Commits in the cache whose folder ``fits``."""
    folders = (cache_of(repo, cache_dir) / "snapshots").glob("*/")
    return [folder.name for folder in folders if (folder / CONFIG).is_file() and fits(folder)]


def _copy(folder: Path, target: Path) -> bool:
    """Copies to ``target`` in one step; gives whether it held the same already.

    Raises:
        HubError: it holds something else.
    """
    names = [name for name in (CONFIG, WEIGHTS, *EXTRAS) if (folder / name).is_file()]
    if target.is_dir() and any(target.iterdir()):
        if all((target / name).is_file() and sha256_of(target / name) == sha256_of(folder / name) for name in names):
            return True
        raise HubError(f"{target} is not empty, and what it holds is not this commit: give another --out")
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{target.name}.", dir=target.parent) as made:
        whole = Path(made) / "whole"
        whole.mkdir()
        for name in names:
            shutil.copyfile(folder / name, whole / name)
        if target.is_dir():
            target.rmdir()
        os.rename(whole, target)
    return False
