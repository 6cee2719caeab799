"""Weights that come with the package: put there by one command, loaded without a network."""

import os
from pathlib import Path

import pytest
import timm
import torch
from hub_server.client import Client, describe
from hub_server.fixtures import make_run

from swwae_zoo.hub.errors import HubError
from swwae_zoo.models import _pretrained as pretrained
from swwae_zoo.publish.package import MAX_BYTES, package

ROOT = str(Path(pretrained.__file__).parents[1])
REGISTERED = """
import pathlib, sys, types
# Stand-ins for the packages: their own would register the models before the folder is set.
for name, path in (("swwae_zoo", {root!r}), ("swwae_zoo.models", {root!r} + "/models")):
    package = sys.modules[name] = types.ModuleType(name)
    package.__path__ = [path]
from swwae_zoo.models import _pretrained
_pretrained.PACKAGED = pathlib.Path({folder!r})
del sys.modules["swwae_zoo.models"]
import timm, torch, swwae_zoo.models
answer = [timm.list_pretrained("swwae_mnist*"), *map(timm.is_model_pretrained, ("swwae_mnist", "swwae_svhn"))]
for name in ("swwae_mnist.tiny", "swwae_mnist"):
    model = timm.create_model(name, pretrained=True)
    total = float(sum(p.detach().double().sum() for p in model.parameters()))
    answer.append([model.notation, model.pretrained_cfg["file"], total])
"""


def test_a_packaged_run_is_a_tag(tmp_path: Path) -> None:
    net = make_run(tmp_path / "run")
    folder = package(tmp_path / "run", "tiny", into=tmp_path / "weights")
    assert folder == tmp_path / "weights" / "swwae_mnist.tiny" and os.listdir(tmp_path / "weights") == [
        "swwae_mnist.tiny"
    ]
    assert sorted(os.listdir(folder)) == ["README.md", "config.json", "model.safetensors"]
    assert 'timm.create_model("swwae_mnist.tiny", pretrained=True)' in (folder / "README.md").read_text()
    client = Client(tmp_path / "home", HF_ENDPOINT="http://127.0.0.1:9")
    listed, mnist, svhn, *loaded = client.tell(
        do="run", code=REGISTERED.format(folder=str(tmp_path / "weights"), root=ROOT)
    )
    client.close()
    assert "swwae_mnist.tiny" in listed and mnist and svhn == timm.is_model_pretrained("swwae_svhn")
    total = float(sum(parameter.detach().double().sum() for parameter in net.parameters()))
    assert loaded == [[net.notation, str(folder / "model.safetensors"), total]] * 2


def test_packaged_weights_take_options(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    net = make_run(tmp_path / "run", contrast="image")
    package(tmp_path / "run", "tiny", into=tmp_path)
    monkeypatch.setattr(pretrained, "PACKAGED", tmp_path)
    cfg = pretrained.with_weights({"swwae_mnist": {}})["swwae_mnist.tiny"]

    def load(**args: object) -> torch.nn.Module:
        return timm.create_model("swwae_mnist", pretrained=True, pretrained_cfg=dict(cfg), **args)

    assert describe(load())["logits"] == describe(net)["logits"] and load().pretrained_cfg["notes"] == [
        "contrast=image"
    ]
    assert "notes" not in timm.create_model("swwae_mnist", pretrained_cfg=dict(cfg)).pretrained_cfg
    assert (
        load(num_classes=3).head.fc.out_features == 3
        and load(in_chans=3).decoder.stages[0].convs[-1].conv.out_channels == 3
    )


def test_what_does_not_belong_into_the_package(tmp_path: Path) -> None:
    make_run(tmp_path / "run")
    package(tmp_path / "run", "tiny", into=tmp_path / "weights")
    with pytest.raises(HubError, match="is there already"):
        package(tmp_path / "run", "tiny", into=tmp_path / "weights")
    assert package(tmp_path / "run", "tiny", into=tmp_path / "weights", force=True).is_dir()
    with pytest.raises(HubError, match="expected letters"):
        package(tmp_path / "run", "../tiny", into=tmp_path / "weights")
    make_run(tmp_path / "large", "swwae_svhn", args={})
    with pytest.raises(HubError, match=f"expected at most {MAX_BYTES:,}: push it"):
        package(tmp_path / "large", "all", into=tmp_path / "weights")


@pytest.mark.parametrize("folder", sorted(pretrained.PACKAGED.glob("*.*")), ids=lambda folder: folder.name)
def test_the_weights_that_are_in_the_package(folder: Path) -> None:
    assert sorted(set(os.listdir(folder)) - {"reconstructions.png"}) == [
        "README.md",
        "config.json",
        "model.safetensors",
    ]
    assert (folder / "model.safetensors").stat().st_size <= MAX_BYTES and folder.name in timm.list_pretrained("swwae*")
    model = timm.create_model(folder.name, pretrained=True)
    assert all(bool(parameter.isfinite().all()) for parameter in model.parameters())
    assert describe(model)["weights"] == describe(timm.create_model(f"local-dir:{folder}", pretrained=True))["weights"]
