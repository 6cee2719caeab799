"""`hf:ORG/NAME`: the real `datasets` library against a Hub on loopback, in a client process of its own."""

import importlib.util
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hub_server import HubServer, Repo
from hub_server.client import Client
from PIL import Image

from swwae_zoo.data.readers.hf import Place, parse, pinned, unpinned

if importlib.util.find_spec("datasets") is None:  # the clients import it, this process need not
    pytest.skip("needs datasets", allow_module_level=True)
TOKEN = "hf_goodtoken"
LOAD = """
from swwae_zoo.data import load_images
try:
    images = load_images({spec!r}, {split!r}, data_dir={data!r}, **{kwargs!r})
    labels = None if images.labels is None else images.labels.tolist()
    answer = dict(kind=type(images).__name__, count=images.count, shape=images.shape, labels=labels,
                  names=images.class_names, notes=images.notes, first=images.first(1).flatten().tolist())
except ValueError as error:
    answer = dict(error=str(error))
"""


def pixels(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 255, (8, 8, 3), np.uint8)


def png(seed: int) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels(seed)).save(file, "PNG")
    return file.getvalue()


def table(features: dict[str, Any] | None = None, **columns: list[Any]) -> bytes:
    """A Parquet file, with the features that Hugging Face keeps in its metadata."""
    import pyarrow as pa
    from pyarrow import parquet

    made = pa.table({name: pa.array(column) for name, column in columns.items()})
    if features:
        made = made.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    file = io.BytesIO()
    parquet.write_table(made, file)
    return file.getvalue()


PICTURE = {"_type": "Image"}
BREED = {"_type": "ClassLabel", "names": ["cat", "dog"]}


def pictures(count: int, first: int = 0) -> list[dict[str, Any]]:
    return [{"bytes": png(first + i), "path": None} for i in range(count)]


def pets(count: int, first: int = 0) -> bytes:
    return table({"img": PICTURE, "breed": BREED}, img=pictures(count, first), breed=[i % 2 for i in range(count)])


def splits() -> dict[str, bytes]:
    parts = (("train", 6, 0), ("validation", 4, 50), ("test", 2, 90))
    return {f"data/{split}-0.parquet": pets(count, first) for split, count, first in parts}


class Here:
    def __init__(self, folder: Path) -> None:
        self.folder, self.hub = folder, HubServer()
        self.hub.users[TOKEN] = "ann"
        self.client = Client(folder / "home", HF_ENDPOINT=self.hub.url, HF_HUB_DISABLE_XET="1")

    def add(self, name: str, files: dict[str, bytes], **what: bool) -> str:
        repo = Repo(f"datasets/{name}", **what)
        self.hub.repos[repo.id] = repo
        return repo.put(**files)

    def load(self, spec: str, split: str = "train", token: str | None = None, client: Any = None, **kwargs: Any) -> Any:
        code = LOAD.format(spec=spec, split=split, data=str(self.folder / "data"), kwargs=kwargs)
        return (client or self.client).tell(do="run", code=code, token=token)

    def refusal(self, spec: str, split: str = "train", **kwargs: Any) -> str:
        said = self.load(spec, split, **kwargs)
        assert "error" in said and "\n" not in said["error"] and TOKEN not in said["error"], said
        return said["error"]


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Here]:
    place = Here(tmp_path_factory.mktemp("hf"))
    with place.hub:
        place.add("ann/pets", splits())
        yield place
        place.client.close()
    assert TOKEN not in place.client.stderr.read_text()


def test_specs_are_taken_apart() -> None:
    assert parse("hf:ann/pets") == Place("ann/pets")
    whole = parse("hf:ann/pets@refs/pr/1:small?image=img&label=breed")
    assert whole == Place("ann/pets", "refs/pr/1", "small", "img", "breed")
    assert pinned("folder:x") == "folder:x"
    commit = "a" * 40
    assert pinned(f"hf:ann/pets@{commit}:small") == f"hf:ann/pets@{commit}:small"  # asks nobody
    assert unpinned(f"hf:ann/pets@{commit}:small?label=b") == "hf:ann/pets:small?label=b"
    assert unpinned("hf:ann/pets@v1") == "hf:ann/pets@v1"


@pytest.mark.parametrize("spec", ["hf:", "hf:pets", "hf:a/b/c", "hf:a/b?x=1", "hf:a/b?", "hf:a/b@", "hf:a b/c"])
def test_other_forms_are_refused(spec: str) -> None:
    with pytest.raises(ValueError, match="expected hf:ORG/NAME"):
        parse(spec)


def test_splits_labels_and_class_names(here: Here) -> None:
    train = here.load("hf:ann/pets")
    assert (train["kind"], train["count"], train["shape"]) == ("ImageSet", 6, [3, 8, 8])
    assert train["labels"] == [0, 1] * 3 and train["names"] == ["cat", "dog"]
    assert train["first"] == pixels(0).transpose(2, 0, 1).flatten().tolist()
    commit = here.hub.repos["datasets/ann/pets"].branches["main"]
    assert commit in train["notes"][0]
    assert here.load("hf:ann/pets", "val")["count"] == 4 and here.load("hf:ann/pets", "test")["count"] == 2
    assert here.load("hf:ann/pets", "unlabeled")["labels"] is None


