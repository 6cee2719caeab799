"""What a user left open is chosen from the data."""

import pytest
import timm
import torch
from PIL import Image

from swwae_zoo import train
from swwae_zoo.config import RunConfig, merge, parse_size, read_recipe
from swwae_zoo.data import load_images
from swwae_zoo.data.splits import tenth
from swwae_zoo.models import build_meta
from swwae_zoo.training.build import build_model
from swwae_zoo.training.choices import size_for
from swwae_zoo.training.memory import archived
from swwae_zoo.training.progress import about
from swwae_zoo.training.settings import settings


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


def test_tensors_from_python(tmp_path, monkeypatch):
    monkeypatch.setenv("SWWAE_DATA", str(tmp_path / "data"))
    images = torch.randint(0, 255, (30, 1, 32, 32), dtype=torch.uint8)
    options = {"steps": 1, "batch_size": 4, "labeled_batch": 4, "model_args": {"notation": "(4)3c-2p-3fc"}}
    run = train(model="swwae_mnist", data=(images, torch.arange(30) % 3), out=str(tmp_path / "run"), **options)
    assert run.path == tmp_path / "run"
    assert run.model.model.num_classes == 3
    with pytest.raises(ValueError, match="expected 30 whole numbers"):
        train(model="swwae_mnist", data=(images, torch.arange(3)), **options)


def test_runs_from_python_go_on_from_their_config_alone(tmp_path, monkeypatch):
    monkeypatch.setenv("SWWAE_DATA", str(tmp_path / "data"))
    pictures = [(Image.new("RGB", (20 + i % 3, 20), (8 * i, 0, 255 - 8 * i)), i % 2) for i in range(30)]
    options = {"steps": 2, "batch_size": 4, "labeled_batch": 4, "model_args": {"notation": "(4)3c-2p-2fc"}}
    run = train(model="swwae_mnist", data=pictures, out=str(tmp_path / "run"), **options)
    assert run.model.label_names == ("0", "1")
    (tmp_path / "run/result.json").unlink()
    again = train(resume=True, out=str(tmp_path / "run"))
    assert again.results[0]["val_error"] == run.results[0]["val_error"]


def test_names_of_classes_from_a_hugging_face_data_set(tmp_path, monkeypatch):
    datasets = pytest.importorskip("datasets")
    monkeypatch.setenv("SWWAE_DATA", str(tmp_path))
    features = datasets.Features({"picture": datasets.Image(), "label": datasets.ClassLabel(names=["cat", "d[o]g"])})
    columns = {"picture": [Image.new("L", (8, 8), 9 * i) for i in range(20)], "label": [i % 2 for i in range(20)]}
    spec = archived(datasets.Dataset.from_dict(columns, features=features), "data")
    images = load_images(spec, "train")
    assert images.class_names == ("cat", "d[o]g") and images.shape == (1, 8, 8)
    assert images.labels.tolist() == columns["label"]
    assert [int(image[0, 0, 0]) for image in images.images] == [9 * i for i in range(20)]
    assert archived(spec, "data") == spec


def test_a_pretrained_backbone_is_fine_tuned():
    given = {"data": "folder:pets", "norm_eval": None}
    tuned = {"backbone": "resnet18", "pretrained": True}, {"backbone": "resnet18", "init": "w.pth"}
    for options in tuned:
        keys = {**given, "init": options.get("init")}
        run, _ = settings(keys, backbone="resnet18", pretrained=options.get("pretrained", False))
        assert (run.lr_encoder, run.norm_eval, run.lambda_rec, run.steps) == (5e-4, True, 0.0, -1)
        assert "img_size" not in run.model_args and run.num_labels == 0
    own, _ = settings({**given, "norm_eval": False}, backbone="resnet18", pretrained=True)
    assert not own.norm_eval
    scratch, _ = settings(given, backbone="resnet18")
    assert (scratch.lr_encoder, scratch.norm_eval, scratch.lambda_rec) == (0.0, False, 1.0)


def test_a_classifier_of_other_classes_is_left_out_and_starts_at_zero(tmp_path, recwarn):
    backbone = timm.create_model("test_resnet", num_classes=7)
    torch.save(backbone.state_dict(), tmp_path / "w.pth")
    config = RunConfig(
        model="swwae_wrap",
        model_args={"backbone": "test_resnet", "img_size": 32},
        steps=1,
        init=str(tmp_path / "w.pth"),
    )
    said = []
    model = build_model(config, 3, say=said.append)
    assert torch.equal(model.backbone.conv1[0].weight, backbone.conv1[0].weight)
    assert not any(parameter.any() for parameter in model.backbone.get_classifier().parameters())
    assert len(said) == 1 and "the classifier is new (3 classes)" in said[0]
    same = build_model(config, 7)
    assert torch.equal(same.backbone.fc.weight, backbone.fc.weight)
    args = {"backbone": "test_resnet", "backbone_checkpoint": str(tmp_path / "w.pth"), "num_classes": 3}
    build_meta("swwae_wrap", args)
    assert not list(recwarn)
    for content, told in ((b"not weights", "can't be read"), (None, "can't be loaded into test_resnet")):
        if content is None:
            torch.save({"conv.weight": torch.zeros(3)}, tmp_path / "w.pth")
        else:
            (tmp_path / "w.pth").write_bytes(content)
        with pytest.raises(ValueError, match=told) as refused:
            build_model(config, 3)
        assert "\n" not in str(refused.value)
