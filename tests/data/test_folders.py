"""`folder:PATH` and `npz:PATH`: layouts, sizes, damaged files."""

import logging

import numpy as np
import pytest
import torch
from PIL import Image

from swwae_zoo.data import NoSuchSplit, SplitRequest, load_images, make_splits


def draw(path, colour, size=(6, 5)):
    """A picture of one colour, `size` as width, height."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path)


def reds(image_set):
    return image_set.images[:, 0, 0, 0].tolist()


def spec(path):
    return f"folder:{path}"


@pytest.fixture
def flat(tmp_path):
    """PATH/CLASS/IMAGE: cats 10, 11, dog 20."""
    root = tmp_path / "flat"
    for name, red in (("cat/a.png", 10), ("cat/deep/b.PNG", 11), ("dog/c.bmp", 20)):
        draw(root / name, (red, 2, 3))
    (root / "cat" / "notes.txt").write_text("not an image")
    (root / "cat" / "._a.png").write_bytes(b"what a Mac leaves behind")
    return root


@pytest.fixture
def nested(tmp_path):
    """PATH/train/CLASS/IMAGE and PATH/test, and something without a class beside them."""
    root = tmp_path / "nested"
    for name, red in (("train/cat/a.png", 10), ("train/dog/b.png", 20), ("test/dog/c.png", 30), ("more/d.png", 40)):
        draw(root / name, (red, 2, 3))
    return root


def test_class_folders(flat):
    train = load_images(spec(flat), "train")
    assert train.images.shape == (3, 3, 5, 6) and train.images.dtype == torch.uint8
    assert train.images[0, :, 0, 0].tolist() == [10, 2, 3] and reds(train) == [10, 11, 20]
    assert train.labels.tolist() == [0, 0, 1] and train.class_names == ("cat", "dog")
    with pytest.raises(NoSuchSplit, match="has no test images"):
        load_images(spec(flat), "test")
    assert make_splits(SplitRequest(data=spec(flat), num_labels=2)).test is None


def test_train_and_test_folders(nested):
    train, test = load_images(spec(nested), "train"), load_images(spec(nested), "test")
    assert reds(train) == [10, 20] and train.labels.tolist() == [0, 1]
    assert reds(test) == [30] and test.labels.tolist() == [1] and test.class_names == train.class_names


@pytest.mark.parametrize("nest", [True, False])
def test_val_folder_is_the_test_set_where_there_is_no_other(flat, nested, nest):
    root = nested if nest else flat
    if nest:
        (root / "test").rename(root / "val")
    else:
        draw(root / "val" / "dog" / "c.png", (30, 2, 3))
    assert reds(load_images(spec(root), "test")) == [30]
    assert load_images(spec(root), "train").class_names == ("cat", "dog")
    assert 30 not in reds(load_images(spec(root), "unlabeled"))


def test_a_class_may_be_called_test(flat):
    draw(flat / "test" / "x.png", (30, 0, 0))
    assert load_images(spec(flat), "train").class_names == ("cat", "dog", "test")


def test_test_class_that_was_never_trained(nested):
    draw(nested / "test" / "eel" / "e.png", (50, 0, 0))
    with pytest.raises(ValueError, match="eel is no training class; expected cat, dog"):
        load_images(spec(nested), "test")


def test_unlabelled_images_at_any_depth_but_the_test_images(flat, nested):
    draw(flat / "loose.png", (60, 0, 0))
    assert reds(load_images(spec(flat), "unlabeled")) == [10, 11, 20, 60]
    assert sorted(reds(load_images(spec(nested), "unlabeled"))) == [10, 20, 40]
    assert load_images(spec(flat), "unlabeled").labels is None


def test_sizes(flat, tmp_path):
    draw(flat / "dog" / "wide.png", (99, 0, 0), size=(40, 10))
    with pytest.raises(ValueError, match=r"wide.png is 10x40 and .*a.png 5x6 \(height x width\).* pass img_size"):
        load_images(spec(flat), "train")
    assert load_images(spec(flat), "train", img_size=8).images.shape == (4, 3, 8, 8)
    assert load_images(spec(flat), "train", img_size=(4, 8)).images.shape == (4, 3, 4, 8)


def test_scaled_to_cover_and_cropped_to_the_centre(tmp_path):
    """A 40x20 picture, black but for its white middle half: white at 8x8, but for the antialiased rim."""
    array = np.zeros((20, 40, 3), np.uint8)
    array[:, 10:30] = 255
    (tmp_path / "c").mkdir()
    Image.fromarray(array).save(tmp_path / "c" / "a.png")
    images = load_images(spec(tmp_path), "train", img_size=8).images
    assert images[..., 1:-1].eq(255).all() and images[..., [0, -1]].gt(200).all()


def test_grey_and_odd_modes(tmp_path):
    (tmp_path / "c").mkdir()
    Image.new("L", (4, 4), 100).save(tmp_path / "c" / "0.png")
    Image.fromarray(np.full((4, 4), 100 * 256, np.uint16)).save(tmp_path / "c" / "1.png")
    Image.new("RGBA", (4, 4), (100, 100, 100, 255)).save(tmp_path / "c" / "2.png")
    palette = Image.new("RGB", (4, 4), (100, 100, 100)).quantize(4)
    palette.save(tmp_path / "c" / "3.png", transparency=b"\xff\x00")
    for in_chans in (None, 1):
        images = load_images(spec(tmp_path), "train", in_chans=in_chans).images
        assert images.shape == (4, in_chans or 3, 4, 4) and images.eq(100).all()


def test_turned_as_the_camera_was_held(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    (tmp_path / "c").mkdir()
    Image.new("RGB", (6, 4)).save(tmp_path / "c" / "a.jpg", exif=exif)
    assert load_images(spec(tmp_path), "train").images.shape == (1, 3, 6, 4)


@pytest.fixture
def damaged(flat):
    """`flat` with a cut picture, an empty one and one that is none."""
    noise = np.random.default_rng(0).integers(0, 256, (5, 6, 3), dtype=np.uint8)
    for name in ("cut.png", "cut.jpg"):
        Image.fromarray(noise).save(flat / "dog" / name)
        whole = (flat / "dog" / name).read_bytes()
        (flat / "dog" / name).write_bytes(whole[: len(whole) * 3 // 4])
    (flat / "cat" / "empty.png").write_bytes(b"")
    (flat / "cat" / "words.jpg").write_text("a picture of a cat")
    return flat


@pytest.mark.parametrize("split", ["train", "unlabeled"])
def test_damaged_images_are_refused(damaged, split):
    with pytest.raises(ValueError) as caught:
        load_images(spec(damaged), split)
    message = str(caught.value)
    assert message.startswith(f"4 of 7 images for folder:{damaged} cannot be read: {damaged}/cat/empty.png (")
    assert "words.jpg (it is no image, or none that Pillow reads)" in message and "\n" not in message
    assert message.count(str(damaged)) == 4 and "; ...: repair or delete them" in message  # three of the four named
    assert message.endswith("--bad-images skip")


def test_damaged_images_are_skipped_and_told_once(damaged, caplog):
    with caplog.at_level(logging.WARNING):
        train = load_images(spec(damaged), "train", bad_images="skip")
    assert reds(train) == [10, 11, 20] and train.labels.tolist() == [0, 0, 1]
    assert [record.getMessage()[:14] for record in caplog.records] == ["4 of 7 images "]


def test_a_class_of_damaged_images_only(damaged):
    (damaged / "dog" / "c.bmp").unlink()
    with pytest.raises(ValueError, match="class folder .*/dog holds no readable image"):
        load_images(spec(damaged), "train", bad_images="skip")


def test_folders_that_hold_nothing(tmp_path, flat):
    with pytest.raises(ValueError, match="'/nowhere/at/all' is not a folder; expected folder:PATH"):
        load_images("folder:/nowhere/at/all", "train")
    with pytest.raises(ValueError, match="'' is not a folder"):
        load_images("folder:", "train")
    (tmp_path / "empty" / "c").mkdir(parents=True)
    with pytest.raises(ValueError, match=r"no images for folder:.* \(unlabeled\); expected .png, .jpg"):
        load_images(spec(tmp_path / "empty"), "unlabeled")
    with pytest.raises(ValueError, match="no class folders in .* --unlabeled folder:"):
        load_images(spec(flat / "dog"), "train")
    with pytest.raises(ValueError, match="got bad_images 'ask', expected one of refuse, skip"):
        load_images(spec(flat), "train", bad_images="ask")


def test_hidden_folders_are_passed_over_and_nothing_readable_is_no_data(flat, tmp_path):
    draw(flat / "cat" / ".thumbnails" / "small.png", (99, 2, 3))
    assert reds(load_images(spec(flat), "unlabeled")) == [10, 11, 20]
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "a.png").write_bytes(b"half")
    with pytest.raises(ValueError, match="1 of 1 images for folder:.* cannot be read"):
        load_images(spec(tmp_path / "broken"), "unlabeled", bad_images="skip")


def test_home_is_expanded(flat, monkeypatch):
    monkeypatch.setenv("HOME", str(flat.parent))
    assert reds(load_images("folder:~/flat", "train")) == [10, 11, 20]


# npz


def save(path, **arrays):
    np.savez(path, **arrays)
    return f"npz:{path}"


def numbered(*shape):
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


@pytest.mark.parametrize(
    "shape, axes",
    [
        ((4, 5, 6), None),
        ((4, 5, 6, 3), (0, 3, 1, 2)),
        ((4, 5, 6, 1), (0, 3, 1, 2)),
        ((4, 3, 5, 6), (0, 1, 2, 3)),
        ((4, 1, 5, 6), (0, 1, 2, 3)),
    ],
)
def test_npz_layouts(tmp_path, shape, axes):
    array = numbered(*shape)
    read = load_images(save(tmp_path / "a.npz", images=array, labels=np.array([[2], [0], [1], [2]])), "train")
    assert np.array_equal(read.images, array[:, None] if axes is None else array.transpose(axes))
    assert read.labels.tolist() == [2, 0, 1, 2] and read.class_names == ("0", "1", "2")


def test_npz_parts(tmp_path):
    x, y = numbered(6, 5, 5), np.array([0, 1, 0, 1, 0, 2])
    parted = save(tmp_path / "a.npz", x_train=x[:4], y_train=y[:4], x_test=x[4:], y_test=y[4:])
    train, test = load_images(parted, "train"), load_images(parted, "test")
    assert np.array_equal(train.images[:, 0], x[:4]) and np.array_equal(test.images[:, 0], x[4:])
    assert test.labels.tolist() == [0, 2] and train.class_names == test.class_names == ("0", "1", "2")
    bare = save(tmp_path / "b.npz", images=x)
    assert load_images(bare, "unlabeled").labels is None and load_images(bare, "train").labels is None
    with pytest.raises(NoSuchSplit, match="has no array x_test"):
        load_images(bare, "test")
    with pytest.raises(ValueError, match="has no array x_train or images"):
        load_images(save(tmp_path / "c.npz", pictures=x), "unlabeled")


@pytest.mark.parametrize(
    "arrays, message",
    [
        ({"images": np.zeros((4, 5, 5))}, "images is float64; expected uint8, 0 to 255"),
        ({"images": numbered(4, 5, 5, 2)}, r"images has shape \(4, 5, 5, 2\); expected \(N, H, W\)"),
        ({"images": numbered(4, 5)}, r"images has shape \(4, 5\)"),
        ({"images": numbered(0, 5, 5)}, "at least one image"),
        (
            {"images": numbered(4, 5, 5), "labels": np.arange(3)},
            "images has 4 images and 3 labels; expected one for each",
        ),
        ({"images": numbered(4, 5, 5), "labels": np.array([0.0, 1, 2, 3])}, "labels is float64"),
        ({"images": numbered(4, 5, 5), "labels": np.array([0, 1, -1, 2])}, "expected whole numbers from 0"),
        ({"images": np.array([None, 1], dtype=object)}, "cannot be read as a NumPy archive .*allow_pickle"),
    ],
)
def test_npz_arrays_that_do_not_fit(tmp_path, arrays, message):
    with pytest.raises(ValueError, match=message):
        load_images(save(tmp_path / "a.npz", **arrays), "train")


@pytest.mark.parametrize("compress", [True, False])
@pytest.mark.parametrize("keep", [0.0, 0.01, 0.5, 0.999])
def test_truncated_npz(tmp_path, compress, keep):
    path = tmp_path / "a.npz"
    (np.savez_compressed if compress else np.savez)(path, images=numbered(40, 9, 9))
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * keep)])
    with pytest.raises(ValueError, match=f"{path} cannot be read as a NumPy archive"):
        load_images(f"npz:{path}", "unlabeled")


def test_npz_with_damaged_bytes(tmp_path):
    path = tmp_path / "a.npz"
    np.savez_compressed(path, images=numbered(40, 9, 9))
    data = bytearray(path.read_bytes())
    data[1000:1010] = bytes(10)
    path.write_bytes(data)
    with pytest.raises(ValueError, match="cannot be read as a NumPy archive"):
        load_images(f"npz:{path}", "unlabeled")


def test_files_that_are_not_npz(tmp_path):
    np.save(tmp_path / "a.npy", numbered(4, 5, 5))
    (tmp_path / "b.npz").write_text("hello")
    for name in ("a.npy", "b.npz"):
        with pytest.raises(ValueError, match="cannot be read as a NumPy archive"):
            load_images(f"npz:{tmp_path / name}", "train")
    with pytest.raises(ValueError, match="is not a file; expected npz:PATH"):
        load_images(f"npz:{tmp_path / 'none.npz'}", "train")
