"""`labels.csv` beside the images, in place of class folders."""

import pytest
from PIL import Image

from swwae_zoo.data import NoSuchSplit, SplitRequest, load_images, make_splits


@pytest.fixture
def flat(tmp_path):
    for i in range(6):
        Image.new("RGB", (4, 4), (10 * i, 2, 3)).save(tmp_path / f"{i}.png")
    (tmp_path / "labels.csv").write_text(
        "file,label,split\n3.png,cat,\n0.png,dog,train\n1.png,cat,training\n4.png,dog,Test\n5.png,cat,val\n"
    )
    return tmp_path


def load(root, split="train", **options):
    return load_images(f"folder:{root}", split, **options)


def reds(images):
    return (images.images[:, 0, 0, 0] // 10).tolist()


def test_labels_and_splits(flat):
    train = load(flat)
    assert reds(train) == [0, 1, 3] and train.labels.tolist() == [1, 0, 0] and train.class_names == ("cat", "dog")
    assert reds(load(flat, "test")) == [4] and reds(load(flat, "val")) == [5]
    assert reds(load(flat, "unlabeled")) == [0, 1, 2, 3]  # 2 is in no line; held-out images are not among them
    splits = make_splits(SplitRequest(data=f"folder:{flat}"))
    assert reds(splits.val) == [5] and reds(splits.test) == [4]


def test_a_table_in_each_split(tmp_path):
    for split, names in (("train", "01"), ("test", "23")):
        (tmp_path / split).mkdir()
        for name in names:
            Image.new("RGB", (4, 4), (10 * int(name), 2, 3)).save(tmp_path / split / f"{name}.png")
        lines = "".join(f"{name}.png,{9 + int(name) % 2}\n" for name in names)
        (tmp_path / split / "labels.csv").write_text("\ufeffFile,Label\n" + lines, encoding="utf-8")
    train, test = load(tmp_path), load(tmp_path, "test")
    assert reds(train) == [0, 1] and reds(test) == [2, 3] and train.class_names == ("9", "10")  # as numbers
    assert train.labels.tolist() == test.labels.tolist() == [0, 1]
    with pytest.raises(NoSuchSplit):
        load(tmp_path, "val")


@pytest.mark.parametrize("text, message", [
    ("", "first line names nothing; expected file,label"), ("name,label\n", "first line names name, label"),
    ("file,label\n0.png\n", "line 2: no label"), ("file,label\n,cat\n", "line 2: no file"),
    ("file,label\n0.png,a\n./0.png,b\n", "line 3: ./0.png is there twice"),
    ("file,label\n../x.png,a\n", "line 2: '../x.png' is not inside"), ("file,label\n/x.png,a\n", "is not inside"),
    ("file,label,split\n0.png,a,half\n", "line 2: got the split 'half', expected train, val or test"),
    ("file,label\n0.png," + "x" * 200_000 + "\n", "field larger than field limit"),
    ("file,label\nnone.png,a\n", r"none.png \(No such file or directory\)"), ("file,label\nsub,a\n", "no regular file"),
    ("file,label\n", "no images for folder:"),
])  # fmt: skip
def test_what_is_wrong_with_a_table(flat, text, message):
    if "sub" in text:
        (flat / "sub").mkdir()
    (flat / "labels.csv").write_text(text)
    with pytest.raises(ValueError, match=message) as caught:
        load(flat)
    assert str(caught.value).isprintable() and len(str(caught.value)) < 1500


def test_a_table_about_something_else_beside_class_folders(flat):
    for name in ("a", "b"):
        (flat / name).mkdir()
        (flat / f"{'ab'.index(name)}.png").rename(flat / name / "1.png")
    (flat / "labels.csv").write_text("person,age\nx,3\n")
    assert load(flat).class_names == ("a", "b")


def test_a_table_that_is_no_text(flat):
    (flat / "labels.csv").write_bytes(b"file,label\n\xff\xfe,\x1b[2J\n")
    with pytest.raises(ValueError, match="labels.csv: .*utf-8"):
        load(flat)
