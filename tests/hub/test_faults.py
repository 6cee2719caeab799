"""Everything that can go wrong between here and the Hub, on both upload paths: it is repaired, or ends in one line and
code 2.  Never wrong weights, never somebody else's commit lost, never a token on the screen.
"""

import pickle
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hub_server import Call, Close, Corrupt, CutUpload, LoseResponse, Status, Truncate
from hub_server.client import Client
from hub_server.fixtures import TOKEN, OnePath, make_run

BUSY = [Status(503), Status(429, {"Retry-After": "1"}), Status(500), Close()]


def push_stages(path: OnePath, name: str) -> list[str]:
    """What a first push asks for, in order."""
    upload = (
        [f"/api/models/{name}/xet-write-token/main", path.upload, "POST /cas/v1/shards"]
        if path.use_xet
        else [f"POST /{name}.git/info/lfs/objects/batch", path.upload, f"POST /lfs-verify/{name}"]
    )
    return [
        "POST /api/repos/create",
        f"GET /api/models/{name}/revision/main",
        f"GET /api/models/{name}/refs",
        f"POST /api/models/{name}/preupload/main",
        *upload,
        "POST /api/validate-yaml",
        f"POST /api/models/{name}/commit/main",
        f"POST /api/models/{name}/tag/",
    ]


def pull_stages(path: OnePath, name: str) -> list[str]:
    large = ["/xet-read-token/", "GET /cas/v1/reconstructions/"] if path.use_xet else []
    return [f"GET /api/models/{name}", f"GET /{name}/resolve/", f"HEAD /{name}/resolve/", *large, path.download]


def weights_of(run: Path) -> bytes:
    return (run / "last" / "model.safetensors").read_bytes()


@pytest.fixture
def run(tmp_path: Path) -> Path:
    make_run(tmp_path / "run")
    return tmp_path / "run"


@pytest.fixture
def name(request: pytest.FixtureRequest) -> str:
    """A repository of the test's own."""
    return f"ann/{request.node.name.replace('[', '.').rstrip(']').removeprefix('test_')[:80]}"


