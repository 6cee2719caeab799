"""The files below a folder: regular ones only, each real folder once, none of held-out images, none of our own runs."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence, Set
from pathlib import Path

from swwae_zoo.data.split_names import split_folders
from swwae_zoo.utils.text import printable

_NAMED = 3


def folders_in(root: Path) -> list[Path]:
    """Folders right in `root`, sorted: no hidden ones, and none that holds runs of this program and nothing else."""
    return [path for path in _folders(root) if not _holds_runs(path)]


def is_run(folder: Path) -> bool:
    """Whether it is a run directory of this program."""
    return (folder / "config.toml").is_file() and (folder / "run.json").is_file()


def _holds_runs(folder: Path) -> bool:
    if is_run(folder):
        return True
    below = [] if folder.is_symlink() else [path for path in _folders(folder) if not path.is_symlink()]
    return bool(below) and all(_holds_runs(path) for path in below)


def _folders(root: Path) -> list[Path]:
    return [Path(entry) for entry in _entries(root) if _is_folder(entry)]


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    """What is in a folder, hidden files and folders left out, sorted by name."""
    try:
        with os.scandir(folder) as found:
            return sorted((entry for entry in found if not entry.name.startswith(".")), key=lambda entry: entry.name)
    except OSError as error:
        raise ValueError(f"{folder} cannot be opened ({error.strerror}); make it readable, or move it away") from error


class Tree:
    """Walks the folders below a root, and keeps account of what it left out.

    Real folders come first; links to folders are followed afterwards, where they lead to one that was not walked yet
    and that is neither held out nor above the root.

    Args:
        root: what links may not leave without a warning.
        suffixes: of the files that are wanted, in lower case.
        held_out: folders whose files are never given, by whatever way they are reached.
        by_folder: held-out images further down are known by the names of their folders, and left out too.
    """

    def __init__(self, root: Path, suffixes: Set[str], held_out: Sequence[Path] = (), by_folder: bool = True):
        self._suffixes, self._by_folder = suffixes, by_folder
        self._root = _real(root)
        self._above = {_key(folder) for folder in (self._root, *self._root.parents)}
        self._held_out: list[Path] = []
        self._walked: set[tuple[int, int]] = set()
        self.other_kinds: Counter[str] = Counter()
        self.special: list[Path] = []
        self.outside: list[Path] = []
        self.into_held_out: list[Path] = []
        self.passed_over: list[Path] = []
        self._hold_out(held_out)

    def files(self, tops: Sequence[Path]) -> list[list[Path]]:
        """For each of the folders `tops`, the wanted files at or below it, sorted."""
        found: list[list[Path]] = [[] for _ in tops]
        for turn, file in self.each(tops):
            found[turn].append(file)
        return [sorted(each, key=lambda path: path.parts) for each in found]

    def each(self, tops: Sequence[Path]) -> Iterator[tuple[int, Path]]:
        """The same files one by one, with the position of their top: folder by folder, those of one folder sorted."""
        links = [(turn, top) for turn, top in enumerate(tops) if top.is_symlink()]
        real = [(turn, top) for turn, top in enumerate(tops) if not top.is_symlink()]
        self._walked |= {_key(top) for _, top in real}
        for turn, top in real:
            yield from self._walk(top, turn, links)
        for turn, link in links:  # grows while it is gone through
            if self._may_follow(link):
                yield from self._walk(link, turn, links)

    def warnings(self, spec: str) -> list[str]:
        """What a user should look at, a line each."""
        return [
            f"{spec}: {len(paths)} {what}: {', '.join(printable(path, 120) for path in paths[:_NAMED])}"
            f"{', ...' if len(paths) > _NAMED else ''}"
            for paths, what in (
                (self.special, "left out, for they are no regular files"),
                (self.outside, "links lead out of the folder, and were followed"),
                (self.into_held_out, "links lead to held-out images, and were not followed"),
            )
            if paths
        ]

    def notes(self, spec: str) -> list[str]:
        """What was left out as a matter of course, a line each."""
        notes = []
        if self.passed_over:
            folders = ", ".join(printable(path, 120) for path in self.passed_over[:_NAMED])
            notes.append(f"{spec}: held out: {folders}{', ...' if len(self.passed_over) > _NAMED else ''}")
        if self.other_kinds:
            most = sorted(self.other_kinds.items(), key=lambda item: (-item[1], item[0]))[:_NAMED]
            kinds = ", ".join(f"{count:,} {printable(kind, 20)}" for kind, count in most)
            more = ", ..." if len(self.other_kinds) > _NAMED else ""
            notes.append(f"{spec}: {self.other_kinds.total():,} files of other kinds left out ({kinds}{more})")
        return notes

    def _walk(self, top: Path, turn: int, links: list[tuple[int, Path]]) -> Iterator[tuple[int, Path]]:
        waiting = [top]
        while waiting:
            folder = waiting.pop()
            entries = _entries(folder)
            folders = [Path(entry) for entry in entries if _is_folder(entry)]
            splits = split_folders(folders) if self._by_folder else {}
            aside = {path for split, path in splits.items() if split != "train"}
            self._hold_out(aside)
            below = []
            for path in folders:
                if path in aside or is_run(path):
                    continue
                if path.is_symlink():
                    links.append((turn, path))
                elif not self._is_held_out(path) and _key(path) not in self._walked:
                    self._walked.add(_key(path))
                    below.append(path)
            waiting += reversed(below)
            for entry in entries:
                if not _is_folder(entry) and self._is_wanted(entry):
                    yield turn, Path(entry)

    def _hold_out(self, folders: Iterable[Path]) -> None:
        for folder in sorted(folders):
            if not self._is_held_out(folder):
                self._held_out.append(_real(folder))
                self.passed_over.append(folder)

    def _is_wanted(self, entry: os.DirEntry[str]) -> bool:
        path = Path(entry)
        if path.suffix.lower() not in self._suffixes:
            self.other_kinds[path.suffix.lower() or "without a suffix"] += 1
        elif entry.is_file(follow_symlinks=False):
            return True
        elif not entry.is_symlink() or (path.exists() and not path.is_file()):
            self.special.append(path)
        elif self._is_held_out(path):
            self.into_held_out.append(path)
        else:  # one that leads nowhere is read, and found to be bad, like any other
            if path.exists() and not _real(path).is_relative_to(self._root):
                self.outside.append(path)
            return True
        return False

    def _may_follow(self, link: Path) -> bool:
        key = _key(link)
        if self._is_held_out(link):
            self.into_held_out.append(link)
            return False
        if key in self._walked or key in self._above:
            return False
        self._walked.add(key)
        if not _real(link).is_relative_to(self._root):
            self.outside.append(link)
        return True

    def _is_held_out(self, path: Path) -> bool:
        real = _real(path)
        return any(real.is_relative_to(folder) for folder in self._held_out)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _real(path: Path) -> Path:
    return Path(os.path.realpath(path))  # Path.resolve raises on a link to itself


def _key(path: Path) -> tuple[int, int]:
    """What a real folder is known by, whichever way it was reached."""
    found = os.stat(path)
    return found.st_dev, found.st_ino


def common_folders(folders: Iterable[Path]) -> tuple[Path, Path, list[str]] | None:
    """Two of the folders that hold two or more folders of the same names, and these names."""
    seen: list[tuple[Path, set[str]]] = []
    for folder in folders:
        names = {path.name for path in folders_in(folder)}
        for other, known in seen:
            if len(names & known) > 1:
                return other, folder, sorted(names & known)
        if len(names) > 1:
            seen.append((folder, names))
    return None
