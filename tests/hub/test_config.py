"""config.json can come from anyone: what it may say, and that nothing is built before it was checked."""

import json
import pickle
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import timm
import torch
from hub_server.fixtures import make_run

from swwae_zoo.hub.building import build_on_meta
from swwae_zoo.hub.config import read_model_config
from swwae_zoo.hub.errors import HubError, scrubbed
from swwae_zoo.hub.fetch import _copy
from swwae_zoo.hub.remote import split_revision


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    make_run(tmp_path / "run")
    return tmp_path / "run" / "last"


def change(folder: Path, **changes: Any) -> None:
    """Sets keys of config.json: `model_args__pool="x"` is that of a table in it; ... takes one out."""
    path = folder / "config.json"
    content = json.loads(path.read_text())
    for name, value in changes.items():
        *tables, key = name.split("__")
        table = content
        for part in tables:
            table = table.setdefault(part, {})
        table.pop(key, None) if value is ... else table.update({key: value})
    path.write_text(json.dumps(content))


@pytest.mark.parametrize(
    "changes, told",
    [
        ({"model_args__notation": 5}, "model_args.notation is 5, expected text"),
        ({"model_args__notation": "(4)3c" + "-(4)3c" * 300}, "expected text of at most 1000"),
        ({"model_args__notation": "rm -rf"}, "no model can be built"),
        ({"model_args__notation": "(999999)3c-(999999)3c-2p-10fc"}, "parameters, expected at most"),
        ({"model_args__in_chans": 10**9}, "in_chans is 1000000000, expected"),
        ({"model_args__in_chans": True}, "in_chans is True"),
        ({"model_args__img_size": [32, 32, 32]}, "img_size is [32, 32, 32]"),
        ({"model_args__img_size": 10**6}, "img_size is 1000000"),
        ({"model_args__beta": "nan"}, "beta is 'nan'"),
        ({"model_args__pool": "os.system"}, "pool is 'os.system'"),
        ({"model_args__batch_norm": 1}, "batch_norm is 1"),
        ({"model_args__checkpoint_path": "/etc/passwd"}, "'model_args.checkpoint_path'"),
        ({"model_args__features_only": True}, "'model_args.features_only'"),
        ({"model_args__pretrained_cfg_overlay": {"file": "x"}}, "'model_args.pretrained_cfg_overlay'"),
        ({"pretrained_cfg__url": "http://localhost/x.pth"}, "'pretrained_cfg.url'"),
        ({"pretrained_cfg__hf_hub_id": "a/b"}, "'pretrained_cfg.hf_hub_id'"),
        ({"pretrained_cfg__state_dict": {}}, "'pretrained_cfg.state_dict'"),
        ({"pretrained_cfg__custom_load": True}, "custom_load is True"),
        ({"pretrained_cfg__mean": [0.0] * 5000}, "expected a list of 1 to"),
        ({"pretrained_cfg__std": [0]}, "pretrained_cfg.std is [0]"),
        ({"pretrained_cfg__first_conv": "head.fc"}, "first_conv = 'head.fc', which is none"),
        ({"pretrained_cfg__classifier": "stages.0"}, "classifier = 'stages.0', which is none"),
        ({"pretrained_cfg__notes": ["contrast=wild"]}, "contrast='wild'"),
        ({"pretrained_cfg__num_classes": -1, "num_classes": ...}, "num_classes is -1"),
        ({"pretrained_cfg__mean": [float("nan")]}, "NaN is no number"),
    ],
)
def test_what_is_refused(folder: Path, changes: dict[str, Any], told: str) -> None:
    change(folder, **changes)
    with pytest.raises(HubError) as caught:
        build_on_meta(read_model_config(folder / "config.json"), "here")
    assert told in str(caught.value) and "\n" not in str(caught.value) and len(str(caught.value)) < 1000


@pytest.mark.parametrize("pretrained", [True, False])
@pytest.mark.parametrize(
    "changes",
    [
        {"model_args__in_chans": 10**9},
        {"model_args__pool": "x"},
        {"pretrained_cfg__first_conv": "head.fc"},
        {"model_args__notation": "(999999)3c-(999999)3c-2p-10fc"},
    ],
)
def test_timm_builds_nothing_of_it(folder: Path, changes: dict[str, Any], pretrained: bool) -> None:
    change(folder, **changes)
    with pytest.raises(HubError):
        timm.create_model(f"local-dir:{folder}", pretrained=pretrained)


