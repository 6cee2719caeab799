"""What went wrong between us and the Hub, in one line that says what to do, and never shows a token."""

from __future__ import annotations

import errno
import json
import re
from collections.abc import Iterator
from urllib.parse import unquote

from huggingface_hub import errors as hf
from huggingface_hub import get_token

from swwae_zoo.utils.text import printable

__all__ = [
    "HubError",
    "Missing",
    "Unreachable",
    "check_token",
    "explained",
    "is_passing",
    "place_of",
    "retry_after",
    "scrubbed",
    "status_of",
]

LOGIN = "`hf auth login` stores one, or set HF_TOKEN"
_TOKEN = re.compile(r"hf_[A-Za-z0-9_]{4,}|(?<=Bearer )\S+|(?<=\?)[^\s\"')]+")
_ADDRESS = re.compile(r"//[^/]+/(?:api/models/)?([^/]+/[^/]+)/(?:(?:resolve|revision)/([^/?]+))?")
_XET_STATUS = re.compile(r"HTTP status \w+ error \((\d{3})\b")  # hf_xet has it in its text alone
_NETWORK = ("httpx", "httpx2", "requests", "urllib3")


class HubError(ValueError):
    """One line: what was got from the Hub, what was expected, what to do."""


class Missing(HubError):
    """No such repository, revision or file, or it may not be seen."""


class Unreachable(HubError):
    """The Hub does not answer, or only with errors of its own."""


def check_token(token: str | None) -> None:
    """Refuses a token that no request can carry, before one is made: an error of the request would show it.

    Args:
        token: as given; None: the stored one, or HF_TOKEN.

    Raises:
        HubError: it holds white space, or characters that no token has.
    """
    what, given = ("token", token) if token is not None else ("the stored token (or HF_TOKEN)", get_token())
    if given is None or re.fullmatch(r"[!-~]{1,1000}", given):
        return
    if not given or len(given) > 1000:
        fault = f"{len(given):,} characters"
    elif "\n" in given or "\r" in given:
        fault = "a line break in it"
    else:
        fault = "white space in it" if re.search(r"\s", given) else "a character in it that no token has"
    raise HubError(f"{what}: got one with {fault}, expected letters and digits such as hf_...: copy it again; {LOGIN}")


def scrubbed(text: str, token: str | None = None) -> str:
    """One printable line without tokens and without the query of an address, which can be a signature."""
    for secret in (token, get_token()):
        if secret:
            text = text.replace(secret, "<token>")
    return printable(_TOKEN.sub("<hidden>", " ".join(text.split())), 1000)


def chain(error: BaseException) -> Iterator[BaseException]:
    """The error and what it was raised from: an upload's says what happened only there."""
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        yield current
        current = current.__cause__ or current.__context__


def status_of(error: BaseException) -> int | None:
    """The HTTP status in an error, or None."""
    for cause in chain(error):
        if isinstance(cause, hf.HfHubHTTPError):
            return cause.response.status_code
        if isinstance(cause, (ConnectionError, RuntimeError)) and (match := _XET_STATUS.search(str(cause))):
            return int(match[1])
    return None


def retry_after(error: BaseException) -> float:
    """Seconds the Hub asks to wait, 0 where it does not say."""
    for cause in chain(error):
        if isinstance(cause, hf.HfHubHTTPError):
            asked = cause.response.headers.get("Retry-After", "")
            return float(asked) if asked.isdigit() else 0.0
    return 0.0


def place_of(error: BaseException) -> tuple[str, str | None]:
    """ORG/NAME and revision in the address that an error is about; else "the Hub"."""
    for cause in chain(error):
        if isinstance(cause, hf.HfHubHTTPError):
            match = _ADDRESS.search(str(cause.response.url))
            return (match[1], unquote(match[2]) if match[2] else None) if match else ("the Hub", None)
    return "the Hub", None


def is_passing(error: BaseException) -> bool:
    """Whether trying again can help: the connection broke, or the Hub was busy or ill."""
    if (
        isinstance(error, HubError)
        or disk_full(error)
        or any(isinstance(e, hf.OfflineModeIsEnabled) for e in chain(error))
    ):
        return False
    status = status_of(error)
    if status is not None:
        return status in (408, 429) or status >= 500
    return any(_is_network(cause) for cause in chain(error))


