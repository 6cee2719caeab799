"""The Hub itself: its routes, and who may see what."""

from __future__ import annotations

import hashlib
import json
import re
import threading
import time
from collections.abc import Callable
from http.server import ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import yaml

from hub_server.cas import READ, WRITE, CasRoutes, CasStore
from hub_server.faults import Fault, Faults
from hub_server.repos import File, Refused, Repo

REPO = r"(?P<repo>[^/]+/[^/]+)"
DATASET = r"(?P<repo>datasets/[^/]+/[^/]+)"
REV = r"(?P<rev>[^/]+)"
ROUTES: list[tuple[str, re.Pattern[str], str]] = [
    (method, re.compile(pattern.replace("REPO", REPO).replace("DATASET", DATASET).replace("REV", REV)), name)
    for method, pattern, name in [
        ("GET", "/api/whoami-v2", "whoami"),
        ("POST", "/api/repos/create", "create"),
        ("POST", "/api/validate-yaml", "validate"),
        ("POST", "/api/models/REPO/preupload/REV", "preupload"),
        ("POST", "/api/models/REPO/commit/REV", "commit"),
        ("GET", "/api/models/REPO/xet-(?P<kind>read|write)-token/REV", "xet_token"),
        ("GET", "/api/models/REPO/revision/REV", "info"),
        ("GET", "/api/models/REPO/refs", "refs"),
        ("POST", "/api/models/REPO/branch/REV", "branch"),
        ("POST", "/api/models/REPO/tag/REV", "tag"),
        ("PUT", "/api/models/REPO/settings", "settings"),
        ("GET", "/api/models/REPO/tree/REV", "tree"),
        ("GET", "/api/models/REPO", "info"),
        # A data set's name has "datasets/" in front, here as in its addresses.
        ("GET", "/api/DATASET", "info"),
        ("GET", "/api/DATASET/revision/REV", "info"),
        ("GET", "/api/DATASET/tree/REV(?:/(?P<path>.+))?", "tree"),
        ("POST", "/api/DATASET/paths-info/REV", "paths_info"),
        ("GET", "/api/DATASET/refs", "refs"),
        ("HEAD", "/DATASET/resolve/REV/(?P<path>.+)", "head"),
        ("GET", "/DATASET/resolve/REV/(?P<path>.+)", "file"),
        ("POST", r"/REPO\.git/info/lfs/objects/batch", "lfs_batch"),
        ("POST", "/lfs-verify/REPO", "lfs_verify"),
        ("PUT", "/storage/REPO/(?P<oid>[0-9a-f]{64})", "store"),
        ("GET", "/storage/REPO/(?P<oid>[0-9a-f]{64})", "stored"),
        ("POST", "/cas/v1/xorbs/default/(?P<oid>[0-9a-f]{64})", "xorb"),
        ("POST", "/cas/v1/shards", "shard"),
        ("GET", "/cas/v1/reconstructions/(?P<oid>[0-9a-f]{64})", "reconstruction"),
        ("GET", "/xorbs/(?P<oid>[0-9a-f]{64})", "stored_xorb"),
        ("HEAD", "/REPO/resolve/REV/(?P<path>.+)", "head"),
        ("GET", "/REPO/resolve/REV/(?P<path>.+)", "file"),
    ]
]
LARGE_FROM = 10 * 1024**2


class HubServer:
    """The server and what it holds.  Use it as a context manager.

    url: for HF_ENDPOINT.  storage: where large files lie.
    repos: by id.
    users: token -> user name; an organisation is open to everyone here.
    requests: "METHOD /path" of each request, in order.
    """

    def __init__(self, use_xet: bool = False) -> None:
        self.use_xet = use_xet
        self.repos: dict[str, Repo] = {}
        self.cas = CasStore()
        self.users: dict[str, str] = {}
        self.readers: set[str] = set()  # users that were let into gated repositories
        self.requests: list[str] = []
        self.faults = Faults()
        self.lock = threading.RLock()
        hub = self

        class BoundHandler(Handler):
            server_state = hub

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), BoundHandler)
        self._http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._http.server_address[1]}"
        self.storage = self.url.replace("127.0.0.1", "localhost")  # another host, as on the Hub: no token may go there

    def __enter__(self) -> HubServer:
        threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._http.shutdown()
        self._http.server_close()

    def fail(self, part: str, fault: Fault, times: int | None = 1, skip: int = 0) -> None:
        """See `faults.Rule`."""
        self.faults.add(part, fault, times, skip)


