"""A tree on disk is not a tree: links, special files, our own runs, split names in any case, hostile names."""

import logging
import os
import socket

import numpy as np
import pytest
from PIL import Image

from swwae_zoo.data import NoSuchSplit, SplitRequest, load_images, make_splits
from swwae_zoo.data.split_names import split_of_file, split_of_folder
from swwae_zoo.utils.text import printable


def draw(path, red):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (4, 4), (red, 2, 3)).save(path, "PNG")


def reds(images):
    return images.images[:, 0, 0, 0].tolist()


def load(root, split="train", **options):
    return load_images(f"folder:{root}", split, **options)


@pytest.fixture
def tree(tmp_path):
    """train/a 10, train/b 20, test/a 30."""
    root = tmp_path / "set"
    for name, red in (("train/a/1.png", 10), ("train/b/2.png", 20), ("test/a/3.png", 30)):
        draw(root / name, red)
    return root


# ---- links and special files


def test_a_link_upwards_adds_nothing(tree, tmp_path):
    draw(tmp_path / "beside" / "9.png", 90)
    (tree / "train" / "a" / "up").symlink_to("..")
    (tree / "train" / "b" / "further").symlink_to("../../..")
    (tree / "train" / "b" / "self").symlink_to(".")
    for split in ("train", "unlabeled"):
        assert sorted(reds(load(tree, split))) == [10, 20]
    assert load(tree).labels.tolist() == [0, 1]


def test_a_link_into_another_class_or_the_test_images_adds_nothing(tree, caplog):
    draw(tree / "train" / "b" / "deep" / "4.png", 40)
    (tree / "train" / "a" / "other").symlink_to("../b")
    (tree / "train" / "a" / "deep").symlink_to("../b/deep")
    (tree / "train" / "a" / "held").symlink_to("../../test/a")
    (tree / "train" / "a" / "one.png").symlink_to("../../test/a/3.png")
    (tree / "more").symlink_to("test")
    with caplog.at_level(logging.WARNING):
        train = load(tree)
    assert reds(train) == [10, 20, 40] and train.labels.tolist() == [0, 1, 1]
    assert "2 links lead to held-out images, and were not followed" in caplog.text
    assert sorted(reds(load(tree, "unlabeled"))) == [10, 20, 40]


def test_a_link_out_of_the_folder_is_followed_once_and_told(tree, tmp_path, caplog):
    draw(tmp_path / "pool" / "5.png", 50)
    draw(tmp_path / "pool" / "deep" / "6.png", 60)
    (tmp_path / "pool" / "round").symlink_to("../pool")
    (tree / "train" / "a" / "pool").symlink_to(tmp_path / "pool")
    (tree / "train" / "b" / "pool").symlink_to(tmp_path / "pool")
    (tree / "train" / "b" / "7.png").symlink_to(tmp_path / "pool" / "5.png")
    with caplog.at_level(logging.WARNING):
        train = load(tree)
    assert sorted(zip(reds(train), train.labels.tolist(), strict=True)) == [(10, 0), (20, 1), (50, 0), (50, 1), (60, 0)]
    assert "2 links lead out of the folder, and were followed: " in caplog.text


def test_a_class_may_be_a_link(tree, tmp_path):
    draw(tmp_path / "cats" / "8.png", 80)
    (tree / "train" / "c").symlink_to(tmp_path / "cats")
    assert load(tree).class_names == ("a", "b", "c") and reds(load(tree)) == [10, 20, 80]


def test_special_files_are_left_out_and_told(tree, caplog):
    os.mkfifo(tree / "train" / "a" / "x.png")
    with socket.socket(socket.AF_UNIX) as listening:
        here = os.getcwd()
        os.chdir(tree / "train" / "a")  # the path of a socket may have 107 characters
        try:
            listening.bind("y.png")
        finally:
            os.chdir(here)
        (tree / "train" / "b" / "null.png").symlink_to("/dev/null")
        with caplog.at_level(logging.WARNING):
            assert reds(load(tree)) == [10, 20]
    assert "3 left out, for they are no regular files" in caplog.text


@pytest.mark.parametrize("limit", [float("inf"), 0])
def test_links_that_lead_nowhere_are_bad_images(tree, tmp_path, limit):
    (tree / "train" / "a" / "gone.png").symlink_to("nowhere")
    (tree / "train" / "a" / "loop.png").symlink_to("loop.png")
    options = {"limit": limit, "data_dir": tmp_path / "data"}
    with pytest.raises(
        ValueError, match=r"2 of 4 images .*gone.png \(No such file or directory\).*loop.png \(Too many"
    ):
        load(tree, **options)
    for _ in range(2):
        images = load(tree, bad_images="skip", **options)
        assert reds(images) == [10, 20] and images.labels.tolist() == [0, 1]