@pytest.mark.parametrize(
    "changes, told",
    [
        ({"backbone": "local-dir:/etc"}, "backbone is 'local-dir:/etc', expected the name of a timm model"),
        ({"backbone": "hf-hub:a/b"}, "expected the name of a timm model"),
        ({"backbone": "swwae_wrap"}, "expected the name of a timm model"),
        ({"backbone_checkpoint": "/etc/passwd"}, "'model_args.backbone_checkpoint'"),
        ({"act_layer": "nonsense"}, "no model can be built"),
        ({"img_size": 10**5}, "img_size is 100000"),
    ],
)
def test_what_is_refused_of_a_wrapped_backbone(tmp_path: Path, changes: dict[str, Any], told: str) -> None:
    args = {"backbone": "test_resnet", "img_size": 32, **changes}
    content = {
        "architecture": "swwae_wrap",
        "model_args": args,
        "pretrained_cfg": {"input_size": [3, 32, 32], "num_classes": 1000},
    }
    (tmp_path / "config.json").write_text(json.dumps(content))
    with pytest.raises(HubError) as caught:
        build_on_meta(read_model_config(tmp_path / "config.json"), "here")
    assert told in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "content, told",
    [
        ("[]", "got list, expected a table"),
        ("{}", "got NoneType, expected a table"),
        ("{", "not valid JSON"),
        ("\0", "not valid JSON"),
        ('{"pretrained_cfg": {}}', "says architecture None"),
        ('{"architecture": ["swwae_mnist"], "pretrained_cfg": {}}', "architecture is ['swwae_mnist']"),
        (
            '{"architecture": "resnet50", "pretrained_cfg": {}}',
            "says architecture 'resnet50', expected a model of swwae_zoo",
        ),
        ('{"architecture": "../swwae_mnist", "pretrained_cfg": {}}', "expected a model of swwae_zoo"),
        ('{"architecture": "swwae_mnist.tag", "pretrained_cfg": {}}', "expected a model of swwae_zoo"),
        ('{"architecture": "swwae_mnist", "pretrained_cfg": {}, "auto_map": {"AutoModel": "x.py"}}', "'auto_map'"),
        ('{"architecture": "swwae_mnist", "pretrained_cfg": {}, "model_args": []}', "model_args: got list"),
        ("[" * 200_000, "not valid JSON"),
        ('{"a": "' + "x" * 2**20 + '"}', "bytes, expected at most"),
    ],
)
def test_what_is_no_configuration(tmp_path: Path, content: str, told: str) -> None:
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(HubError) as caught:
        build_on_meta(read_model_config(tmp_path / "config.json"), "here")
    assert told in str(caught.value) and "\n" not in str(caught.value)


def test_an_absurd_model_costs_nothing(folder: Path) -> None:
    change(folder, model_args__notation="(1000)3c-(1000)3c-2p-999999fc", model_args__img_size=2048)
    config = read_model_config(folder / "config.json")
    with pytest.raises(HubError, match="parameters, expected at most"):
        build_on_meta(config, "here")


def test_weights_of_another_model(folder: Path) -> None:
    change(folder, model_args__notation="(4)3c-2p-(5)3c-2p-10fc")
    with pytest.raises(HubError, match=r"has stages.1.convs.0.conv.weight of shape|has .* of shape"):
        timm.create_model(f"local-dir:{folder}", pretrained=True)
    change(folder, model_args__notation="(4)3c-2p-10fc")
    with pytest.raises(HubError, match="model.safetensors has '.*', which config.json's model lacks"):
        timm.create_model(f"local-dir:{folder}", pretrained=True)


@pytest.mark.parametrize("changes", [{"num_classes": 5}, {"pretrained_cfg__input_size": [3, 32, 32]}])
def test_what_contradicts_itself(folder: Path, changes: dict[str, Any]) -> None:
    """timm leaves a classifier out that does not fit what config.json says, and fills it at random."""
    change(folder, model_args__num_classes=10, model_args__in_chans=1, **changes)
    with pytest.raises(HubError, match="in one place, and builds a model of"):
        build_on_meta(read_model_config(folder / "config.json"), "here")


def test_integers_for_floats(folder: Path) -> None:
    tensors = {
        name: tensor.to(torch.int32)
        for name, tensor in safetensors.torch.load_file(folder / "model.safetensors").items()
    }
    safetensors.torch.save_file(tensors, folder / "model.safetensors")
    with pytest.raises(HubError, match="of type I32, config.json's model of torch.float32"):
        timm.create_model(f"local-dir:{folder}", pretrained=True)


class Trap:
    def __reduce__(self) -> tuple[Any, ...]:
        return pytest.fail, ("a pickle was read",)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pth", "model.safetensors"])
def test_no_pickle_from_a_folder(folder: Path, name: str) -> None:
    (folder / "model.safetensors").unlink()
    (folder / name).write_bytes(pickle.dumps(Trap()))
    with pytest.raises(
        HubError, match="pickles are not read" if name == "model.safetensors" else "has no model.safetensors"
    ):
        timm.create_model(f"local-dir:{folder}", pretrained=True)


def test_names_of_repositories() -> None:
    assert split_revision("a/b") == ("a/b", None) and split_revision("a/b@refs/pr/1") == ("a/b", "refs/pr/1")
    for bad in ("a", "a/", "/b", "a/b/c", "a/b@", "a/b@a..b", "a b/c", "a/b@-x"):
        with pytest.raises(HubError, match="expected"):
            split_revision(bad)


def test_tokens_are_left_out() -> None:
    text = scrubbed("no\nhf_abcdefgh at https://x/y?sig=abc, Bearer qwertz, own-secret", token="own-secret")
    assert text == "no <hidden> at https://x/y?<hidden> Bearer <hidden> <token>"


def test_a_copy_that_fails_leaves_nothing(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("shutil.copyfile", full)
        with pytest.raises(OSError):
            _copy(folder, tmp_path / "out")
    assert not (tmp_path / "out").exists() and not list(tmp_path.glob(".out*"))
    assert _copy(folder, tmp_path / "out") is False and _copy(folder, tmp_path / "out") is True
