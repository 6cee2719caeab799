"""Sets that fit in no memory: an order without an array, stores read ahead, Tiny Images, exclusions, copies."""

import json
import time
import tracemalloc

import numpy as np
import pytest
import torch

from swwae_zoo.config import RunConfig
from swwae_zoo.data import (
    ImageSet,
    ImageStore,
    IndexStream,
    SplitRequest,
    StreamedImages,
    load_images,
    make_splits,
    sampler,
)
from swwae_zoo.data.exclude import read_exclusions
from swwae_zoo.data.leakage import leaked
from swwae_zoo.data.permutation import Permutation
from swwae_zoo.training.rounds import train_rounds

TINY = 79_302_017


def records(n, seed=0, shape=(3, 32, 32)):
    return np.random.default_rng(seed).integers(0, 256, (n, *shape), dtype=np.uint8)


@pytest.fixture
def tiny(tmp_path):
    """300 records in the published layout; the images as they should be read."""
    data = records(300)
    data.tofile(tmp_path / "tiny_images.bin")
    return tmp_path / "tiny_images.bin", torch.from_numpy(data).transpose(2, 3)


# ---- the order


@pytest.mark.parametrize("n", [1, 2, 3, 10, 97, 1000, 65_536, 100_003])
def test_permutation_has_every_index_once(n):
    for seed, epoch in ((0, 0), (0, 1), (5, 0)):
        assert np.array_equal(np.sort(Permutation(n, seed, epoch)(np.arange(n))), np.arange(n))