def test_a_folder_that_may_not_be_opened(tree, monkeypatch):
    real = os.scandir

    def scandir(path):
        if str(path).endswith("/b"):
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(ValueError, match=r"train/b cannot be opened \(Permission denied\)"):
        load(tree)


# ---- splits


def test_words_of_splits():
    from pathlib import Path

    for name in ("train-0.parquet", "default/train/0.parquet", "Training/a", "TRAIN_1.parquet", "x/train2017/1"):
        assert split_of_file(Path(name)) == "train", name
    for name in ("val-0.parquet", "c/validation/0.parquet", "valid.parquet", "VAL2017/1.parquet"):
        assert split_of_file(Path(name)) == "val", name
    for name in ("CONFIG/test/0000.parquet", "Testing/0.parquet", "eval.parquet", "test/train-0.parquet"):
        assert split_of_file(Path(name)) == "test", name
    for name in ("latest-0.parquet", "contest.parquet", "strain/1.parquet", "evaluate.parquet", "retrain.parquet"):
        assert split_of_file(Path(name)) is None, name
    assert [split_of_folder(name) for name in ("Test", "val2017", "testing_", "test pattern", "evil", "trains")] == [
        "test", "val", "test", None, None, None,
    ]  # fmt: skip


@pytest.mark.parametrize(
    "train, test", [("Train", "Test"), ("training", "testing"), ("TRAIN", "eval"), ("train", "valid")]
)
def test_splits_in_any_case(tmp_path, train, test):
    for name, red in ((f"{train}/a/1.png", 10), (f"{train}/b/2.png", 20), (f"{test}/a/3.png", 30)):
        draw(tmp_path / name, red)
    assert reds(load(tmp_path)) == [10, 20] and load(tmp_path).class_names == ("a", "b")
    assert reds(load(tmp_path, "test")) == [30] and sorted(reds(load(tmp_path, "unlabeled"))) == [10, 20]


def test_a_folders_own_validation_images(tree):
    draw(tree / "val" / "b" / "9.png", 90)
    assert reds(load(tree, "val")) == [90] and load(tree, "val").labels.tolist() == [1]
    splits = make_splits(SplitRequest(data=f"folder:{tree}", num_val=2))
    assert reds(splits.val) == [90] and reds(splits.labeled) == reds(splits.unlabeled) == [10, 20]
    assert reds(splits.test) == [30] and any("its own 1 validation images" in note for note in splits.notes)
    assert any(
        "held out: " in note
        for note in make_splits(SplitRequest(data="digits", unlabeled=f"folder:{tree}", img_size=32)).notes
    )


def test_no_validation_images_of_its_own(tree):
    for spec in (f"folder:{tree}", "digits"):
        with pytest.raises(NoSuchSplit, match="no validation images"):
            load_images(spec, "val")


def test_splits_without_classes_are_held_out_of_the_unlabelled_images(tmp_path):
    for name, red in (("train/1.png", 10), ("test/2.png", 20), ("part/train/3.png", 30), ("part/valid/4.png", 40)):
        draw(tmp_path / name, red)
    assert sorted(reds(load(tmp_path, "unlabeled"))) == [10, 30]


def test_classes_that_hold_the_same_folders_are_refused(tmp_path):
    for split in ("lernen", "pruefen"):
        for name in ("cat", "dog"):
            draw(tmp_path / split / name / "1.png", 10)
    with pytest.raises(ValueError, match=r"lernen and .*pruefen hold folders of the same names \(cat, dog\)"):
        load(tmp_path)
    for name in ("a", "b"):  # as in Tiny ImageNet
        draw(tmp_path / "tiny" / name / "images" / "1.png", 10)
    assert load(tmp_path / "tiny").class_names == ("a", "b")


def test_two_folders_of_one_split(tree):
    draw(tree / "Testing" / "a" / "4.png", 40)
    with pytest.raises(ValueError, match="both test images by their names"):
        load(tree)


def test_our_own_runs_are_no_class(tmp_path, monkeypatch):
    for name, red in (("a/1.png", 10), ("b/2.png", 20), ("runs/x/seed0/curves.png", 30), ("runs/y/curves.png", 40)):
        draw(tmp_path / name, red)
    for run in ("runs/x/seed0", "runs/x", "runs/y"):
        for file in ("config.toml", "run.json"):
            (tmp_path / run / file).write_text("")
    monkeypatch.chdir(tmp_path)
    assert load(".").class_names == ("a", "b")
    assert reds(load(".", "unlabeled")) == [10, 20]