def disk_full(error: BaseException) -> bool:
    words = ("no space left", "os error 28", "not enough free disk space")
    return any(
        isinstance(cause, OSError)
        and cause.errno in (errno.ENOSPC, errno.EDQUOT)
        or any(word in str(cause).lower() for word in words)
        for cause in chain(error)
    )


def _is_network(error: BaseException) -> bool:
    broken = isinstance(error, (ConnectionError, TimeoutError, json.JSONDecodeError))  # a proxy's error page is no JSON
    broken = (
        broken or "Consistency check failed" in str(error) or "CAS Client Error" in str(error)
    )  # half a file; hf_xet's
    return broken or type(error).__module__.partition(".")[0] in _NETWORK and not isinstance(error, hf.HfHubHTTPError)


def explained(error: BaseException, repo: str, revision: str | None = None, token: str | None = None) -> HubError:
    """The line for an error of huggingface_hub, hf_xet or the disk.

    Args:
        error: what was raised.
        repo: ORG/NAME.
        revision: what was asked for; None is "main".
        token: the one used, where it is not the stored one.
    """
    if isinstance(error, HubError):
        return error
    try:
        check_token(token)
    except HubError as wrong:
        return wrong
    has_token = bool(token or get_token())
    status = status_of(error)
    causes = list(chain(error))
    said = scrubbed(
        next((e.server_message for e in causes if isinstance(e, hf.HfHubHTTPError) and e.server_message), ""), token
    )

    def any_is(*kinds: type[BaseException]) -> bool:
        return any(isinstance(cause, kinds) for cause in causes)

    if any_is(hf.OfflineModeIsEnabled):
        return Unreachable(
            f"{repo}: HF_HUB_OFFLINE is set, and what is needed is not in the cache: unset it, or pull once online"
        )
    if disk_full(error):
        return HubError(f"{repo}: disk full: free some space, or set HF_HOME to a folder on another disk")
    if any_is(hf.GatedRepoError):
        how = "ask for access on its page" if has_token else f"ask for access on its page, and give a token ({LOGIN})"
        return Missing(f"{repo} is gated, and this account has no access to it: {how}")
    if any_is(hf.RevisionNotFoundError):
        return Missing(f"{repo} has no revision {revision or 'main'!r}: give a branch, tag or commit that it has")
    if any_is(hf.EntryNotFoundError) and not any_is(
        hf.LocalEntryNotFoundError
    ):  # the latter: no network, and not cached
        return Missing(f"{repo} lacks a file at {revision or 'main'!r}: it is not what `swwae push` makes")
    if status == 401 and (has_token and "invalid" in said.lower() or "credentials" in said.lower()):
        return HubError(f"{repo}: the Hub refused the token: it is wrong or was withdrawn; {LOGIN}")
    if any_is(hf.RepositoryNotFoundError):
        if has_token:
            return Missing(
                f"{repo} does not exist, or it is private and this token may not see it: check the name and the account"
            )
        return Missing(
            f"{repo} does not exist, or it is private and no token was given: check the name, or give a token ({LOGIN})"
        )
    if status == 401 and has_token:
        return HubError(
            f"{repo}: the Hub refused the token for this: it is wrong, withdrawn or lacks the right; {LOGIN}"
        )
    if status == 401 or any_is(hf.LocalTokenNotFoundError):
        return HubError(f"{repo}: the Hub wants a token, and none was given: {LOGIN}")
    if status == 403:
        return HubError(
            f"{repo}: the Hub refused, this token may not do that: it needs write access to {repo.partition('/')[0]}"
            + (f" ({said:.200})" if said else "")
        )
    if status == 429:
        return Unreachable(f"{repo}: too many requests, the Hub asks to wait: try again in some minutes")
    if status is not None and status >= 500:
        return Unreachable(
            f"{repo}: the Hub has trouble of its own (HTTP {status}), after several tries: try again later"
        )
    if status is not None:
        return HubError(f"{repo}: the Hub refused with HTTP {status}" + (f": {said:.200}" if said else ""))
    if any(_is_network(cause) for cause in causes) or any_is(hf.LocalEntryNotFoundError):
        return Unreachable(
            f"{repo}: the connection to the Hub broke, after several tries: check the network and run it again"
        )
    first = causes[-1]
    return HubError(f"{repo}: {type(first).__name__}: {scrubbed(str(first), token):.300}")
