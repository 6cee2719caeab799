"""Numbers, types and sizes from outside: checked before they are cast and before memory is taken."""

import io
import json
import zipfile

import numpy as np
import pytest

from swwae_zoo.data import load_images
from swwae_zoo.data.bounds import checked_labels, checked_pixels
from swwae_zoo.data.exclude import read_exclusions

PIXELS = np.arange(16, dtype=np.uint8).reshape(1, 4, 4).repeat(3, 0)


def npz(path, **arrays):
    np.savez(path, **arrays)
    return f"npz:{path}"


def parquet(path, **columns):
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    table = columns.pop("table", None)
    pq.write_table(pa.table(columns) if table is None else table, path)
    return f"parquet:{path}"


def refused(spec, split="train", **options):
    with pytest.raises(ValueError) as caught:
        load_images(spec, split, **options)
    assert str(caught.value).isprintable() and len(str(caught.value)) < 1200
    return str(caught.value)


# ---- casts


@pytest.mark.parametrize("pixels, message", [
    ([[0.0, 0.5]], "fractions from 0.0 to 0.5"), ([[0.0, 1.0]], "floats from 0.0 to 1, .* multiply them by 255"),
    ([[float("nan"), 1.0]], "values from nan"), ([[0, 256]], "values from 0 to 256"), ([[-1, 0]], "values from -1"),
    ([[0, 2**70]], "got object"), ([["a"]], "got <U1"), ([[1], [1, 2]], "rows of unequal length"), ([], "shape"),
    ([[None]], "got object"), ([[True]], "got bool"), ([[1j]], "got complex"),
])  # fmt: skip
def test_pixels(pixels, message):
    with pytest.raises(ValueError, match=message):
        checked_pixels("image 3", pixels)


def test_pixels_of_any_type_that_are_whole_and_in_range():
    for kind in ("u1", "i4", "u8", "f4", "f8", "f2"):
        assert np.array_equal(checked_pixels("x", PIXELS.astype(kind)), PIXELS)


@pytest.mark.parametrize("labels, message", [
    (np.array([2**63 + 1], np.uint64), "holds 9223372036854775809; expected whole numbers from 0, at most 999,999"),
    (np.array([50_000_000]), "holds 50000000"), (np.array([-1]), "holds -1"), (np.array([0.5]), "is float64"),
    (np.array([np.nan]), "is float64"), (np.array(["a"]), "is <U1"), (np.zeros((2, 2), int), r"shape \(2, 2\)"),
    (np.array([True]), "is bool"), (np.array([], int), r"shape \(0,\)"),
])  # fmt: skip
def test_labels(labels, message):
    with pytest.raises(ValueError, match=message):
        checked_labels("set: y", labels)


def test_npz_casts(tmp_path):
    for labels in (np.array([0, 1, 2**63 + 1], np.uint64), np.array([0, 1, 50_000_000])):
        assert "set.npz: labels holds" in refused(npz(tmp_path / "set.npz", images=PIXELS, labels=labels))
    for images in (PIXELS / 255, PIXELS.astype(np.float32) * np.nan, PIXELS.astype(bool), PIXELS.astype(np.int16)):
        assert "expected uint8" in refused(npz(tmp_path / "set.npz", images=images), "unlabeled")


def test_parquet_casts(tmp_path):
    path = tmp_path / "a.parquet"
    for image, message in (
        (PIXELS[0] / 15, "fractions"), (np.eye(4), "multiply them by 255"),
        (np.full((4, 4), np.nan), "values from nan"), (PIXELS[0].astype(int) + 250, "values from 250"),
    ):  # fmt: skip
        said = refused(parquet(path, image=[image.tolist()], label=[0]))
        assert said.startswith(f"{path}: image 0: ") and message in said
    good = PIXELS[0].tolist()
    large = pytest.importorskip("pyarrow").array([2**63 + 1], "uint64")
    for labels, message in ((large, "9223372036854775809"), ([-1], "-1"), ([50_000_000], "50000000")):
        assert f"holds {message}" in refused(parquet(path, image=[good], label=labels))
    assert load_images(parquet(path, image=[PIXELS[0].astype(float).tolist()], label=[0]), "train").images.max() == 15


# ---- kinds of Parquet