@pytest.fixture(autouse=True)
def no_token_on_screen(path: OnePath, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    said = []
    swwae = Client.swwae

    def listen(client: Client, *args: object, **kwargs: str | None) -> object:
        answer = swwae(client, *args, **kwargs)
        said.append(answer)
        return answer

    monkeypatch.setattr(Client, "swwae", listen)
    yield
    assert not any(
        secret in line for line in map(str, said) for secret in (TOKEN, "hf_strangers", "hf_wrong", "s3cr3t")
    )


# --- the connection, and a busy Hub -------------------------------------------------------------------


@pytest.mark.parametrize("fault", BUSY, ids=["503", "429", "500", "close"])
def test_push_gets_past_one_failure_of_each_request(path: OnePath, run: Path, name: str, fault: object) -> None:
    for stage in push_stages(path, name):
        path.hub.fail(stage, fault)
    said = path.client.swwae("push", run, "--repo", name, "--tag", "v1", "--json").json
    repo = path.hub.repos[name]
    assert (
        said["status"] == "pushed"
        and repo.branches["main"] == repo.tags["v1"] == said["commit"]
        and len(repo.commits) == 2
    )


@pytest.mark.parametrize("fault", BUSY, ids=["503", "429", "500", "close"])
def test_pull_gets_past_one_failure_of_each_request(
    path: OnePath, run: Path, name: str, fault: object, tmp_path: Path
) -> None:
    path.push(run, name)
    for stage in pull_stages(path, name):
        path.hub.fail(stage, fault)
    assert path.client.swwae("pull", name, "--out", tmp_path / "out").code == 0
    assert (tmp_path / "out" / "model.safetensors").read_bytes() == weights_of(run)


@pytest.mark.parametrize(
    "fault", [Status(503), Status(429, {"Retry-After": "1"}), Close()], ids=["503", "429", "close"]
)
def test_a_request_that_always_fails_ends_a_push(path: OnePath, run: Path, name: str, fault: object) -> None:
    words = {"503": "trouble of its own (HTTP 503)", "429": "too many requests"}.get(
        str(getattr(fault, "code", "")), "connection to the Hub broke"
    )
    for stage in push_stages(path, name):
        path.hub.faults.clear()
        path.hub.fail(stage, fault, None)
        refused = path.client.swwae("push", run, "--repo", name, "--tag", "v1").refusal
        assert words in refused and name in refused, (stage, refused)
    path.hub.faults.clear()
    assert path.client.swwae("push", run, "--repo", name, "--tag", "v1").code == 0
    assert path.client.load(f"hf-hub:{name}@v1").get("weights")


@pytest.mark.parametrize(
    "fault", [Status(503), Status(429, {"Retry-After": "1"}), Close()], ids=["503", "429", "close"]
)
def test_a_request_that_always_fails_ends_a_pull(
    path: OnePath, run: Path, name: str, fault: object, tmp_path: Path
) -> None:
    path.push(run, name)
    words = {"503": "trouble of its own (HTTP 503)", "429": "too many requests"}.get(
        str(getattr(fault, "code", "")), "connection to the Hub broke"
    )
    for stage in pull_stages(path, name):
        path.hub.faults.clear()
        path.hub.fail(stage, fault, None)
        refused = path.client.swwae("pull", name, "--out", tmp_path / "out").refusal
        assert name in refused and words in refused, (stage, refused)
        assert not (tmp_path / "out").exists()


def test_upload_cut_in_the_middle(path: OnePath, run: Path, name: str) -> None:
    path.hub.fail(path.upload, CutUpload(5000))
    assert path.client.swwae("push", run, "--repo", name).code == 0
    assert sum(path.upload in request for request in path.hub.requests) == 2
    assert path.client.load(f"hf-hub:{name}").get("weights")


def test_upload_cut_for_ever_leaves_the_repository_as_it_was(path: OnePath, run: Path, name: str) -> None:
    path.hub.fail(path.upload, CutUpload(5000), None)
    assert "connection to the Hub broke" in path.client.swwae("push", run, "--repo", name).refusal
    assert len(path.hub.repos[name].commits) == 1


def test_what_has_arrived_is_not_sent_again(path: OnePath, run: Path, name: str) -> None:
    path.hub.fail("/commit/main", Status(500), None)
    path.client.swwae("push", run, "--repo", name)
    path.hub.faults.clear()
    path.hub.requests.clear()
    assert path.client.swwae("push", run, "--repo", name).code == 0
    assert not any(path.upload in request for request in path.hub.requests)


def test_download_cut_in_the_middle_goes_on(path: OnePath, run: Path, name: str, tmp_path: Path) -> None:
    path.push(run, name)
    path.hub.fail(path.download, Truncate(5000))
    assert path.client.swwae("pull", name, "--out", tmp_path / "out").code == 0
    assert (tmp_path / "out" / "model.safetensors").read_bytes() == weights_of(run)
    assert sum(path.download in request for request in path.hub.requests) == 2


@pytest.mark.parametrize("after", [0, 5000])
def test_download_cut_for_ever_leaves_nothing(path: OnePath, run: Path, name: str, tmp_path: Path, after: int) -> None:
    path.push(run, name)
    path.hub.fail(path.download, Truncate(after), None)
    assert "connection to the Hub broke" in path.client.swwae("pull", name, "--out", tmp_path / "out").refusal
    assert not (tmp_path / "out").exists() and "error" in path.client.load(f"local-dir:{tmp_path / 'out'}")
    path.hub.faults.clear()
    assert path.client.swwae("pull", name, "--out", tmp_path / "out").code == 0
    assert (tmp_path / "out" / "model.safetensors").read_bytes() == weights_of(run)


def test_corrupted_bytes_are_fetched_anew(path: OnePath, run: Path, name: str, tmp_path: Path) -> None:
    path.push(run, name)
    path.hub.fail(path.download, Corrupt())
    assert path.client.swwae("pull", name, "--out", tmp_path / "out").code == 0
    assert (tmp_path / "out" / "model.safetensors").read_bytes() == weights_of(run)


@pytest.mark.parametrize("load", ["pull", "hf-hub"])
def test_corrupted_bytes_for_ever_are_never_loaded(path: OnePath, run: Path, name: str, load: str) -> None:
    path.push(run, name)
    path.hub.fail(path.download, Corrupt(), None)
    said = path.client.swwae("pull", name).refusal if load == "pull" else path.client.load(f"hf-hub:{name}")["error"]
    assert "came damaged twice" in said and "\n" not in said
    kept = [
        file for file in (path.client.home / "hub" / f"models--{name.replace('/', '--')}").rglob("*") if file.is_file()
    ]
    assert not any(file.stat().st_size == len(weights_of(run)) for file in kept)
    path.hub.faults.clear()
    assert path.client.load(f"hf-hub:{name}").get("weights")


def test_a_corrupted_config_is_fetched_anew(path: OnePath, run: Path, name: str) -> None:
    path.push(run, name)
    path.hub.fail(f"GET /{name}/resolve/", Corrupt())
    assert path.client.swwae("pull", name).code == 0


def test_corrupted_upload(path: OnePath, run: Path, name: str) -> None:
    """LFS's store compares sums.  Xet's would too; the tests' one does not, so that here whoever pulls finds out."""
    path.hub.fail(path.upload, Corrupt())
    if path.use_xet:
        path.push(run, name)
        assert "came damaged twice" in path.client.swwae("pull", name).refusal
        return
    assert "HTTP 400" in path.client.swwae("push", run, "--repo", name).refusal
    assert len(path.hub.repos[name].commits) == 1
    path.push(run, name)
    assert path.client.load(f"hf-hub:{name}").get("weights")


def test_what_the_hub_lists_after_a_push_is_compared(path: OnePath, run: Path, name: str) -> None:
    path.push(run, name)
    repo = path.hub.repos[name]
    made = repo.commits[repo.branches["main"]].files["model.safetensors"]

    def damage() -> None:
        other = repo.as_large(b"\0" * made.size)
        head = repo.commits[repo.branches["main"]]
        repo.commits[head.id] = type(head)(head.id, head.parent, head.title, {**head.files, "model.safetensors": other})

    make_run(run.parent / "next")
    path.hub.fail(f"GET /api/models/{name}/revision/", Call(damage), times=1, skip=1)
    assert (
        "does not hold the files that were sent"
        in path.client.swwae("push", run.parent / "next", "--repo", name).refusal
    )


# --- who may see what ---------------------------------------------------------------------------------


def test_wrong_token(path: OnePath, run: Path, name: str) -> None:
    path.push(run, name)
    for command in (("push", run, "--repo", name), ("pull", name)):
        assert "refused the token" in path.client.swwae(*command, token="hf_wrong").refusal


def test_no_token(path: OnePath, run: Path, name: str) -> None:
    assert "needs a token" in path.client.swwae("push", run, "--repo", name, token=None).refusal
    path.push(run, name)
    assert path.client.swwae("pull", name, token=None).code == 0  # whoever pulls from a public one needs none


def test_private(path: OnePath, run: Path, name: str) -> None:
    assert path.client.swwae("push", run, "--repo", name, "--private").code == 0
    refused = path.client.swwae("pull", name, token=None).refusal
    assert "is private and no token was given" in refused and "hf auth login" in refused


def test_gated(path: OnePath, run: Path, name: str) -> None:
    path.push(run, name)
    path.hub.repos[name].gated = True
    assert "is gated" in path.client.swwae("pull", name, token="hf_strangers").refusal
    refused = path.client.swwae("pull", name, token=None).refusal
    assert "is gated" in refused and "give a token" in refused
    path.hub.readers.add("bob")
    assert path.client.swwae("pull", name, token="hf_strangers").code == 0
    path.hub.readers.clear()


def test_missing(path: OnePath, run: Path, name: str) -> None:
    assert "does not exist" in path.client.swwae("pull", name).refusal
    path.push(run, name)
    assert "has no revision 'v9'" in path.client.swwae("pull", f"{name}@v9").refusal
    path.hub.repos[name].put(**{"pytorch_model.bin": b"x"})
    head = path.hub.repos[name].commits[path.hub.repos[name].branches["main"]]
    del head.files["model.safetensors"]
    refused = path.client.swwae("pull", name).refusal
    assert "has no model.safetensors" in refused and "pytorch_model.bin is a pickle" in refused


def test_a_model_that_timm_itself_looks_for_on_the_hub(path: OnePath, run: Path, name: str) -> None:
    """Before our code is asked, timm fetches the configuration of hf-hub: names: the command still ends in our line."""

    def refused(of: str = name, **how: str | None) -> str:
        return path.client.swwae("show", f"hf-hub:{of}", **how).refusal

    assert f"{name} does not exist" in refused()
    path.push(run, name)
    assert "has no revision 'v9'" in refused(f"{name}@v9")
    assert "refused the token" in refused(token="hf_wrong")
    path.hub.repos[name].gated = True
    assert "is gated" in refused(token="hf_strangers") and "give a token" in refused(token=None)
    path.hub.repos[name].gated, path.hub.repos[name].private = False, True
    assert "is private and no token was given" in refused(token=None)
    path.hub.fail("", Status(503), None)
    assert "trouble of its own (HTTP 503)" in refused()


@pytest.mark.parametrize("bad", ["name", "a/b/c", "a/..", "a/b@../x", "a/b@", "https://huggingface.co/a/b"])
def test_names_that_are_none(path: OnePath, run: Path, bad: str) -> None:
    for command in (("push", run, "--repo", bad), ("pull", bad)):
        assert "expected" in path.client.swwae(*command).refusal
    assert path.hub.requests == []


def test_no_right_to_write(path: OnePath, run: Path, name: str) -> None:
    path.push(run, name)
    make_run(run.parent / "other")
    for stage in (f"POST /api/models/{name}/preupload", *(["/xet-write-token/"] if path.use_xet else [])):
        path.hub.fail(stage, Status(403), None)
        assert "needs write access" in path.client.swwae("push", run.parent / "other", "--repo", name).refusal
        path.hub.faults.clear()


def test_what_a_hub_says_is_one_line_without_secrets(path: OnePath, run: Path, name: str) -> None:
    path.hub.fail(
        f"POST /api/models/{name}/preupload",
        Status(418, {"X-Error-Message": f"teapot {TOKEN} http://x/y?signature=s3cr3t"}),
        None,
    )
    assert "teapot <token>" in path.client.swwae("push", run, "--repo", name).refusal


def test_bars_bear_names_and_no_signatures(path: OnePath, run: Path, name: str) -> None:
    path.push(run, name)
    before = path.client.stderr.read_text()
    code = f"""
import os, swwae_zoo
os.environ["TQDM_POSITION"] = "-1"  # bars, though this is no terminal
swwae_zoo.pull({name!r})
answer = os.environ.pop("TQDM_POSITION")
"""
    path.client.tell(do="run", code=code, token=TOKEN)
    said = path.client.stderr.read_text().removeprefix(before)
    assert "config.json: 100%" in said and "model.safetensors: 100%" in said and "s3cr3t" not in said, said


# --- others push too ----------------------------------------------------------------------------------


def test_another_push_meanwhile_is_not_overwritten(path: OnePath, run: Path, name: str) -> None:
    path.push(run, name)
    make_run(run.parent / "other")
    repo, theirs = path.hub.repos[name], []
    path.hub.fail("/preupload/main", Call(lambda: theirs.append(repo.put(**{"model.safetensors": b"theirs"}))))
    refused = path.client.swwae("push", run.parent / "other", "--repo", name).refusal
    assert "moved by another push meanwhile" in refused and repo.branches["main"] == theirs[0]


@pytest.mark.parametrize("times", [1, 2])
def test_lost_commit_response(path: OnePath, run: Path, name: str, times: int) -> None:
    path.hub.fail("/commit/main", LoseResponse(), times)
    said = path.client.swwae("push", run, "--repo", name, "--json").json
    repo = path.hub.repos[name]
    assert said["status"] == "pushed" and said["commit"] == repo.branches["main"] and len(repo.commits) == 2


def test_lost_response_of_a_pull_request_is_told(path: OnePath, run: Path, name: str) -> None:
    path.hub.fail("/commit/main", LoseResponse())
    assert "may have been opened" in path.client.swwae("push", run, "--repo", name, "--create-pr").refusal
    assert len(path.hub.repos[name].pulls) == 1


# --- the disk, and no network -------------------------------------------------------------------------


def test_full_disk(path: OnePath, run: Path, name: str, small_disk: Callable[[int], Path]) -> None:
    make_run(run.parent / "large", args={"notation": "(64)3c-2p-(128)3c-2p-10fc"})
    path.push(run.parent / "large", name)
    small = small_disk(200_000)
    assert "disk full" in path.client.swwae("pull", name, "--out", small / "out").refusal
    assert not (small / "out").exists()
    cache = small_disk(200_000)
    code = f"""
import swwae_zoo
try:
    answer = str(swwae_zoo.pull({name!r}, cache_dir={str(cache)!r}))
except ValueError as error:
    answer = str(error)
"""
    assert "disk full" in path.client.tell(do="run", code=code, token=TOKEN)
    assert not list(cache.rglob("*.safetensors"))
    temporary = small_disk(200_000)
    path.client.tell(do="run", code=f"import tempfile; tempfile.tempdir = {str(temporary)!r}; answer = None")
    try:
        assert "disk full" in path.client.swwae("push", run.parent / "large", "--repo", f"{name}.2").refusal
        assert f"{name}.2" not in path.hub.repos and list(temporary.iterdir()) == []
    finally:
        path.client.tell(do="run", code="import tempfile; tempfile.tempdir = None; answer = None")


def test_offline(path: OnePath, run: Path, name: str) -> None:
    path.push(run, name)
    online = path.client.load(f"hf-hub:{name}")
    make_run(run.parent / "zoo", "swwae_svhn")
    path.push(run.parent / "zoo", "zoo/swwae_svhn.offline")
    named = path.client.load("swwae_svhn.offline")
    offline = Client(path.client.home, **path.env, HF_HUB_OFFLINE="1")
    try:
        path.hub.requests.clear()
        assert offline.load(f"hf-hub:{name}")["weights"] == online["weights"]
        assert offline.load("swwae_svhn.offline")["weights"] == named["weights"]
        assert offline.swwae("pull", name).out.startswith("from the cache")
        assert "HF_HUB_OFFLINE is set" in offline.swwae("pull", f"{name}@v1").refusal
        assert "HF_HUB_OFFLINE is set" in offline.swwae("pull", "ann/never").refusal
        assert "HF_HUB_OFFLINE is set" in offline.swwae("show", "hf-hub:ann/never").refusal  # timm asks
        assert "HF_HUB_OFFLINE is set" in offline.swwae("push", run, "--repo", name).refusal
        weights = Path(online["cfg"]["file"]).resolve()
        content = weights.read_bytes()
        weights.write_bytes(content[:-4] + b"\1\2\3\4")
        assert "is damaged" in offline.swwae("pull", name).refusal
        weights.write_bytes(content)
        assert path.hub.requests == []
    finally:
        offline.close()


def test_a_hub_out_of_reach(path: OnePath, run: Path, name: str) -> None:
    path.push(run, name)
    online = path.client.load(f"hf-hub:{name}")
    path.hub.fail("", Status(503), None)
    assert path.client.load(f"hf-hub:{name}")["weights"] == online["weights"]
    path.hub.faults.clear()
    path.hub.fail("", Close(), None)
    assert path.client.swwae("pull", name).out.startswith("from the cache")
    assert "connection to the Hub broke" in path.client.swwae("pull", "ann/never").refusal


# --- files that are not what they seem ----------------------------------------------------------------


class Trap:
    """Unpickled, it writes a file."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[object, ...]:
        return open, (str(self.file), "w")


@pytest.mark.parametrize("file", ["model.safetensors", "pytorch_model.bin"])
def test_a_pickle_is_never_read(path: OnePath, run: Path, name: str, file: str, tmp_path: Path) -> None:
    path.push(run, name)
    repo = path.hub.repos[name]
    repo.put(**{file: pickle.dumps(Trap(tmp_path / "sprung"))})
    if file != "model.safetensors":
        del repo.commits[repo.branches["main"]].files["model.safetensors"]
    if path.use_xet and file == "model.safetensors":
        path.hub.requests.clear()
    for said in (path.client.swwae("pull", name).refusal, path.client.load(f"hf-hub:{name}")["error"]):
        assert "pickle" in said and "\n" not in said, said
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize(
    "config, told",
    [
        (b'{"architecture": "resnet50", "pretrained_cfg": {}}', "expected a model of swwae_zoo"),
        (b'{"architecture": "swwae_mnist", "pretrained_cfg": {"file": "/etc/passwd"}}', "pretrained_cfg.file"),
        (
            b'{"architecture": "swwae_mnist", "pretrained_cfg": {}, '
            b'"model_args": {"notation": "(999999)3c-2p-(999999)3c-9fc"}}',
            "parameters",
        ),
        (b"[" * 100_000, "not valid JSON"),
    ],
    ids=["foreign", "path", "absurd", "nested"],
)
def test_a_hostile_config(path: OnePath, run: Path, name: str, config: bytes, told: str) -> None:
    path.push(run, name)
    path.hub.repos[name].put(**{"config.json": config})
    assert told in path.client.swwae("pull", name).refusal
    path.hub.requests.clear()
    path.client.swwae("pull", name)
    assert not any(
        "storage" in request or "read-token" in request for request in path.hub.requests
    )  # nothing is fetched for it
