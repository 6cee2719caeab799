"""Weights from outside the zoo: files that the caller names, which timm reads, and backbones on the Hub."""

import pickle
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import timm
import torch
from hub_server import Call, Corrupt
from hub_server.client import Client, digest
from hub_server.fixtures import OnePath
from timm.models._hub import save_config_for_hf

import swwae_zoo

SMALL = {"notation": "(4)3c-2p-(4)3c-2p-10fc"}


class Trap:
    """Unpickled, it writes a file."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[object, ...]:
        return open, (str(self.file), "w")


def by_checkpoint_path(file: Path, model: str = "swwae_svhn", **args: Any) -> torch.nn.Module:
    return timm.create_model(model, checkpoint_path=file, **(args or SMALL))


def by_overlay(file: Path, model: str = "swwae_svhn", **args: Any) -> torch.nn.Module:
    return timm.create_model(model, pretrained=True, pretrained_cfg_overlay={"file": str(file)}, **(args or SMALL))


def wrapped_by_checkpoint_path(file: Path) -> torch.nn.Module:
    return by_checkpoint_path(file, "swwae_wrap", backbone="test_resnet", img_size=64)


def wrapped_by_overlay(file: Path) -> torch.nn.Module:
    return by_overlay(file, "swwae_wrap", backbone="test_resnet", img_size=64)


def by_backbone_checkpoint(file: Path) -> torch.nn.Module:
    return swwae_zoo.wrap("test_resnet", img_size=64, backbone_checkpoint=file).backbone


@pytest.mark.parametrize(
    "load", [by_checkpoint_path, by_overlay, wrapped_by_checkpoint_path, wrapped_by_overlay, by_backbone_checkpoint]
)
def test_a_file_that_the_caller_names_is_loaded_by_timm_without_running_code(load: Any, tmp_path: Path) -> None:
    """Such files are timm's business: it reads pickles with weights_only=True."""
    (tmp_path / "hostile.pth").write_bytes(pickle.dumps(Trap(tmp_path / "sprung"), protocol=2))
    with pytest.raises((RuntimeError, ValueError)):
        load(tmp_path / "hostile.pth")
    assert not (tmp_path / "sprung").exists()
    if load in (by_checkpoint_path, by_overlay):
        trained = timm.create_model("swwae_svhn", **SMALL)
    else:
        wrapped = swwae_zoo.wrap("test_resnet", img_size=64)
        trained = wrapped.backbone if load is by_backbone_checkpoint else wrapped
    torch.save({"state_dict": trained.state_dict(), "epoch": 3}, tmp_path / "weights.pth")
    assert digest(load(tmp_path / "weights.pth")) == digest(trained)


def test_a_backbone_checkpoint_that_is_not_there() -> None:
    with pytest.raises(FileNotFoundError, match=r"none\.pth"):
        by_backbone_checkpoint(Path("none.pth"))


# --- a backbone's own repository ----------------------------------------------------------------------

LOAD = """
import sys
sys.path.insert(0, {tests!r})
from hub_server.client import Client, digest
import swwae_zoo
try:
    model = swwae_zoo.wrap({name!r}, pretrained={pretrained}, img_size=64)
    answer = [digest(model.backbone), model._model_args["backbone"], str(model.backbone.pretrained_cfg.get("file"))]
except ValueError as error:
    answer = str(error)
"""


def wrap_in(client: Client, name: str, pretrained: bool = True) -> Any:
    code = LOAD.format(tests=str(Path(__file__).parents[1]), name=name, pretrained=pretrained)
    return client.tell(do="run", code=code, token="hf_goodtoken")


def backbone_files(folder: Path, **more: bytes) -> tuple[str, dict[str, bytes]]:
    """The digest of a fresh backbone's weights, and the files of its repository."""
    model = timm.create_model("test_resnet", num_classes=7)
    save_config_for_hf(model, folder / "config.json")
    files = {
        "config.json": (folder / "config.json").read_bytes(),
        "model.safetensors": safetensors.torch.save(model.state_dict()),
    }
    return digest(model), {**files, **more}


def put(path: OnePath, name: str, files: dict[str, bytes]) -> None:
    from hub_server import Repo

    path.hub.repos[name] = Repo(name)
    path.hub.repos[name].put(**files)


@pytest.mark.parametrize("place", ["hf-hub", "registered"])
def test_a_backbone_on_the_hub_comes_from_safetensors_or_not_at_all(path: OnePath, place: str, tmp_path: Path) -> None:
    expected, files = backbone_files(tmp_path)
    repo = {"hf-hub": "ann/backbone", "registered": "timm/test_resnet.r160_in1k"}[place]
    name = {"hf-hub": "hf-hub:ann/backbone", "registered": "test_resnet"}[place]
    if place == "registered":  # its classes are timm's own
        model = timm.create_model("test_resnet")
        expected, files["model.safetensors"] = digest(model), safetensors.torch.save(model.state_dict())
    torch.save(
        timm.create_model("test_resnet", num_classes=1000 if place == "registered" else 7).state_dict(),
        tmp_path / "other",
    )
    tempting = (tmp_path / "other").read_bytes()  # timm would load it

    put(path, repo, {**files, "pytorch_model.bin": tempting})
    assert wrap_in(path.client, name) == [expected, "test_resnet", "None"]
    put(path, repo, {"config.json": files["config.json"], "pytorch_model.bin": tempting})
    refused = wrap_in(path.client, name)
    assert isinstance(refused, str) and "pickles" in refused and "\n" not in refused, refused


def test_a_backbone_is_of_one_commit_and_checked(path: OnePath, tmp_path: Path) -> None:
    expected, files = backbone_files(tmp_path)
    put(path, "ann/moved", files)
    other, later = backbone_files(tmp_path)
    path.hub.fail(
        "GET /ann/moved/resolve/", Call(lambda: path.hub.repos["ann/moved"].put(**later))
    )  # while config.json is fetched
    assert wrap_in(path.client, "hf-hub:ann/moved")[0] == expected
    path.hub.fail("GET /storage/ann/moved", Corrupt())
    assert wrap_in(path.client, "hf-hub:ann/moved")[0] == other
    path.hub.fail("GET /storage/", Corrupt(), None)
    put(path, "ann/moved", backbone_files(tmp_path)[1])
    assert "came damaged twice" in wrap_in(path.client, "hf-hub:ann/moved")


def test_a_backbone_that_can_not_be_had(path: OnePath, tmp_path: Path) -> None:
    for pretrained in (True, False):
        assert "ann/nothing does not exist" in wrap_in(path.client, "hf-hub:ann/nothing", pretrained)
    expected, files = backbone_files(tmp_path)
    put(path, "ann/kept", files)
    assert "has no revision 'v9'" in wrap_in(path.client, "hf-hub:ann/kept@v9")
    assert wrap_in(path.client, "hf-hub:ann/kept")[0] == expected
    offline = Client(path.client.home, **path.env, HF_HUB_OFFLINE="1")
    path.hub.requests.clear()
    try:
        assert wrap_in(offline, "hf-hub:ann/kept")[0] == expected
        assert "HF_HUB_OFFLINE is set" in wrap_in(offline, "hf-hub:ann/never") and path.hub.requests == []
    finally:
        offline.close()