def test_what_is_left_out_is_counted(tree):
    for name in ("notes.txt", "more.txt", "film.mp4", "README"):
        (tree / "train" / "a" / name).write_text("")
    (note,) = [note for note in load(tree).notes if "other kinds" in note]
    assert "4 files of other kinds left out (2 .txt, 1 .mp4, 1 without a suffix)" in note


def write_parquet(path, reds):
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    path.parent.mkdir(parents=True, exist_ok=True)
    cells = [np.full((4, 4), red, np.uint8).tolist() for red in reds]
    pq.write_table(pa.table({"image": cells, "label": [i % 2 for i in range(len(reds))]}), path)


def test_parquet_splits(tmp_path):
    """As the Hub converts it, and as people call their files; nothing held out is trained on."""
    for name, red in (
        ("hub/default/train/0000.parquet", 10), ("hub/default/test/0000.parquet", 20),
        ("hub/default/validation/0000.parquet", 30),
        ("own/train-0.parquet", 10), ("own/val-0.parquet", 30), ("own/latest-0.parquet", 40),
        ("own/test-0.parquet", 20), ("own/unlabeled-0.parquet", 50),
    ):  # fmt: skip
        write_parquet(tmp_path / name, [red, red])

    def seen(name, split):
        return sorted(set(reds(load_images(f"parquet:{tmp_path / name}", split))))

    assert [seen("hub", split) for split in ("train", "val", "test", "unlabeled")] == [[10], [30], [20], [10]]
    assert [seen("own", split) for split in ("train", "val", "test", "unlabeled")] == [
        [10, 40],
        [30],
        [20],
        [10, 40, 50],
    ]
    (tmp_path / "own" / "test-0.parquet").unlink()
    assert seen("own", "test") == [30]
    os.mkfifo(tmp_path / "own" / "train-1.parquet")
    assert seen("own", "train") == [10, 40]


# ---- names


def test_names_that_are_not_utf8(tmp_path):
    root = tmp_path / "set"
    for name in (b"a", b"b\xff"):
        os.makedirs(os.path.join(os.fsencode(root), name))
        draw(tmp_path / "one.png", 10)
        os.link(tmp_path / "one.png", os.path.join(os.fsencode(root), name, b"x\xfe.png"))
    for limit in (float("inf"), 0):
        images = load(root, limit=limit, data_dir=tmp_path)
        assert images.count == 2 and images.class_names == ("a", r"b\udcff") and images.fingerprint()
    os.truncate(os.path.join(os.fsencode(root), b"a", b"x\xfe.png"), 20)
    with pytest.raises(ValueError, match=r"x\\udcfe.png"):
        load(root)


def test_escape_codes_never_reach_a_message(tmp_path):
    name = "a\x1b]0;title\x07\x1b[2J\nb\u202e.png"
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / name).write_bytes(b"no image")
    for spec in (f"folder:{tmp_path}", f"folder:{tmp_path}/{name}", f"npz:{name}", f"parquet:{name}", name):
        with pytest.raises(ValueError) as caught:
            load_images(spec, "train")
        assert str(caught.value).isprintable() and r"\x1b" in str(caught.value)
    assert str(caught.value).isprintable()


def test_messages_are_bounded(tmp_path):
    with pytest.raises(ValueError) as caught:
        load_images("folder:" + "x" * 100_000, "train")
    assert len(str(caught.value)) <= 3000
    assert printable("x" * 1000, 100) == "x" * 47 + " ... " + "x" * 47
    assert printable("a\x1b[2J\nb") == r"a\x1b[2J\nb"


def test_home_in_every_path(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    draw(tmp_path / "set" / "a" / "1.png", 10)
    np.savez(tmp_path / "set.npz", images=np.zeros((2, 4, 4), np.uint8))
    write_parquet(tmp_path / "set.parquet", [10])
    (tmp_path / "tiny.bin").write_bytes(bytes(3072))
    for spec in ("folder:~/set", "npz:~/set.npz", "parquet:~/set.parquet", "tinyimages:~/tiny.bin"):
        assert load_images(spec, "unlabeled").count >= 1
    with pytest.raises(ValueError, match="home"):
        load_images("folder:~nobody-of-this-name/x", "train")
