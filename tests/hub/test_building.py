"""A saved model is built once, within bounds, and what training accepts comes back."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import timm
import torch
from hub_server.client import digest
from hub_server.fixtures import OnePath, make_run
from timm.models._hub import save_config_for_hf

import swwae_zoo
from swwae_zoo.hub.building import bounded, build_on_meta
from swwae_zoo.hub.config import check_model_config
from swwae_zoo.hub.errors import HubError
from swwae_zoo.models import NotationSWWAE, WrappedSWWAE
from swwae_zoo.models._pretrained import verify_saved

WRAPPED = {"backbone": "test_resnet", "img_size": 32, "num_classes": 10}


def save(model: Any, folder: Path) -> Path:
    folder.mkdir(parents=True)
    save_config_for_hf(model, folder / "config.json")
    tensors = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    safetensors.torch.save_file(tensors, folder / "model.safetensors")
    return folder


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Names of the classes whose constructor ran."""
    names: list[str] = []
    for kind in (NotationSWWAE, WrappedSWWAE):

        def count(self: Any, *args: Any, init: Any = kind.__init__, **kwargs: Any) -> None:
            names.append(type(self).__name__)
            init(self, *args, **kwargs)

        monkeypatch.setattr(kind, "__init__", count)
    yield names


COUNT = """
import swwae_zoo, timm
from swwae_zoo.models import NotationSWWAE
init, answer = NotationSWWAE.__init__, 0
def count(self, *args, **kwargs):
    global answer
    answer += 1
    init(self, *args, **kwargs)
NotationSWWAE.__init__ = count
try:
    {call}
finally:
    NotationSWWAE.__init__ = init
"""


@pytest.mark.parametrize("args", [{}, {"num_classes": 3}, {"features_only": True}, {"pretrained": False}])
def test_a_folder_is_built_once(tmp_path: Path, built: list[str], args: dict[str, Any]) -> None:
    make_run(tmp_path / "run")
    built.clear()
    timm.create_model(f"local-dir:{tmp_path / 'run' / 'last'}", **{"pretrained": True, **args})
    assert built == ["NotationSWWAE"]


def test_a_packaged_tag_is_built_once(built: list[str]) -> None:
    timm.create_model("swwae_mnist.mnist_100", pretrained=True)
    assert built == ["NotationSWWAE"]