class Handler(CasRoutes):
    """What each request does."""

    routes = ROUTES
    server_state: HubServer

    def _route(self, name: str, repo: str = "", **names: str) -> Callable[[], None]:
        """Does what was asked; gives what then sends the answer."""
        self.user = self._user()
        if not repo:
            return getattr(self, f"_on_{name}")(**names)
        return getattr(self, f"_on_{name}")(self._repo(unquote(repo), name), **names)

    # --- who may see what -------------------------------------------------------------------------

    def _user(self) -> str | None:
        given = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if given in (READ, WRITE):
            return given
        if given and given not in self.server_state.users:
            raise Refused(401, "Invalid credentials in Authorization header")
        return self.server_state.users.get(given)

    def _repo(self, id: str, route: str) -> Repo:
        repo = self.server_state.repos.get(id)
        hidden = repo is None or (repo.private and self.user is None)
        if route in ("store", "stored"):  # addresses signed by the Hub: whoever has one may use it
            hidden = repo is None
        if hidden:
            raise Refused(404 if self.user else 401, "Repository not found", "RepoNotFound")
        assert repo is not None
        if repo.gated and route in ("head", "file") and self.user not in self.server_state.readers:
            kind = "dataset" if id.startswith("datasets/") else "model"
            raise Refused(403 if self.user else 401, f"Access to {kind} {id} is restricted", "GatedRepo")
        writes = route in ("preupload", "commit", "branch", "tag", "settings", "lfs_batch")
        if writes and self.user is None:
            raise Refused(401, "Invalid username or password.")
        return repo

    # --- routes -----------------------------------------------------------------------------------

    def _json(self) -> Any:
        return json.loads(self.body)

    def _on_whoami(self) -> Callable[[], None]:
        if self.user is None:
            raise Refused(401, "Invalid username or password.")
        return self._later(200, {"type": "user", "name": self.user, "orgs": []})

    def _on_create(self) -> Callable[[], None]:
        asked = self._json()
        if self.user is None:
            raise Refused(401, "Invalid username or password.")
        id = f"{asked.get('organization') or self.user}/{asked['name']}"
        url = {"url": f"{self.server_state.url}/{id}"}
        if id in self.server_state.repos:
            raise Refused(409, "You already created this model repo", **url)
        self.server_state.repos[id] = Repo(id, private=_wants_private(asked, False))
        return self._later(200, {**url, "name": id})

    def _on_validate(self) -> Callable[[], None]:
        head = self._json()["content"].split("---\n")
        try:
            data = yaml.safe_load(head[1]) if len(head) > 2 and not head[0] else None
        except yaml.YAMLError as error:
            data = str(error)
        if isinstance(data, dict) and isinstance(data.get("license", ""), str):
            return self._later(200, {"errors": [], "warnings": []})
        return self._later(400, {"errors": [{"message": f"no valid metadata: {data}"}], "warnings": []})

    def _on_preupload(self, repo: Repo, rev: str) -> Callable[[], None]:
        files = repo.commits[repo.resolve(rev)].files
        return self._later(
            200,
            {
                "files": [
                    {
                        "path": asked["path"],
                        "shouldIgnore": False,
                        "oid": files[asked["path"]].etag if asked["path"] in files else None,
                        "uploadMode": "lfs"
                        if asked["path"].endswith(".safetensors") or asked["size"] > LARGE_FROM
                        else "regular",
                    }
                    for asked in self._json()["files"]
                ]
            },
        )

    def _on_lfs_batch(self, repo: Repo) -> Callable[[], None]:
        hub = self.server_state
        objects = [
            {
                "oid": asked["oid"],
                "size": asked["size"],
                **(
                    {}
                    if asked["oid"] in repo.large
                    else {
                        "actions": {
                            "upload": {"href": f"{hub.storage}/storage/{repo.id}/{asked['oid']}?signature=s3cr3t"},
                            "verify": {"href": f"{hub.url}/lfs-verify/{repo.id}"},
                        }
                    }
                ),
            }
            for asked in self._json()["objects"]
        ]
        return self._later(200, {"transfer": "basic", "objects": objects})

    def _on_store(self, repo: Repo, oid: str) -> Callable[[], None]:
        if hashlib.sha256(self.body).hexdigest() != oid:
            raise Refused(400, "the bytes are not those of the signed address")
        repo.unverified[oid] = self.body
        return self._later(200, {})

    def _on_lfs_verify(self, repo: Repo) -> Callable[[], None]:
        asked = self._json()
        if len(repo.unverified.get(asked["oid"], b"")) != asked["size"]:
            raise Refused(404, "no such object")
        repo.large[asked["oid"]] = repo.unverified[asked["oid"]]
        return self._later(200, {})

    def _on_xet_token(self, repo: Repo, kind: str, rev: str) -> Callable[[], None]:
        hub = self.server_state
        if not hub.use_xet or (kind == "write" and self.user is None):
            raise Refused(401, "Invalid username or password.")
        cas, token, until = f"{hub.url}/cas", WRITE if kind == "write" else READ, int(time.time()) + 3600
        headers = {"X-Xet-Cas-Url": cas, "X-Xet-Access-Token": token, "X-Xet-Token-Expiration": str(until)}
        return self._later(200, {"casUrl": cas, "accessToken": token, "exp": until}, headers)

    def _on_commit(self, repo: Repo, rev: str) -> Callable[[], None]:
        lines = [json.loads(line) for line in self.body.splitlines()]
        if self.server_state.use_xet:
            known = self.server_state.cas.hash_of
            for line in lines:
                value = line["value"]
                if line["key"] == "lfsFile" and value["oid"] in known:
                    repo.large.setdefault(value["oid"], b"\0" * value["size"])  # its bytes lie in the store
        commit, pull = repo.commit(rev, lines, "create_pr" in urlsplit(self.path).query)
        url = f"{self.server_state.url}/{repo.id}"
        return self._later(
            200,
            {
                "success": True,
                "commitOid": commit,
                "commitUrl": f"{url}/commit/{commit}",
                "hookOutput": "",
                "pullRequestUrl": f"{url}/discussions/{pull.rpartition('/')[2]}" if pull else None,
            },
        )

    def _on_info(self, repo: Repo, rev: str = "main") -> Callable[[], None]:
        return self._later(200, repo.info(rev))

    def _on_tree(self, repo: Repo, rev: str, path: str | None = None) -> Callable[[], None]:
        """Files and folders right in the folder, or with `recursive` all below it."""
        inside = f"{unquote(path)}/" if path else ""
        deep = "recursive=true" in urlsplit(self.path).query.lower()
        names = [name for name in repo.commits[repo.resolve(rev)].files if name.startswith(inside)]
        if path and not names:
            raise Refused(404, f"{path} does not exist", "EntryNotFound")
        steps = [name.removeprefix(inside).split("/") for name in names]
        folders = {inside + "/".join(parts[:n]) for parts in steps for n in range(1, len(parts)) if deep or n == 1}
        files = [name for name, parts in zip(names, steps, strict=True) if deep or len(parts) == 1]
        return self._later(200, self._entries(repo, rev, [*sorted(folders), *files]))

    def _on_paths_info(self, repo: Repo, rev: str) -> Callable[[], None]:
        asked = parse_qs(self.body.decode())["paths"] if self.body[:1] != b"{" else self._json()["paths"]
        return self._later(200, self._entries(repo, rev, asked))

    def _entries(self, repo: Repo, rev: str, paths: list[str]) -> list[dict[str, Any]]:
        """What the Hub says of each path that there is; a name in front of files is a folder's."""
        files, found = repo.commits[repo.resolve(rev)].files, []
        for name in paths:
            if name in files:
                file = files[name]
                large = {"lfs": {"oid": file.sha256, "size": file.size, "pointerSize": 134}} if file.sha256 else {}
                found.append({"type": "file", "path": name, "size": file.size, "oid": file.blob_id, **large})
            elif any(other.startswith(f"{name}/") for other in files):
                found.append(
                    {"type": "directory", "path": name, "size": 0, "oid": hashlib.sha1(name.encode()).hexdigest()}
                )
        return found

    def _on_refs(self, repo: Repo) -> Callable[[], None]:
        def listed(kind: str, known: dict[str, str]) -> list[dict[str, str]]:
            return [
                {"name": name, "ref": f"refs/{kind}/{name}", "targetCommit": commit} for name, commit in known.items()
            ]

        return self._later(
            200, {"branches": listed("heads", repo.branches), "tags": listed("tags", repo.tags), "converts": []}
        )

    def _on_branch(self, repo: Repo, rev: str) -> Callable[[], None]:
        name = unquote(rev)
        if name in repo.branches:
            raise Refused(409, f"Reference already exists: {name}")
        repo.branches[name] = repo.resolve(self._json().get("startingPoint", "main"))
        return self._later(200, {})

    def _on_tag(self, repo: Repo, rev: str) -> Callable[[], None]:
        name = self._json()["tag"]
        if name in repo.tags:
            raise Refused(409, f"Tag reference exists already: {name}")
        repo.tags[name] = repo.resolve(rev)
        return self._later(200, {})

    def _on_settings(self, repo: Repo) -> Callable[[], None]:
        repo.private = _wants_private(self._json(), repo.private)
        return self._later(200, {"private": repo.private})

    # --- files ------------------------------------------------------------------------------------

    def _found(self, repo: Repo, rev: str, path: str) -> tuple[File, dict[str, str]]:
        commit = repo.commits[repo.resolve(rev)]
        file = commit.files.get(unquote(path))
        if file is None:
            raise Refused(404, "Entry not found", "EntryNotFound")
        headers = {"X-Repo-Commit": commit.id, "ETag": f'"{file.etag}"'}
        if file.sha256:
            headers |= {"X-Linked-Etag": f'"{file.sha256}"', "X-Linked-Size": str(file.size)}
            xet_hash = self.server_state.cas.hash_of.get(file.sha256) if self.server_state.use_xet else None
            if xet_hash:
                headers["X-Xet-Hash"] = xet_hash
                headers["X-Xet-Refresh-Route"] = (
                    f"{self.server_state.url}/api/models/{repo.id}/xet-read-token/{commit.id}"
                )
        return file, headers

    def _on_head(self, repo: Repo, rev: str, path: str) -> Callable[[], None]:
        file, headers = self._found(repo, rev, path)
        if file.sha256:
            signed = f"{self.server_state.storage}/storage/{repo.id}/{file.sha256}?signature=s3cr3t"
            return lambda: self._send(302, b"", {**headers, "Location": signed})
        return lambda: self._send(200, file.content or b"", headers)

    def _on_file(self, repo: Repo, rev: str, path: str) -> Callable[[], None]:
        file, headers = self._found(repo, rev, path)
        return lambda: self._send(200, file.content if file.content is not None else repo.large[file.sha256], headers)

    def _on_stored(self, repo: Repo, oid: str) -> Callable[[], None]:
        return lambda: self._send(200, repo.large[oid], {"ETag": f'"{oid}"'})


def _wants_private(asked: dict[str, Any], otherwise: bool) -> bool:
    """Older clients say "private": true, later ones "visibility": "private"."""
    return asked["visibility"] == "private" if "visibility" in asked else asked.get("private", otherwise) is True
