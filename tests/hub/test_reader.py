"""A reader during a push gets one commit or the other, never the configuration of one with the weights of another."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from hub_server.client import Client, digest
from hub_server.fixtures import TOKEN, OnePath, make_run

# Whichever is the faster one waits for the other: a push every four to eight loads. Each has a file of a byte a turn.
TURNS = """
import os, threading
def turns(file):
    return os.path.getsize(file)
def turn(file):
    with open(file, "ab") as log:
        log.write(b".")
def wait(done):
    for _ in range(20_000):
        if done() or os.path.exists(STOP):
            return
        threading.Event().wait(0.005)
    raise AssertionError("the other one is gone")
"""
PUSH = f"""
import swwae_zoo
os.environ["HF_TOKEN"] = {TOKEN!r}
runs, answer = RUNS, 0
while not os.path.exists(STOP):
    pushed = swwae_zoo.push(runs[answer % 2], "zoo/swwae_svhn.moving")
    assert pushed.status == "pushed", pushed
    answer, before = answer + 1, turns(LOADS)
    turn(PUSHES)
    wait(lambda: turns(LOADS) >= before + 4)
"""
READ = """
import hashlib, timm, swwae_zoo
from swwae_zoo.hub import pull
def load(name, tries=3):
    try:
        return timm.create_model(name, pretrained=True)
    except (OSError, ValueError) as error:  # timm asks for a branch's config.json twice, and a push can come between
        torn.append(str(error))
        known = any(words in str(error) for words in ("Consistency check failed", "load it again"))
        assert name.startswith("hf-hub:") and tries and known, error
        return load(name, tries - 1)
found, torn = [], []
for i in range(ROUNDS):
    wait(lambda: turns(PUSHES) > i // 8)
    name = ("hf-hub:zoo/swwae_svhn.moving", "swwae_svhn.moving", None)[i % 3]
    if name is None:
        name = f"local-dir:{pull('zoo/swwae_svhn.moving').folder}"
    model = load(name)
    sha256 = hashlib.sha256()
    for key, tensor in sorted(model.state_dict().items()):
        sha256.update(key.encode() + tensor.contiguous().numpy().tobytes())
    turn(LOADS)
    found.append([model.decoder.stages[0].pool.name, model.pretrained_cfg.get("notes"), sha256.hexdigest()])
answer = [found, torn]
"""


@pytest.fixture
def reader(path: OnePath, tmp_path: Path) -> Iterator[Client]:
    client = Client(tmp_path / "home", **path.env)
    yield client
    client.close()


@pytest.mark.parametrize("rounds", [50, pytest.param(200, marks=pytest.mark.slow)])
def test_a_reader_never_gets_a_mixture(path: OnePath, reader: Client, tmp_path: Path, rounds: int) -> None:
    """The two differ in config.json and in the weights, but not in the weights' shapes: a mixture would load."""
    notation = "(4)3c-2p-(4)3c-2p-10fc"
    soft = make_run(tmp_path / "soft", "swwae_svhn", args={"notation": notation, "pool": "soft"}, contrast="image")
    hard = make_run(tmp_path / "hard", "swwae_svhn", args={"notation": notation})
    assert [p.shape for p in soft.parameters()] == [p.shape for p in hard.parameters()]
    allowed = {("soft", "contrast=image", digest(soft)), ("hard", None, digest(hard))}
    path.push(tmp_path / "hard", "zoo/swwae_svhn.moving")
    names: dict[str, object] = {name: str(tmp_path / name) for name in ("STOP", "LOADS", "PUSHES")}
    names |= {"RUNS": [str(tmp_path / "soft"), str(tmp_path / "hard")], "ROUNDS": rounds}
    head = "".join(f"{name} = {value!r}\n" for name, value in names.items()) + TURNS
    for name in ("LOADS", "PUSHES"):
        (tmp_path / name).touch()
    path.client.send(do="run", code=head + PUSH, token=TOKEN)
    try:
        seen, torn = reader.tell(do="run", code=head + READ, token=TOKEN)
    finally:
        (tmp_path / "STOP").touch()
        pushes = path.client.answer()
    found = [(pool, notes[0] if notes else None, weights) for pool, notes, weights in seen]
    assert len(found) == rounds and set(found) == allowed
    assert len(torn) < rounds / 4, torn
    changes = sum(a != b for a, b in zip(found, found[1:], strict=False))
    assert pushes > rounds / 10 and changes > rounds / 20, "they did not run side by side"
