"""`push`: a trained run to a repository of the Hub, in one commit."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path
from typing import NamedTuple

from huggingface_hub import CommitOperationAdd, HfApi, get_token

from swwae_zoo.hub.errors import HubError, Missing, check_token, explained, is_passing, status_of
from swwae_zoo.hub.remote import Remote, api_for, attempts, is_revision, look_at, split_revision
from swwae_zoo.hub.verify import Sums
from swwae_zoo.models import swwae as _registers_the_models  # noqa: F401
from swwae_zoo.publish.folder import Built, build_folder
from swwae_zoo.publish.trained import TrainedRun, find_source
from swwae_zoo.training.places import Place
from swwae_zoo.utils.text import printable

__all__ = ["Pushed", "push"]

MAIN = "main"
_LICENSE = re.compile(r"[a-z0-9][a-z0-9.+-]{0,63}", re.ASCII)


class Pushed(NamedTuple):
    """What `push` gives.

    commit: None for a dry run.
    url: of the commit or of the pull request.
    status: "pushed", "unchanged" (the Hub had the same already) or "dry run".
    private: whether only its owners see it; None for a dry run.
    files: name -> size and sums.
    card: the text of README.md.
    """

    repo: str
    revision: str
    commit: str | None
    url: str | None
    status: str
    private: bool | None
    tag: str | None
    files: dict[str, Sums]
    card: str


def push(
    run: str | Path,
    repo: str,
    *,
    private: bool = False,
    revision: str = MAIN,
    tag: str | None = None,
    message: str | None = None,
    create_pr: bool = False,
    dry_run: bool = False,
    weights: str | None = None,
    license: str | None = None,
    token: str | None = None,
) -> Pushed:
    """Sends a model's weights, config.json, card and pictures to the Hub, in one commit or not at all.

    Args:
        run: a run directory of `swwae train`, a round of it, or its best/ or last/ (see `find_run`); or a folder with
            config.json and model.safetensors, whose own card is kept where it has one.
        repo: ORG/NAME; made if it is not there.
        private: make the repository private; otherwise an existing one stays as visible as it is.
        revision: the branch; made if it is not there.
        tag: a name for the commit. One that names another commit is left alone, and is an error.
        message: of the commit.
        create_pr: open a pull request instead of changing the branch.
        dry_run: make the folder and check it, without a network.
        weights: "best" or "last" of a run.
        license: of the weights, by the Hub's name, such as "mit"; by default the card has none.
        token: by default the stored one, or HF_TOKEN.

    Raises:
        ValueError: the run can't be pushed, or `HubError`: the Hub did not take it. Run it again to go on where it
            stopped: files that have arrived are not sent again.
    """
    check_token(token)
    name, at = split_revision(repo)
    if at is not None:
        raise HubError(f"got {repo!r}: name the branch with --revision {at}")
    for what, given in (("revision", revision), ("tag", tag)):
        if given is not None and not is_revision(given):
            raise HubError(f"{what}: got {given!r}, expected a name such as {'main' if what == 'revision' else 'v1'}")
    if create_pr and tag:
        raise HubError("a pull request has no commit to tag yet: leave --tag out, or --create-pr")
    if license is not None and not _LICENSE.fullmatch(license):
        raise HubError(
            f"license: got {printable(license, 50)!r}, expected the Hub's name of one, such as mit, apache-2.0 or other"
        )
    source = find_source(run, weights)
    try:
        with tempfile.TemporaryDirectory(prefix="swwae-push-") as folder:
            load_as = f"hf-hub:{name}" + (f"@{revision}" if revision != MAIN else "")
            built = build_folder(source, Path(folder), load_as, license)
            card = (built.folder / "README.md").read_text(encoding="utf-8")
            made = Pushed(name, revision, None, None, "dry run", None, tag, built.sums, card)
            if dry_run:
                return made
            return _send(made, built, private, message or _title(built, source), create_pr, token)
    except OSError as error:
        raise explained(error, name, revision, token) from None  # its request holds the token


def _title(built: Built, source: TrainedRun | Place) -> str:
    if isinstance(source, Place):
        return built.architecture
    data, labels = source.config.data.partition(":")[0], source.config.num_labels or "all"
    return f"{built.architecture}: {data}, {labels} labels"


def _send(made: Pushed, built: Built, private: bool, title: str, create_pr: bool, token: str | None) -> Pushed:
    api, repo, revision = api_for(token), made.repo, made.revision
    try:
        before = _prepare(api, repo, revision, private, token)
        tagged = _commit_of_tag(api, repo, made.tag)
        if _is_there(before, built):
            _put_tag(api, made, before.commit, tagged)
            return made._replace(
                commit=before.commit, url=_url(api, repo, before.commit), status="unchanged", private=before.private
            )
        if tagged is not None:
            raise HubError(
                f"{repo}: the tag {made.tag!r} names commit {tagged[:8]}, with other files: give another --tag"
            )
        commit, url = _commit(api, before, built, revision, title, create_pr, token)
        after = look_at(repo, commit, token)
        if not _is_there(after, built):
            raise HubError(f"{repo}: commit {commit[:8]} does not hold the files that were sent: push again")
        _put_tag(api, made, commit, None)
    except Exception as error:
        raise explained(error, repo, revision, token) from None  # its request holds the token
    return made._replace(commit=commit, url=url, status="pushed", private=after.private)


def _prepare(api: HfApi, repo: str, revision: str, private: bool, token: str | None) -> Remote:
    """The repository as it is before: made, as private as was asked, with the branch."""
    if not (token or get_token()):
        raise HubError(f"{repo}: pushing needs a token: `hf auth login` stores one, or set HF_TOKEN")
    attempts(lambda: api.create_repo(repo, private=private or None, exist_ok=True))
    if private and not look_at(repo, None, token).private:
        attempts(lambda: api.update_repo_settings(repo, private=True))
        if not look_at(repo, None, token).private:
            raise HubError(f"{repo} is public and can't be made private: nothing was sent; make it private on its page")
    try:
        return look_at(repo, revision, token)
    except Missing:
        attempts(lambda: api.create_branch(repo, branch=revision, exist_ok=True))
        return look_at(repo, revision, token)


def _is_there(remote: Remote, built: Built) -> bool:
    return all(name in remote.files and sums.fit(remote.files[name]) for name, sums in built.sums.items())


def _commit(
    api: HfApi, before: Remote, built: Built, revision: str, title: str, create_pr: bool, token: str | None
) -> tuple[str, str]:
    """Uploads, then commits on top of the commit that was seen before, so that nobody's push is overwritten.

    Returns:
        The commit and its address, or that of the pull request.
    """
    repo = before.repo
    additions = [CommitOperationAdd(name, built.folder / name) for name in built.sums]
    for addition in additions:
        addition.upload_info.sha256 = bytes.fromhex(
            built.sums[addition.path_in_repo].sha256
        )  # the client need not read it for that again
    attempts(lambda: api.preupload_lfs_files(repo, additions=additions, revision=revision, create_pr=create_pr))

    def send() -> tuple[str, str]:
        made = api.create_commit(
            repo, additions, commit_message=title, revision=revision, parent_commit=before.commit, create_pr=create_pr
        )
        return made.oid, made.pr_url or made.commit_url

    try:
        return send()
    except Exception as error:
        unsure = is_passing(error)
        if status_of(error) not in (409, 412) and not unsure:
            raise
        now = look_at(repo, revision, token)
        if now.commit != before.commit:
            if _is_there(now, built) and not create_pr:
                return now.commit, _url(api, repo, now.commit)  # made, and only its answer was lost
            raise HubError(
                f"{repo}: {revision} was moved by another push meanwhile (it is at {now.commit[:8]}): "
                "nothing was overwritten; look at what is there, and push again"
            ) from None
        if not unsure:
            raise
        if create_pr:
            raise HubError(
                f"{repo}: the connection broke, and the pull request may have been opened: "
                "look at its page before trying again"
            ) from None
    return attempts(send)


def _url(api: HfApi, repo: str, commit: str) -> str:
    return f"{api.endpoint}/{repo}/commit/{commit}"


def _commit_of_tag(api: HfApi, repo: str, tag: str | None) -> str | None:
    if tag is None:
        return None
    refs = attempts(lambda: api.list_repo_refs(repo))
    return next((ref.target_commit for ref in refs.tags if ref.name == tag), None)


def _put_tag(api: HfApi, made: Pushed, commit: str, tagged: str | None) -> None:
    if made.tag is None or tagged == commit:
        return
    if tagged is not None:
        raise HubError(
            f"{made.repo}: the tag {made.tag!r} names commit {tagged[:8]}, not {commit[:8]}: give another --tag"
        )
    tag = made.tag
    attempts(lambda: api.create_tag(made.repo, tag=tag, revision=commit, exist_ok=True))