def test_parquet_types(tmp_path):
    pa = pytest.importorskip("pyarrow")
    path, good = tmp_path / "a.parquet", [PIXELS[0].tolist()]
    for columns, message in (
        ({"image": ["text"]}, "column 'image' is string"), ({"image": [["a", "b"]]}, "is list<element: string>"),
        ({"image": [{"path": "x"}]}, "is struct<path: string>"), ({"image": [3]}, "is int64"),
        ({"image": [True]}, "is bool"), ({"image": [[["a"]]]}, "expected encoded images as bytes, or lists of pixels"),
        ({"image": good, "label": ["cat"]}, "column 'label' is string; expected whole numbers"),
        ({"image": good, "label": [0.5]}, "column 'label' is double"), ({"image": good, "label": [[0]]}, "is list<"),
        ({"image": good, "label": pa.array([None], pa.int64())}, "labels are missing"),
        ({"image": [[1, 2]], "label": [0]}, r"has shape \(2,\)"), ({"text": ["a"]}, "no image column"),
        ({"image": [[[1, 2], [3]]]}, "rows of unequal length"), ({"image": [[[1, None]]]}, "got object"),
        ({"image": pa.array([None], pa.binary())}, "there is no image in the file"),
        ({"image": [{"bytes": None, "path": "x.png"}]}, "column 'image' is struct<bytes: null"),
    ):  # fmt: skip
        said = refused(parquet(path, **columns))
        assert str(path) in said and __import__("re").search(message, said), (message, said)
    twice = pa.Table.from_arrays([pa.array(good)] * 2, names=["image", "image"])
    assert "holds the column 'image' 2 times" in refused(parquet(path, table=twice))
    assert "holds no images" in refused(parquet(path, image=pa.array([], pa.binary())))


def test_parquet_class_names(tmp_path):
    pa = pytest.importorskip("pyarrow")
    features = {"info": {"features": {"label": {"names": ["cat", "dog"], "_type": "ClassLabel"}}}}
    table = pa.table({"image": PIXELS[:2].tolist(), "label": [1, 0]})
    for metadata, names in (
        (json.dumps(features), ("cat", "dog")), ("no json", ("0", "1")), ("[" * 100_000, ("0", "1")),
        (json.dumps({"info": {"features": {"label": {"names": [1, 2]}}}}), ("0", "1")),
        (json.dumps({"info": {"features": {"label": {"names": ["one"]}}}}), ("0", "1")),
    ):  # fmt: skip
        spec = parquet(tmp_path / "a.parquet", table=table.replace_schema_metadata({"huggingface": metadata}))
        assert load_images(spec, "train").class_names == names


# ---- sizes


def header(shape, dtype="|u1"):
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": dtype, "fortran_order": False, "shape": shape})
    return file.getvalue()


@pytest.mark.parametrize("limit", [float("inf"), 0])
@pytest.mark.parametrize("shape, dtype", [
    ((100_000, 9_000, 9_000), "|u1"), ((2**62, 2**62, 4), "|u1"), ((3, 4, 5), "|u1"), ((-1, 4, 4), "|u1"),
    ((3, 4, 4), "|O"), ((1 << 40,), "<i8"),
])  # fmt: skip
def test_npz_headers_that_claim_what_is_not_there(tmp_path, shape, dtype, limit):
    for key in ("images", "labels"):
        arrays = {"images": header((3, 4, 4)) + PIXELS.tobytes(), "labels": header((3,)) + bytes(3)}
        arrays[key] = header(shape, dtype) + PIXELS.tobytes()
        with zipfile.ZipFile(tmp_path / "set.npz", "w") as archive:
            for name, data in arrays.items():
                archive.writestr(f"{name}.npy", data)
        said = refused(f"npz:{tmp_path}/set.npz", limit=limit, data_dir=tmp_path / "data")
        assert "set.npz cannot be read as a NumPy archive" in said


def test_a_zip_bomb_is_never_in_memory(tmp_path, monkeypatch):
    """64 MiB of zeros in 64 KiB, on a machine that has less."""
    np.savez_compressed(tmp_path / "set.npz", images=np.zeros((64, 1024, 1024), np.uint8))
    assert (tmp_path / "set.npz").stat().st_size < 1 << 17
    monkeypatch.setattr("swwae_zoo.data.bounds.physical_memory", lambda: 2.0**25)
    said = refused(f"npz:{tmp_path}/set.npz", "unlabeled")
    assert "set.npz: images takes 0.1 GiB and this machine has 0.0 GiB of memory" in said


