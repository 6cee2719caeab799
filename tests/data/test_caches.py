"""What is kept between runs: written whole or not at all, compared when found, wherever there is room to write."""

import json
import logging
import os
import time
import zipfile

import numpy as np
import pytest
import torch

from swwae_zoo.data import ImageSet, ImageStore, load_images
from swwae_zoo.data.leakage import leaked
from swwae_zoo.data.readers import shelf
from swwae_zoo.utils.files import atomic_write, cache_folders, read_sealed, user_path, writable, write_sealed

COUNT = 60


@pytest.fixture
def data(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (COUNT, 4, 4, 3), dtype=np.uint8)
    np.savez(tmp_path / "set.npz", images=images, labels=np.arange(COUNT) % 3)
    return f"npz:{tmp_path / 'set.npz'}", torch.from_numpy(images).permute(0, 3, 1, 2)


def unpacked(data, tmp_path, split="train"):
    return load_images(data[0], split, limit=0, data_dir=tmp_path / "data")


def kept(tmp_path, suffix=".bin"):
    (file,) = (tmp_path / "data" / "stores").glob(f"*{suffix}")
    return file


# ---- one file


def test_what_is_sealed_is_read_back_or_is_not_there(tmp_path):
    path = tmp_path / "x"
    assert read_sealed(path) is None
    for payload in (b"", b"\n", bytes(range(256))):
        write_sealed(path, payload)
        assert read_sealed(path) == payload
    whole = path.read_bytes()
    for at in range(len(whole)):
        for bit in range(8):
            damaged = bytearray(whole)
            damaged[at] ^= 1 << bit
            path.write_bytes(damaged)
            assert read_sealed(path) is None, (at, bit)
        path.write_bytes(whole[:at])
        assert read_sealed(path) is None, at
    path.unlink()
    path.mkdir()
    assert read_sealed(path) is None


def test_every_writer_has_a_name_of_its_own_and_the_dead_are_cleared_away(tmp_path, child):
    path = tmp_path / "x"
    with atomic_write(path) as one, atomic_write(path) as other:
        assert one != other
        one.write_text("one")
        other.write_text("other")
    assert path.read_text() == "one"
    process = child(
        "import os\nfrom pathlib import Path\nfrom swwae_zoo.utils.files import atomic_write\n"
        "with atomic_write(Path(FOLDER) / 'x') as part:\n    part.write_text('half')\n    os._exit(1)\n",
        FOLDER=str(tmp_path),
    )
    process.join()
    assert len(list(tmp_path.glob(".x.*.part"))) == 1
    with atomic_write(path) as part:
        part.write_text("new")
    assert path.read_text() == "new" and not list(tmp_path.glob(".x.*.part"))
    long = tmp_path / ("é" * 120)
    with atomic_write(long) as part:
        part.write_text("long")
    assert long.read_text() == "long"


def test_home_of_nobody(monkeypatch):
    with pytest.raises(ValueError, match="expected a path without ~"):
        user_path("~nobody-of-this-name/x")
    with pytest.raises(ValueError, match="null character"):
        user_path("a\0b")


# ---- stores


def test_labels_and_class_names_are_kept_with_a_store(data, tmp_path):
    for _ in range(2):
        store = unpacked(data, tmp_path)
        assert isinstance(store, ImageStore) and torch.equal(store.images, data[1])
        assert store.labels.tolist() == [i % 3 for i in range(COUNT)] and store.class_names == ("0", "1", "2")
    whole = load_images(data[0], "train")
    assert store.fingerprint() == whole.fingerprint()
    less = store.without(torch.tensor([0, 5]))
    assert less.labels.tolist() == [i % 3 for i in range(COUNT) if i not in (0, 5)]
    assert torch.equal(less.select(torch.tensor([3])).images, data[1][[4]])
    assert unpacked(data, tmp_path, "unlabeled").labels is None


def test_damage_is_found_and_mended(data, tmp_path, caplog):
    """100 single bits and 40 truncations of the store and of what is kept beside it: never a wrong image."""
    unpacked(data, tmp_path)
    rng = np.random.default_rng(1)
    for suffix in (".bin", ".json"):
        file = kept(tmp_path, suffix)
        for turn in range(70):
            whole = bytearray(file.read_bytes())
            if turn < 50:
                whole[rng.integers(len(whole))] ^= 1 << rng.integers(8)
            else:
                del whole[rng.integers(len(whole)) :]
            file.write_bytes(whole)
            os.utime(file, ns=(turn, turn))  # a clock that stands still would hide it
            caplog.clear()
            with caplog.at_level(logging.WARNING):
                store = unpacked(data, tmp_path)
            assert "is damaged or was not finished" in caplog.text
            assert torch.equal(store.images, data[1]) and store.labels.tolist() == [i % 3 for i in range(COUNT)]
    assert len(list((tmp_path / "data" / "stores").iterdir())) == 2


def test_a_store_that_was_copied_is_looked_at_once(data, tmp_path, monkeypatch):
    unpacked(data, tmp_path)
    os.utime(kept(tmp_path), ns=(1, 1))
    looks = []
    real = shelf.zlib.crc32
    monkeypatch.setattr(shelf.zlib, "crc32", lambda *args: looks.append(len(args[0])) or real(*args))
    for _ in range(2):
        assert torch.equal(unpacked(data, tmp_path).images, data[1])
    assert looks.count(COUNT * 48) == 1 and json.loads(read_sealed(kept(tmp_path, ".json")))["mtime_ns"] == 1


UNPACK = """
from swwae_zoo.data import load_images
images = load_images(SPEC, "train", limit=0, data_dir=DATA)
assert images.count == COUNT and int(images.images.long().sum()) == SUM
"""