def test_a_wrapped_backbone_is_built_once(tmp_path: Path, built: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    folder = save(timm.create_model("swwae_wrap", **WRAPPED), tmp_path / "saved")
    built.clear()
    made, create = [], timm.create_model
    monkeypatch.setattr(
        "timm.create_model", lambda name, *args, **kwargs: made.append(name) or create(name, *args, **kwargs)
    )
    create(f"local-dir:{folder}", pretrained=True)
    assert built == ["WrappedSWWAE"] and made == ["test_resnet"]


@pytest.mark.parametrize("call", ["timm.create_model('hf-hub:NAME', pretrained=True)", "swwae_zoo.pull('NAME')"])
def test_a_repository_is_built_once(path: OnePath, tmp_path: Path, call: str) -> None:
    make_run(tmp_path / "run")
    path.push(tmp_path / "run", "ann/counted")
    code = COUNT.format(call=call.replace("NAME", "ann/counted"))
    assert path.client.tell(do="run", code=code, token="hf_goodtoken") == 1


def test_nothing_is_drawn_that_is_overwritten(tmp_path: Path) -> None:
    make_run(tmp_path / "run")
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    timm.create_model(f"local-dir:{tmp_path / 'run' / 'last'}", pretrained=True)
    assert torch.equal(torch.rand(3), expected)


def test_a_changed_classifier_is_drawn(tmp_path: Path) -> None:
    make_run(tmp_path / "run")
    folder, heads = tmp_path / "run" / "last", []
    for _ in range(2):
        torch.manual_seed(5)
        heads.append(timm.create_model(f"local-dir:{folder}", pretrained=True, num_classes=3).head.fc)
    assert torch.equal(heads[0].weight, heads[1].weight) and 0 < heads[0].weight.abs().max() < 1


def test_no_weight_stays_random_where_the_caller_changes_the_net(tmp_path: Path) -> None:
    """timm is not strict where the number of classes differs, and would leave what it misses as it was drawn."""
    make_run(tmp_path / "run")
    with pytest.raises(HubError, match=r"lacks 'stages\.0\.convs\.0\.norm\.weight', which the model has with the arg"):
        timm.create_model(f"local-dir:{tmp_path / 'run' / 'last'}", pretrained=True, num_classes=3, batch_norm=True)


# --- bounds ---------------------------------------------------------------------------------------------


def test_tensors_are_counted_before_they_are_allocated() -> None:
    with (
        pytest.raises(HubError, match="here: config.json asks for a model of 1,099,511,627,776 parameters"),
        bounded("here"),
    ):
        torch.nn.Linear(2**20, 2**20)  # 4 TiB
    with bounded("here", limit=20):
        torch.nn.Linear(4, 4)
    with pytest.raises(HubError, match="parameters, expected at most 20"), bounded("here", limit=20):
        torch.nn.Linear(4, 5)


def config_of(args: dict[str, Any], local: bool = False) -> Any:
    cfg = {"input_size": [3, 32, 32], "num_classes": 10}
    content = {"architecture": "swwae_wrap", "model_args": {**WRAPPED, **args}, "pretrained_cfg": cfg}
    return check_model_config(json.loads(json.dumps(content)), "here", local)


@pytest.mark.parametrize(
    "args, told",
    [
        ({"layers": [2000, 2000, 2000, 2000]}, "asks for a model of"),
        ({"stem_width": 2**16, "stem_type": "deep", "backbone": "resnet18"}, "asks for a model of"),
        ({"stem_width": 2**20}, "stem_width is 1048576, expected"),
        ({"stem_type": "x" * 200}, "stem_type is"),
        ({"layers": [2] * 1000}, "layers is"),
        ({"layers": {"a": 1}}, "layers is {'a': 1}, expected"),
        ({"pretrained": True}, "'model_args.pretrained', which is none of"),
        ({"pretrained_cfg": None}, "'model_args.pretrained_cfg', which is none of"),
        ({"device": "cuda"}, "'model_args.device', which is none of"),
        ({"no such": 1}, "'model_args.no such', which is none of"),
        ({"nosuch": 1}, "no model can be built from config.json"),
        ({"a" * 5000: {"a": {}}}, "aaa is {'a': {}}, expected"),
    ],
)
def test_arguments_of_a_backbone_from_the_hub_are_bounded(args: dict[str, Any], told: str) -> None:
    with pytest.raises(HubError) as caught:
        build_on_meta(config_of(args), "here")
    assert told in str(caught.value) and "\n" not in str(caught.value) and len(str(caught.value)) < 1000


# --- what training accepts, loading accepts -------------------------------------------------------------


@pytest.mark.parametrize(
    "args",
    [
        {"backbone": "resnet10t", "stem_width": 16},
        {"backbone": "resnet10t", "stem_type": "deep", "avg_down": True},
        {"backbone": "test_resnet", "layers": [1, 1, 2, 1], "channels": [16, 24, 32, 40]},
        {"backbone": "test_convnext", "ls_init_value": None, "depths": [1, 2, 1, 1], "kernel_sizes": 5},
        {"backbone": "test_efficientnet", "bn_eps": 1e-3, "round_chs_fn": None},
    ],
)
def test_any_argument_of_the_backbone_comes_back(tmp_path: Path, args: dict[str, Any]) -> None:
    model = timm.create_model("swwae_wrap", img_size=64, num_classes=5, **args)
    folder = save(model, tmp_path / "saved")
    verify_saved(folder, model)
    again = timm.create_model(f"local-dir:{folder}", pretrained=True)
    assert digest(again) == digest(model) and again.text == model.text


@pytest.mark.parametrize(
    "name, args",
    [
        ("swwae_svhn", {"notation": "-".join(["(4)3c"] * 201) + "-2p-10fc"}),  # longer than the Hub's bound
        ("swwae_svhn", {"notation": "(4)3c-2p-10fc", "beta": 1e7, "pool": "soft"}),
        ("swwae_svhn", {"notation": "(4)3c-2p-10fc", "img_size": [2052, 4], "global_pool": "avg"}),
        ("swwae_wrap", {**WRAPPED, "decoder": "light", "img_size": 2080}),
    ],
)
def test_what_is_beyond_the_hubs_bounds_comes_back_from_a_folder(
    tmp_path: Path, name: str, args: dict[str, Any]
) -> None:
    model = timm.create_model(name, **args)
    verify_saved(save(model, tmp_path / "saved"), model)


@pytest.mark.parametrize("name", ["cpubone_nano", "levit_128s"])
def test_classifiers_that_are_part_of_a_head(tmp_path: Path, name: str) -> None:
    """Ten of the families that wrap name a layer that is not the module their get_classifier gives."""
    size = 224 if "levit" in name else 64
    model = timm.create_model("swwae_wrap", backbone=name, img_size=size, num_classes=5)
    folder = save(model, tmp_path / "saved")
    verify_saved(folder, model)
    other = timm.create_model(f"local-dir:{folder}", pretrained=True, num_classes=3)
    names = model.pretrained_cfg["classifier"]
    heads = (names,) if isinstance(names, str) else names
    own, expected = other.state_dict(), model.state_dict()
    for key in expected:
        if not key.startswith(tuple(f"{head}." for head in heads)):
            assert torch.equal(own[key], expected[key]), key


def test_a_saved_model_that_does_not_come_back(tmp_path: Path) -> None:
    model = timm.create_model("swwae_svhn", notation="(4)3c-2p-10fc")
    folder = save(model, tmp_path / "saved")
    verify_saved(folder, model)
    with torch.no_grad():
        model.head.fc.bias.add_(1)
    with pytest.raises(ValueError, match=r"comes back with another head\.fc\.bias"):
        verify_saved(folder, model)
    content = json.loads((folder / "config.json").read_text())
    content["model_args"]["round_chs_fn"] = "x"
    (folder / "config.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match="was saved but can't be loaded back") as caught:
        verify_saved(folder)
    assert "\n" not in str(caught.value)


def test_a_module_of_ones_own_says_what_to_do(tmp_path: Path) -> None:
    module = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3, padding=1), torch.nn.MaxPool2d(2), torch.nn.Conv2d(4, 4, 3))
    with pytest.raises(ValueError, match="can't be loaded back"):
        verify_saved(save(swwae_zoo.wrap(module, img_size=32, num_classes=2), tmp_path / "saved"))
