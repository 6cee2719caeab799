"""Labelled, unlabelled and validation images of a round: balanced, apart, and a function of the seed."""

import numpy as np
import pytest
import torch

from swwae_zoo.data import SplitRequest, load_images, make_splits

SIZES = (40, 30, 20)  # images of each class in `data`


@pytest.fixture
def data(tmp_path):
    """An npz whose every image is its own number, written in two pixels, in shuffled class order."""
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(3), SIZES))
    save(tmp_path / "set.npz", np.arange(90), labels)
    return f"npz:{tmp_path / 'set.npz'}"


def save(path, numbers, labels=None):
    images = np.zeros((len(numbers), 5, 5), np.uint8)
    images[:, 0, 0], images[:, 4, 4] = numbers % 256, numbers // 256
    np.savez(path, images=images, **({} if labels is None else {"labels": labels}))


def numbers(image_set):
    return (image_set.images[:, 0, 0, 0].long() + 256 * image_set.images[:, 0, 4, 4].long()).tolist()


def counts(image_set):
    return image_set.labels.bincount(minlength=3).tolist()


def test_balanced_and_apart(data):
    splits = make_splits(SplitRequest(data=data, num_labels=12, num_val=9, seed=0))
    assert counts(splits.labeled) == [4, 4, 4] and counts(splits.val) == [3, 3, 3]
    assert splits.num_classes == 3 and splits.test is None
    labeled, val, unlabeled = (set(numbers(part)) for part in (splits.labeled, splits.val, splits.unlabeled))
    assert not labeled & val and labeled <= unlabeled
    assert unlabeled == set(range(90)) - val and splits.unlabeled.labels is None
    truth = load_images(data, "train")
    for part in (splits.labeled, splits.val):
        assert part.labels.tolist() == truth.labels[numbers(part)].tolist()


def test_every_label_and_no_validation_is_the_whole_set(data):
    splits = make_splits(SplitRequest(data=data))
    assert numbers(splits.labeled) == numbers(splits.unlabeled) == list(range(90))
    assert splits.val is None
    rest = make_splits(SplitRequest(data=data, num_val=6, unlabeled="none"))
    assert counts(rest.labeled) == [38, 28, 18] and rest.unlabeled is None


@pytest.mark.parametrize("num_labels", [3, 4, 5, 7, 20])
def test_as_even_as_the_classes_allow(data, num_labels):
    for seed in range(4):
        got = counts(make_splits(SplitRequest(data=data, num_labels=num_labels, seed=seed)).labeled)
        assert sum(got) == num_labels and max(got) - min(got) <= 1


def test_the_odd_label_goes_to_a_class_of_the_seeds_choice(data):
    assert (
        len(
            {tuple(counts(make_splits(SplitRequest(data=data, num_labels=4, seed=seed)).labeled)) for seed in range(12)}
        )
        == 3
    )


def test_a_function_of_the_seed(data):
    torch.manual_seed(0)
    first = make_splits(SplitRequest(data=data, num_labels=12, num_val=9, seed=7))
    torch.manual_seed(1)
    again, other = (make_splits(SplitRequest(data=data, num_labels=12, num_val=9, seed=seed)) for seed in (7, 8))
    for part, same, fresh in zip(first[:3], again[:3], other[:3], strict=False):
        assert numbers(part) == numbers(same) != numbers(fresh)


def test_more_labels_contain_the_fewer(data):
    few, many = (make_splits(SplitRequest(data=data, num_labels=n, num_val=9, seed=1)) for n in (6, 30))
    assert numbers(few.val) == numbers(many.val)
    assert set(numbers(few.labeled)) < set(numbers(many.labeled))


@pytest.mark.parametrize("num_extra", [10, 300])
def test_validation_is_taken_out_of_another_unlabelled_set(data, tmp_path, num_extra):
    """The other set holds the training images too, at its end, as `svhn:extra` holds those of `svhn`."""
    save(tmp_path / "more.npz", np.concatenate([np.arange(1000, 1000 + num_extra), np.arange(90)]))
    splits = make_splits(
        SplitRequest(data=data, unlabeled=f"npz:{tmp_path / 'more.npz'}", num_labels=12, num_val=9, seed=0)
    )
    want = list(range(1000, 1000 + num_extra)) + [n for n in range(90) if n not in set(numbers(splits.val))]
    assert numbers(splits.unlabeled) == want


def test_the_set_itself_as_unlabelled_is_same(data):
    same, spelled = (make_splits(SplitRequest(data=data, unlabeled=spec, num_val=9)) for spec in ("same", data))
    assert numbers(same.unlabeled) == numbers(spelled.unlabeled)


def test_unlabelled_images_get_the_channels_of_the_data(data, tmp_path):
    colour = np.random.default_rng(0).integers(0, 256, (4, 6, 7, 3), dtype=np.uint8)
    np.savez(tmp_path / "colour.npz", images=colour)
    assert make_splits(SplitRequest(data=data, unlabeled=f"npz:{tmp_path / 'colour.npz'}")).unlabeled.images.shape == (
        4,
        1,
        6,
        7,
    )
    splits = make_splits(SplitRequest(data=data, unlabeled=f"npz:{tmp_path / 'colour.npz'}", in_chans=3))
    assert splits.unlabeled.images.shape == (4, 3, 6, 7) and splits.labeled.images.shape[1] == 3


@pytest.mark.parametrize(
    "options, message",
    [
        ({"num_labels": 63}, "class '2' of .* has 20 labelled images, got 21 asked; lower num_labels"),
        ({"num_labels": 60, "num_val": 3}, r"has 19 labelled images \(1 more held out for validation\), got 20 asked"),
        ({"num_val": 63}, "class '2' of .* has 20 images, got 21 asked for validation; lower num_val"),
        ({"num_val": 60}, "class '2' of .* got 1 asked; lower num_val"),
        ({"num_labels": 2}, "got 2 labels for 3 classes .* at least one a class"),
        ({"num_labels": -1}, "expected 0 or more"),
    ],
)
def test_more_than_there_is(data, options, message):
    with pytest.raises(ValueError, match=message):
        make_splits(SplitRequest(data=data, **options))


def test_data_without_labels(tmp_path):
    save(tmp_path / "bare.npz", np.arange(5))
    with pytest.raises(ValueError, match="has no labels; .* --unlabeled npz:"):
        make_splits(SplitRequest(data=f"npz:{tmp_path / 'bare.npz'}"))


def test_digits_round():
    splits = make_splits(SplitRequest(data="digits", num_labels=100, num_val=200, seed=0))
    assert [len(part.images) for part in splits[:4]] == [100, 1097, 200, 500]
    assert splits.labeled.labels.bincount().tolist() == [10] * 10 and splits.num_classes == 10