def test_a_large_set_is_streamed_to_a_store_once(here: Here) -> None:
    first = here.load("hf:ann/pets", limit=100, img_size=(8, 8))
    assert first["kind"] == "ImageStore" and first["labels"] == [0, 1] * 3
    assert first["first"] == pixels(0).transpose(2, 0, 1).flatten().tolist()
    here.hub.requests.clear()
    assert here.load("hf:ann/pets", limit=100, img_size=(8, 8)) == first
    assert not [request for request in here.hub.requests if request.startswith("GET") and ".parquet" in request]


def test_labels_as_text_keep_the_training_order(here: Here) -> None:
    files = {
        "train.parquet": table(
            {"image": PICTURE, "label": {"_type": "Value", "dtype": "string"}}, image=pictures(3), label=["b", "a", "c"]
        ),
        "test.parquet": table(
            {"image": PICTURE, "label": {"_type": "Value", "dtype": "string"}}, image=pictures(1), label=["c"]
        ),
    }
    here.add("ann/text", files)
    assert here.load("hf:ann/text")["labels"] == [1, 0, 2]
    test = here.load("hf:ann/text", "test")
    assert test["labels"] == [2] and test["names"] == ["a", "b", "c"]


def test_several_columns_have_to_be_chosen_from(here: Here) -> None:
    features = {"image": PICTURE, "coarse": BREED, "fine": BREED}
    here.add("ann/both", {"train.parquet": table(features, image=pictures(2), coarse=[0, 0], fine=[0, 1])})
    said = here.refusal("hf:ann/both")
    assert "coarse, fine" in said and "hf:ann/both?label=coarse" in said
    assert here.load("hf:ann/both?label=fine")["labels"] == [0, 1]
    assert "no column 'x'" in here.refusal("hf:ann/both?label=x")


def test_bad_images_follow_the_rule_of_folders(here: Here) -> None:
    cells = [*pictures(2), {"bytes": b"no image", "path": None}]
    here.add("ann/bad", {"train.parquet": table({"image": PICTURE, "label": BREED}, image=cells, label=[0, 1, 1])})
    assert "1 of 3 images" in here.refusal("hf:ann/bad") and "--bad-images skip" in here.refusal("hf:ann/bad")
    assert here.load("hf:ann/bad", bad_images="skip")["labels"] == [0, 1]


def test_a_table_cannot_name_a_file_of_this_machine(here: Here, tmp_path: Path) -> None:
    (tmp_path / "own.png").write_bytes(png(1))
    cells = [{"bytes": None, "path": str(tmp_path / "own.png")}]
    here.add("ann/sly", {"train.parquet": table({"image": PICTURE, "label": BREED}, image=cells, label=[0])})
    assert "cannot be read" in here.refusal("hf:ann/sly")


def test_what_is_wrong_is_one_line(here: Here) -> None:
    here.add("ann/script", {"script.py": b"import datasets"})
    here.add("ann/table", {"train.csv": b"a,b\n1,2\n"})
    here.add("ann/gated", {"train.parquet": pets(2)}, gated=True)
    assert "no data set ann/none" in here.refusal("hf:ann/none")
    assert "no revision 'v9'" in here.refusal("hf:ann/pets@v9")
    assert "loading script" in here.refusal("hf:ann/script")
    assert "no image column" in here.refusal("hf:ann/table")
    assert "is gated" in here.refusal("hf:ann/gated") and "is gated" in here.refusal("hf:ann/gated", token=TOKEN)


def test_without_a_network(here: Here, tmp_path: Path) -> None:
    here.load("hf:ann/pets")  # to the cache
    commit = here.hub.repos["datasets/ann/pets"].branches["main"]
    offline = Client(here.folder / "home", HF_ENDPOINT=here.hub.url, HF_HUB_OFFLINE="1")
    assert "HF_HUB_OFFLINE is set" in here.refusal("hf:ann/pets", client=offline)
    assert here.load(f"hf:ann/pets@{commit}", client=offline)["count"] == 6
    offline.close()
    down = Client(tmp_path / "home", HF_ENDPOINT="http://127.0.0.1:9")
    assert "does not answer" in here.refusal("hf:ann/pets", client=down)
    down.close()


def test_a_run_names_the_commit_it_used_and_is_resumed_by_it(here: Here, tmp_path: Path) -> None:
    commit = here.add("ann/moving", splits())
    flags = [
        "--data",
        "hf:ann/moving",
        "--steps",
        2,
        "--batch-size",
        4,
        "--labeled-batch",
        2,
        "--device",
        "cpu",
        "--out",
        tmp_path,
    ]
    flags += ["--model", "swwae_svhn", "--model-arg", "notation=(4)3c-2p-10fc", "--model-arg", "img_size=8"]
    first = here.client.swwae("train", *flags)
    assert first.code == 0, first
    assert f'data = "hf:ann/moving@{commit}"' in (tmp_path / "config.toml").read_text()
    run = (tmp_path / "run.json").read_text()
    assert commit in run and '"fingerprint"' in run and TOKEN not in run
    here.hub.repos["datasets/ann/moving"].put(**{"data/train-1.parquet": pets(2, 200)})  # the set moves on
    assert here.client.swwae("train", *flags, "--resume").code == 0
    assert f'data = "hf:ann/moving@{commit}"' in (tmp_path / "config.toml").read_text()