def test_two_processes_unpack_one_set_at_once(data, tmp_path, child):
    names = {"SPEC": data[0], "DATA": str(tmp_path / "data"), "COUNT": COUNT, "SUM": int(data[1].long().sum())}
    for _ in range(3):
        processes = [child(UNPACK, **names) for _ in range(4)]
        for process in processes:
            process.join()
        assert [process.exitcode for process in processes] == [0] * 4, (tmp_path / "stderr").read_text()
        assert len(list((tmp_path / "data" / "stores").iterdir())) == 2
        for file in (tmp_path / "data" / "stores").iterdir():
            file.unlink()


SLOW = """
import time
from swwae_zoo.data.readers.shelf import Shelf
real = Shelf.add
Shelf.add = lambda self, *args: (time.sleep(0.002), real(self, *args))[1]
from swwae_zoo.data import load_images
open(STARTED, "w").close()
load_images(SPEC, "train", limit=0, data_dir=DATA)
"""


@pytest.mark.parametrize("turn", range(6))
def test_killed_while_unpacking(data, tmp_path, child, turn):
    process = child(SLOW, SPEC=data[0], DATA=str(tmp_path / "data"), STARTED=str(tmp_path / "started"))
    while not (tmp_path / "started").exists():
        assert process.is_alive(), (tmp_path / "stderr").read_text()
        time.sleep(0.005)
    time.sleep(0.03 * turn)
    process.kill()
    process.join()
    store = unpacked(data, tmp_path)
    assert torch.equal(store.images, data[1])
    assert sorted(file.suffix for file in (tmp_path / "data" / "stores").iterdir()) == [".bin", ".json"]


def test_an_error_while_unpacking_leaves_nothing(tmp_path):
    """The archive's own checksum fails at its end, when every image has been written."""
    images = np.random.default_rng(0).integers(0, 256, (COUNT, 32, 32, 3), dtype=np.uint8)
    np.savez(tmp_path / "set.npz", images=images)
    data = bytearray((tmp_path / "set.npz").read_bytes())
    data[data.index(images.tobytes()) + 100] ^= 1
    (tmp_path / "set.npz").write_bytes(data)
    with pytest.raises(ValueError, match="cannot be read as a NumPy archive"):
        load_images(f"npz:{tmp_path}/set.npz", "unlabeled", limit=0, data_dir=tmp_path / "data")
    assert not list((tmp_path / "data" / "stores").iterdir())


def test_a_full_disk(data, small_disk):
    with pytest.raises(ValueError, match="no space left: free some, or set --data-dir"):
        load_images(data[0], "train", limit=0, data_dir=small_disk(4096))


# ---- where there is room


def test_a_data_folder_that_cannot_be_written(data, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    store = load_images(data[0], "train", limit=0, data_dir="/proc/nowhere")
    assert store.path.is_relative_to(tmp_path / "home" / ".cache" / "swwae_zoo" / "stores")
    monkeypatch.setenv("HOME", "/proc/nowhere")
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    store = load_images(data[0], "train", limit=0, data_dir="/proc/nowhere")
    assert store.path.is_relative_to(tmp_path) and torch.equal(store.images, data[1])
    shared = store.path.parents[1]
    assert shared.stat().st_mode & 0o777 == 0o700
    shared.chmod(0o777)  # somebody else could have put files there
    with pytest.raises(ValueError, match="no folder to unpack it to .* set --data-dir"):
        load_images(data[0], "train", limit=0, data_dir="/proc/nowhere")
    assert writable(cache_folders(tmp_path, "x")) == tmp_path / "x"


def test_the_table_of_copies(data, tmp_path):
    store, held = unpacked(data, tmp_path), [ImageSet("test", data[1][[7, 9]])]
    for _ in range(2):
        assert leaked(store, held, False, tmp_path / "data").tolist() == [7, 9]
    (table,) = (tmp_path / "data" / "leakage").iterdir()
    whole = table.read_bytes()
    rng = np.random.default_rng(2)
    for turn in range(60):
        damaged = bytearray(whole)
        if turn < 40:
            damaged[rng.integers(len(whole))] ^= 1 << rng.integers(8)
        else:
            del damaged[rng.integers(len(whole)) :]
        table.write_bytes(damaged)
        assert leaked(store, held, False, tmp_path / "data").tolist() == [7, 9]
        assert table.read_bytes() == whole
    assert leaked(store, held, False, "/proc/nowhere" and tmp_path / "other").tolist() == [7, 9]


# ---- fingerprints


def test_a_fingerprint_tells_sets_apart(data):
    whole = load_images(data[0], "train")
    images, labels, names = whole.images, whole.labels, whole.class_names
    same = ImageSet("another name", images.clone(), labels.clone(), names)
    other_pixel, other_label = images.clone(), labels.clone()
    other_pixel[31, 0, 2, 2] ^= 1
    other_label[5] = (other_label[5] + 1) % 3
    assert same.fingerprint() == whole.fingerprint()
    others = [
        ImageSet("x", other_pixel, labels, names), ImageSet("x", images, other_label, names), whole.unlabelled(),
        ImageSet("x", images, labels, ("0", "1", "two")), ImageSet("x", images.flip(0), labels, names),
    ]  # fmt: skip
    assert len({whole.fingerprint(), *(other.fingerprint() for other in others)}) == 6


def test_an_archive_of_members_without_suffix(tmp_path):
    """Not every writer appends .npy."""
    np.save(tmp_path / "x.npy", np.zeros((2, 4, 4), np.uint8) + 3)
    with zipfile.ZipFile(tmp_path / "set.npz", "w") as archive:
        archive.write(tmp_path / "x.npy", "images")
    assert load_images(f"npz:{tmp_path}/set.npz", "unlabeled").count == 2
