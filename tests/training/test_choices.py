"""What a user left open is chosen from the data."""

import pytest
import torch

from swwae_zoo import train
from swwae_zoo.config import merge, parse_size, read_recipe
from swwae_zoo.data.splits import tenth
from swwae_zoo.training.choices import size_for
from swwae_zoo.training.progress import about


@pytest.mark.parametrize(
    ("stored", "size"),
    [
        ([(32, 32)], 64),
        ([(64, 96)] * 3, [64, 96]),
        ([(480, 640), (640, 480)], 224),
        ([(3000, 4000)], [224, 288]),
        ([], None),
    ],
)
def test_a_backbone_is_trained_at_the_images_size_within_its_need(stored, size):
    assert size_for(stored) == size


def test_sizes_can_be_typed():
    assert parse_size("64x96") == [64, 96]
    assert parse_size("64") == 64
    with pytest.raises(ValueError, match="expected the side of the images"):
        parse_size("64x")


def test_own_images_get_one_net_and_no_number_of_another_data_set():
    run = merge(read_recipe("swwae_wrap"), {"data": "folder:pets", "model_args": {"backbone": "resnet18"}})
    assert (run.steps, run.num_val, run.rounds, run.twin) == (-1, -1, 1, False)
    assert run.model_args == {"backbone": "resnet18"}
    run = merge(read_recipe("swwae_stl10"), {"data": "folder:pets"})
    assert (run.steps, run.epochs, run.num_val) == (-1, 0, -1)


def test_validation_leaves_a_small_class_its_images():
    assert tenth(torch.tensor([0] * 100 + [1] * 3), 2) == 2
    assert tenth(torch.tensor([0] * 100 + [1] * 2), 2) == 0


def test_time_in_words():
    assert about(250) == "about 4 minutes"


def test_tensors_from_python(tmp_path):
    images = torch.randint(0, 255, (30, 1, 32, 32), dtype=torch.uint8)
    options = {"steps": 1, "batch_size": 4, "labeled_batch": 4, "model_args": {"notation": "(4)3c-2p-3fc"}}
    run = train(model="swwae_mnist", data=(images, torch.arange(30) % 3), out=str(tmp_path / "run"), **options)
    assert run.path == tmp_path / "run"
    assert run.model.num_classes == 3
    with pytest.raises(ValueError, match="expected one whole number"):
        train(model="swwae_mnist", data=(images, torch.arange(3)), **options)
