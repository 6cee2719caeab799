"""Repositories: commits, branches, tags, and the large files beside them."""

from __future__ import annotations

import base64
import hashlib
import json
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote


class Refused(Exception):
    """An answer that is an error: HTTP status, the Hub's error code, message, and further fields of the JSON body."""

    def __init__(self, status: int, message: str, code: str = "", **body: Any) -> None:
        super().__init__(message)
        self.status, self.message, self.code, self.body = status, message, code, body


@dataclass(frozen=True)
class File:
    """A file of a commit: its bytes, or for a large one their sha256 and number."""

    content: bytes | None = None
    sha256: str = ""
    large_size: int = 0

    @property
    def size(self) -> int:
        return self.large_size if self.content is None else len(self.content)

    @property
    def blob_id(self) -> str:
        """git's own name of the blob; for a large file that of its pointer."""
        stored = (
            self.content
            if self.content is not None
            else (
                f"version https://git-lfs.github.com/spec/v1\noid sha256:{self.sha256}\nsize {self.large_size}\n"
            ).encode()
        )
        return hashlib.sha1(b"blob %d\0" % len(stored) + stored).hexdigest()

    @property
    def etag(self) -> str:
        return self.sha256 or self.blob_id


@dataclass(frozen=True)
class Commit:
    id: str
    parent: str | None
    title: str
    files: dict[str, File]


@dataclass
class Repo:
    """One model repository.  Large files belong to it alone, as on the Hub."""

    id: str
    private: bool = False
    gated: bool = False
    commits: dict[str, Commit] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    pulls: dict[str, str] = field(default_factory=dict)
    large: dict[str, bytes] = field(default_factory=dict)
    unverified: dict[str, bytes] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.branches["main"] = self.add(
            None, "initial commit", {".gitattributes": File(b"*.safetensors filter=lfs\n")}
        )

    def add(self, parent: str | None, title: str, files: dict[str, File]) -> str:
        text = json.dumps(
            [self.id, parent, title, len(self.commits), {name: file.etag for name, file in files.items()}]
        )
        commit = hashlib.sha1(text.encode()).hexdigest()
        self.commits[commit] = Commit(commit, parent, title, files)
        return commit

    def put(self, branch: str = "main", **files: bytes) -> str:
        """A commit made by someone else: `put(**{"config.json": b"{}"})`; *.safetensors become large files."""
        parent = self.branches[branch]
        made = dict(self.commits[parent].files)
        for name, content in files.items():
            made[name] = self.as_large(content) if name.endswith(".safetensors") else File(content)
        self.branches[branch] = self.add(parent, "by hand", made)
        return self.branches[branch]

    def as_large(self, content: bytes) -> File:
        sha256 = hashlib.sha256(content).hexdigest()
        self.large[sha256] = content
        return File(None, sha256, len(content))

    def resolve(self, revision: str) -> str:
        name = unquote(revision)
        for known in (self.branches, self.tags, self.pulls):
            if name in known:
                return known[name]
        if name in self.commits:
            return name
        raise Refused(404, f"Invalid rev id: {name}", "RevisionNotFound")

    def info(self, revision: str) -> dict[str, Any]:
        commit = self.commits[self.resolve(revision)]
        return {
            "_id": self.id,
            "id": self.id,
            "modelId": self.id,
            "private": self.private,
            "gated": self.gated and "auto",
            "sha": commit.id,
            "disabled": False,
            "tags": [],
            "downloads": 0,
            "likes": 0,
            "siblings": [
                {
                    "rfilename": name,
                    "size": file.size,
                    "blobId": file.blob_id,
                    **({"lfs": {"sha256": file.sha256, "size": file.size, "pointerSize": 134}} if file.sha256 else {}),
                }
                for name, file in commit.files.items()
            ],
        }

    def commit(self, revision: str, lines: list[dict[str, Any]], create_pr: bool) -> tuple[str, str | None]:
        """Applies the lines of a commit request; gives the new commit and, for a pull request, its reference."""
        name = unquote(revision)
        if name not in self.branches and not create_pr:
            raise Refused(404, f"Invalid rev id: {name}", "RevisionNotFound")
        head = self.resolve(name)
        header = next(line["value"] for line in lines if line["key"] == "header")
        if header.get("parentCommit", head) != head:
            raise Refused(412, "A commit has happened since. Please refresh and try again.")
        files = dict(self.commits[head].files)
        for line in lines:
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = File(base64.b64decode(value["content"]))
            elif line["key"] == "lfsFile":
                if value["oid"] not in self.large:
                    raise Refused(400, f"LFS pointer {value['oid']} points to no uploaded object")
                files[value["path"]] = File(None, value["oid"], len(self.large[value["oid"]]))
            elif line["key"] == "deletedFile":
                files.pop(value["path"])
        made = self.add(head, header["summary"], files)
        if create_pr:
            pull = f"refs/pr/{len(self.pulls) + 1}"
            self.pulls[pull] = made
            return made, pull
        self.branches[name] = made
        return made, None