def test_one_number_takes_no_memory(tmp_path, child):
    """A label of 50,000,000 took 3 GB, and a small file of 16 bits thirty times what its pixels take."""
    from PIL import Image

    npz(tmp_path / "set.npz", images=PIXELS, labels=np.array([0, 1, 50_000_000]))
    (tmp_path / "c").mkdir()
    Image.new("I;16", (4000, 4000), 40_000).save(tmp_path / "c" / "a.png")
    code = f"""
import resource, sys
from swwae_zoo.data import load_images
from swwae_zoo.data.readers import pictures
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    load_images("npz:{tmp_path}/set.npz", "train")
except ValueError as error:
    assert "50000000" in str(error)
else:
    sys.exit("not refused")
assert load_images("folder:{tmp_path}", "unlabeled", img_size=32, in_chans=1).images.min() == 156
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)
"""
    process = child(code)
    process.join(300)
    assert process.exitcode == 0, (tmp_path / "stderr").read_text()
    taken = float((tmp_path / "stdout").read_text())
    assert 20 < taken < 200, taken  # MiB; the decoded image alone has 31


def test_numbers_in_lists_of_exclusions(tmp_path):
    path = tmp_path / "list.txt"
    for entry, message in (
        ("9" * 30, "expected a whole number"),
        ("9" * 18, "got 9+, expected 0 to 9"),
        ("-1", "got -1"),
    ):
        path.write_text(f"1\n{entry}\n")
        with pytest.raises(ValueError, match=f"line 2: .*{message}"):
            read_exclusions(f"0-based:{path}", 10)
    np.save(tmp_path / "list.npy", np.array([1, 2**63 + 1], np.uint64))
    with pytest.raises(ValueError, match="entry 1: got 9223372036854775809"):
        read_exclusions(f"0-based:{tmp_path}/list.npy", 10)
    (tmp_path / "list.npy").write_bytes(header((1 << 40,), "<i8") + bytes(80))
    with pytest.raises(ValueError, match="list.npy is no NumPy array"):
        read_exclusions(f"0-based:{tmp_path}/list.npy", 10)


# ---- named sets


def test_images_and_labels_of_different_numbers(tmp_path):
    """MNIST's two files each hold a count of their own."""
    from published_formats import labels_of, pixels, write_mnist

    write_mnist(tmp_path / "MNIST" / "raw", (pixels(20, 28, 28), labels_of(20)), (pixels(9, 28, 28), labels_of(10)))
    assert load_images("mnist", "train", data_dir=tmp_path).count == 20
    assert "mnist has 9 images and 10 labels" in refused("mnist", "test", data_dir=tmp_path)


# ---- at random


def test_damaged_archives(tmp_path):
    """600 archives and Parquet files, bytes changed and cut: images of the right shape, or one line with the name."""
    np.savez_compressed(tmp_path / "b.npz", images=PIXELS, labels=np.arange(3))
    npz(tmp_path / "a.npz", images=PIXELS, labels=np.arange(3))
    parquet(tmp_path / "a.parquet", image=PIXELS.tolist(), label=[0, 1, 2])
    rng, told = np.random.default_rng(0), 0
    for turn in range(600):
        name = ("a.npz", "b.npz", "a.parquet")[turn % 3]
        data = bytearray((tmp_path / name).read_bytes())
        for place in rng.integers(0, len(data), rng.integers(1, 4)):
            data[place] = rng.integers(256)
        path = tmp_path / f"damaged{name[1:]}"
        path.write_bytes(data if rng.integers(3) else data[: rng.integers(len(data))])
        limit = (float("inf"), 0)[rng.integers(2)]
        try:
            images = load_images(f"{name[2:]}:{path}", "train", limit=limit, data_dir=tmp_path / "data")
        except ValueError as error:
            told += 1
            assert str(error).isprintable() and "damaged" in str(error) and len(str(error)) < 1200
        else:
            assert images.shape[1:] == (4, 4) and images.labels is None or len(images.labels) == images.count
    assert 300 < told < 600