def test_permutations_differ_and_mix():
    n = 100_000
    first, second, other = (Permutation(n, *key)(np.arange(n)) for key in ((0, 0), (0, 1), (1, 0)))
    for a, b in ((first, second), (first, other), (first, np.arange(n))):
        assert (a == b).mean() < 1e-3
    # Neighbours on disk are alike: in a good order the steps between indices spread as those of random pairs do,
    # whose mean distance is n/3, and no two batches draw from one region.
    steps = np.abs(np.diff(first))
    assert abs(steps.mean() / (n / 3) - 1) < 0.02 and (steps < 10).mean() < 1e-3
    assert abs(np.corrcoef(first[:-1], first[1:])[0, 1]) < 0.01
    counts = np.bincount(first[:10_000] // 1000, minlength=100)  # 10,000 draws on 100 regions: 100 +- 10 each
    assert counts.min() > 60 and counts.max() < 145


@pytest.mark.parametrize("batches", [50, pytest.param(TINY // 4096, marks=pytest.mark.slow)])
def test_the_whole_set_without_an_array(batches):
    tracemalloc.start()
    stream = IndexStream(TINY, 4096, seed=3)
    seen = np.zeros(TINY, dtype=np.bool_) if batches == TINY // 4096 else None
    tracemalloc.reset_peak()
    before = tracemalloc.get_traced_memory()[0]
    for _ in range(batches):
        index = stream.next()
        assert int(index.min()) >= 0 and int(index.max()) < TINY and len(index.unique()) == 4096
        if seen is not None:
            seen[index.numpy()] = True
    assert tracemalloc.get_traced_memory()[1] - before < 10e6
    tracemalloc.stop()
    if seen is not None:
        seen[stream.next()[: TINY % 4096].numpy()] = True
        assert seen.all()


def test_a_large_stream_goes_on_where_it_was(monkeypatch):
    monkeypatch.setattr(sampler, "WHOLE", 1000)
    stream = IndexStream(10_007, 64, seed=1)
    epoch = torch.cat([stream.next() for _ in range(200)])[:10_007]
    assert torch.equal(epoch.sort().values, torch.arange(10_007))
    state, later = stream.state_dict(), [stream.next() for _ in range(5)]
    again = IndexStream(10_007, 64, seed=1)
    again.load_state_dict(state)
    assert all(torch.equal(a, again.next()) for a in later)


# ---- the store


def test_store_reads_column_major_records(tiny):
    path, images = tiny
    store = load_images(f"tinyimages:{path}", "unlabeled")
    index = torch.tensor([299, 0, 17, 17])
    assert store.count == 300 and store.shape == (3, 32, 32)
    assert torch.equal(store.read(index), images[index]) and torch.equal(store.first(9), images[:9])
    grey = load_images(f"tinyimages:{path}", "unlabeled", in_chans=1)
    assert grey.read(index).shape == (4, 1, 32, 32)


def test_store_steps_over_what_is_left_out(tiny):
    path, images = tiny
    store = load_images(f"tinyimages:{path}", "unlabeled")
    store = store.without(torch.tensor([0, 1, 5, 299])).without(torch.tensor([1, 3]))  # records 3 and 6
    kept = [i for i in range(300) if i not in (0, 1, 3, 5, 6, 299)]
    assert store.count == len(kept) and torch.equal(store.images, images[kept])
    assert torch.equal(torch.cat(list(store.chunks(100))), images[kept])


def test_a_sparse_file_of_the_full_size(tmp_path):
    path, marks = tmp_path / "tiny_images.bin", {0: 7, 1: 8, 40_000_000: 9, TINY - 1: 10}
    with path.open("wb") as file:
        file.truncate(TINY * 3072)
        for position, value in marks.items():
            file.seek(position * 3072)
            file.write(bytes([value]) * 3072)
    if path.stat().st_blocks * 512 > 10**8:
        pytest.skip("this file system has no sparse files")
    start = time.process_time()  # which other work on the machine does not lengthen
    store = load_images(f"tinyimages:{path}", "unlabeled")
    assert time.process_time() - start < 1 and store.count == TINY and path.stat().st_size == 243_615_796_224
    images = store.read(torch.tensor(list(marks)))
    assert images.flatten(1).min(1).values.tolist() == images.flatten(1).max(1).values.tolist() == list(marks.values())


def test_batches_are_read_ahead_in_the_streams_order(tiny):
    path, images = tiny
    store = load_images(f"tinyimages:{path}", "unlabeled")
    stream, reader = IndexStream(300, 32, seed=0), StreamedImages(store, "cpu", ahead=3)
    part = slice(8, 20)
    reader.follow(stream, part)
    for turn in range(30):
        if turn in (7, 20):  # as after a resume: the stream is set elsewhere
            stream.load_state_dict({"drawn": 1000 * turn})
        index = stream.next()[part]
        assert torch.equal(reader.batch(index)[0], images[index])
        assert len(reader._coming) == 3
        following = IndexStream(300, 32, seed=0)
        following.load_state_dict(stream.state_dict())
        assert all(torch.equal(following.next()[part], ahead) for ahead, _ in reader._coming)


def test_a_run_from_a_store_is_the_run_from_memory(tiny, tmp_path):
    path, images = tiny
    np.savez(tmp_path / "same.npz", images=images.numpy())
    results = []
    for unlabeled, store in (
        (f"tinyimages:{path}", "auto"),
        (f"npz:{tmp_path}/same.npz", "memory"),
        (f"npz:{tmp_path}/same.npz", "disk"),
    ):
        config = RunConfig(
            model="swwae_cifar_vgg", model_args={"notation": "(4)3c-2p-10fc"}, data="digits", num_labels=20,
            unlabeled=unlabeled, unlabeled_store=store, steps=6, batch_size=16, labeled_batch=8,
            data_dir=str(tmp_path), device="cpu", out=str(tmp_path / f"run{len(results)}"))  # fmt: skip
        train_rounds(config)
        lines = (tmp_path / config.out / "metrics.jsonl").read_text().splitlines()
        results.append([json.loads(line)["loss"] for line in lines if "loss" in line])
    assert results[0] == results[1] == results[2] and len(results[0]) > 2


def test_what_is_wrong_with_tiny_images(tmp_path, tiny):
    with pytest.raises(ValueError, match="withdrew it in 2020.*CINIC-10.*tinyimages:FILE"):
        load_images("tinyimages", "unlabeled", data_dir=tmp_path / "nowhere")
    assert load_images("tinyimages", "unlabeled", data_dir=tmp_path).count == 300
    assert load_images(f"tinyimages:{tmp_path}", "unlabeled").count == 300
    with pytest.raises(ValueError, match="no file .*empty/tiny_images.bin or .*: Tiny Images is not downloaded"):
        (tmp_path / "empty").mkdir()
        load_images(f"tinyimages:{tmp_path}/empty", "unlabeled")
    with tiny[0].open("ab") as file:
        file.write(b"cut")
    with pytest.raises(ValueError, match=r"921603 bytes, no whole number of records of 3072 \(3 over\)"):
        load_images("tinyimages", "unlabeled", data_dir=tmp_path)
    with pytest.raises(ValueError, match="no labels"):
        load_images(f"tinyimages:{tiny[0]}", "train")


# ---- too large for memory


@pytest.mark.parametrize("kind", ["folder", "npz", "parquet"])
def test_what_is_over_the_limit_is_unpacked_once(tmp_path, kind):
    from PIL import Image

    data = records(40, shape=(8, 6, 3))
    if kind == "npz":
        np.savez_compressed(tmp_path / "set.npz", images=data)
        spec = f"npz:{tmp_path}/set.npz"
    elif kind == "folder":
        (tmp_path / "set").mkdir()
        for i, image in enumerate(data):
            Image.fromarray(image).save(tmp_path / "set" / f"{i:03}.png")
        spec = f"folder:{tmp_path}/set"
    else:
        write_parquet(tmp_path / "set" / "train-0.parquet", data, range(40))
        spec = f"parquet:{tmp_path}/set"
    options = {"data_dir": tmp_path, "in_chans": 3}
    whole = load_images(spec, "unlabeled", **options)
    assert isinstance(whole, ImageSet) and isinstance(
        load_images(spec, "unlabeled", limit=40 * 144, **options), ImageSet
    )
    assert not (tmp_path / "stores").exists()
    store = load_images(spec, "unlabeled", limit=40 * 144 - 1, **options)
    assert isinstance(store, ImageStore) and torch.equal(store.read(torch.arange(40)), whole.images)
    (file,) = (tmp_path / "stores").glob("*.bin")
    written = file.stat().st_mtime_ns
    again = load_images(spec, "unlabeled", limit=0, **options)
    assert file.stat().st_mtime_ns == written and torch.equal(again.images, whole.images)
    assert sorted(path.suffix for path in (tmp_path / "stores").iterdir()) == [".bin", ".json"]


def write_parquet(path, images, labels, kind="struct"):
    pa = pytest.importorskip("pyarrow")
    from io import BytesIO

    import pyarrow.parquet as pq
    from PIL import Image

    def png(image):
        file = BytesIO()
        Image.fromarray(image).save(file, "PNG")
        return file.getvalue()

    path.parent.mkdir(exist_ok=True)
    cells = {
        "struct": lambda: [{"bytes": png(image), "path": None} for image in images],
        "bytes": lambda: [png(image) for image in images],
        "pixels": lambda: [image.tolist() for image in images],
    }[kind]()
    pq.write_table(pa.table({"image": cells, "label": list(labels)}), path)


@pytest.mark.parametrize("kind", ["struct", "bytes", "pixels"])
def test_parquet(tmp_path, kind):
    data = records(30, shape=(8, 6, 3))
    write_parquet(tmp_path / "set" / "train-00000-of-00002.parquet", data[:15], range(15), kind)
    write_parquet(tmp_path / "set" / "train-00001-of-00002.parquet", data[15:25], range(10), kind)
    write_parquet(tmp_path / "set" / "test-00000-of-00001.parquet", data[25:], range(5), kind)
    train, test = (load_images(f"parquet:{tmp_path}/set", split) for split in ("train", "test"))
    expected = torch.from_numpy(data).permute(0, 3, 1, 2)
    assert torch.equal(train.images, expected[:25]) and torch.equal(test.images, expected[25:])
    assert train.labels.tolist() == [*range(15), *range(10)] and len(train.class_names) == 15


def test_what_is_wrong_with_parquet(tmp_path):
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    with pytest.raises(ValueError, match="there is no"):
        load_images(f"parquet:{tmp_path}/none", "unlabeled")
    (tmp_path / "bad.parquet").write_bytes(b"no parquet")
    with pytest.raises(ValueError, match="bad.parquet cannot be read as Parquet"):
        load_images(f"parquet:{tmp_path}/bad.parquet", "unlabeled")
    pq.write_table(pa.table({"text": ["a"]}), tmp_path / "text.parquet")
    with pytest.raises(ValueError, match="no image column"):
        load_images(f"parquet:{tmp_path}/text.parquet", "unlabeled")
    pq.write_table(pa.table({"image": [b"not an image"]}), tmp_path / "broken.parquet")
    with pytest.raises(ValueError, match="image 0 cannot be read"):
        load_images(f"parquet:{tmp_path}/broken.parquet", "unlabeled", limit=0, data_dir=tmp_path)
    assert not list((tmp_path / "stores").glob("*")) if (tmp_path / "stores").exists() else True


# ---- what is left out


def test_exclusions(tmp_path):
    (tmp_path / "list.txt").write_text("# taken\n1\n10  # twice\n\n10\n4\n")
    assert read_exclusions(f"1-based:{tmp_path}/list.txt", 10).tolist() == [0, 3, 9]
    np.save(tmp_path / "list.npy", np.array([0, 9], np.int32))
    assert read_exclusions(f"0-based:{tmp_path}/list.npy", 10).tolist() == [0, 9]
    for spec, message in [
        (f"{tmp_path}/list.txt", "expected 1-based:FILE"),
        (f"0-based:{tmp_path}/list.txt", "line 3: got 10, expected 0 to 9, 0-based"),
        (f"1-based:{tmp_path}/none.txt", "is not a file"),
        (f"1-based:{tmp_path}/list.npy", "entry 0: got 0, expected 1 to 10"),
    ]:
        with pytest.raises(ValueError, match=message):
            read_exclusions(spec, 10)
    (tmp_path / "list.txt").write_text("3\nfour\n")
    with pytest.raises(ValueError, match="line 2: got 'four', expected a whole number"):
        read_exclusions(f"1-based:{tmp_path}/list.txt", 10)


def smooth(n, seed):
    """Images with shapes in them, as photographs have: noise at 4x4, enlarged."""
    coarse = torch.rand(n, 3, 4, 4, generator=torch.Generator().manual_seed(seed)) * 255
    return torch.nn.functional.interpolate(coarse, 32, mode="bicubic").clamp(0, 255).byte()


def test_copies_are_found_and_others_are_not(tmp_path):
    test, others = smooth(50, 0), smooth(400, 1)
    noise = 4 * torch.randn(5, 3, 32, 32, generator=torch.Generator().manual_seed(2))
    others[10:15] = test[:5]
    others[20:25] = (test[5:10].float() * 0.8 + 20).byte()
    others[30:35] = (test[10:15].float() + noise).clamp(0, 255).byte()
    others[40] = 128  # flat: without a shape, nobody's near copy
    images, held = ImageSet("others", others), ImageSet("test", test)
    assert leaked(images, [held], near=False).tolist() == [*range(10, 15)]
    assert leaked(images, [held], near=True).tolist() == [*range(10, 15), *range(20, 25), *range(30, 35)]
    others.numpy().tofile(tmp_path / "set.bin")
    store, told = ImageStore("set", tmp_path / "set.bin", (3, 32, 32)), []
    for _ in range(2):
        assert (
            leaked(store, [held], True, tmp_path, lambda *at: told.append(at)).tolist()
            == leaked(images, [held], True).tolist()
        )
    assert told == [(400, 400)]  # the second time from the file
    assert leaked(store, [ImageSet("one", test[:1])], True, tmp_path).tolist() == [10]  # another question, another file


def test_test_images_leave_the_unlabelled_ones(tmp_path):
    train, test, others = smooth(40, 0), smooth(10, 1), smooth(60, 2)
    others[3], others[7] = test[4], (test[5].float() * 0.9 + 5).byte()
    labels = np.arange(40) % 4
    np.savez(tmp_path / "set.npz", x_train=train, y_train=labels, x_test=test, y_test=np.arange(10) % 4)
    np.savez(tmp_path / "others.npz", images=others)
    others.transpose(2, 3).contiguous().numpy().tofile(tmp_path / "tiny_images.bin")
    (tmp_path / "list.txt").write_text("60\n")

    def left(unlabeled, **options):
        request = SplitRequest(data=f"npz:{tmp_path}/set.npz", unlabeled=unlabeled, data_dir=str(tmp_path), **options)
        splits = make_splits(request)
        return splits.unlabeled.count, len(splits.notes)

    npz = f"npz:{tmp_path}/others.npz"
    assert left(npz) == (59, 1) and left(npz, leakage="near") == (58, 1) and left(npz, leakage="off") == (60, 0)
    assert left("tinyimages") == (58, 1) and left(
        "tinyimages", leakage="off", exclude=f"1-based:{tmp_path}/list.txt"
    ) == (59, 1)
    assert left("tinyimages", exclude=f"1-based:{tmp_path}/list.txt") == (57, 2)
    with pytest.raises(ValueError, match="expected another unlabelled set"):
        left("same", exclude=f"1-based:{tmp_path}/list.txt")
