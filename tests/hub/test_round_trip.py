"""Push, pull and `pretrained=True` against a Hub on loopback, on both upload paths."""

import json
from pathlib import Path

import pytest
import timm
from hub_server.client import describe
from hub_server.fixtures import OnePath, make_run

VARIANTS = ("swwae_mnist", "swwae_svhn", "swwae_stl10", "swwae_cifar_vgg")


@pytest.mark.parametrize("model", VARIANTS)
def test_every_variant_comes_back_bit_equal(path: OnePath, model: str, tmp_path: Path) -> None:
    net = make_run(tmp_path / "run", model, args={})
    expected = describe(net)
    path.push(tmp_path / "run", f"zoo/{model}")
    pulled = path.client.swwae("pull", f"zoo/{model}", "--out", tmp_path / "out", "--json").json
    assert pulled["architecture"] == model and pulled["commit"] == path.hub.repos[f"zoo/{model}"].branches["main"]
    assert (tmp_path / "out" / "model.safetensors").read_bytes() == (
        tmp_path / "run" / "last" / "model.safetensors"
    ).read_bytes()
    names = [model]
    if model in ("swwae_mnist", "swwae_svhn"):  # the others are large
        names += [f"hf-hub:zoo/{model}", f"hf-hub:zoo/{model}@{pulled['commit']}", f"local-dir:{tmp_path / 'out'}"]
    for name in ["swwae_stl10_vgg"] if model == "swwae_stl10" else names:
        loaded = path.client.load(name)
        assert "error" not in loaded, loaded
        assert (loaded["weights"], loaded["logits"]) == (expected["weights"], expected["logits"]), name
    uploads = [request for request in path.hub.requests if path.upload in request]
    assert len(uploads) >= 1


def test_unchanged_is_said_and_sends_nothing(path: OnePath, tmp_path: Path) -> None:
    make_run(tmp_path / "run")
    first = path.client.swwae("push", tmp_path / "run", "--repo", "ann/again", "--json").json
    path.hub.requests.clear()
    second = path.client.swwae("push", tmp_path / "run", "--repo", "ann/again", "--json").json
    assert (first["status"], second["status"]) == ("pushed", "unchanged") and first["commit"] == second["commit"]
    assert not any("commit" in request or "storage" in request for request in path.hub.requests)
    assert set(first["files"]) == {"README.md", "config.json", "model.safetensors"}
    assert set(path.hub.repos["ann/again"].commits[first["commit"]].files) == {".gitattributes", *first["files"]}
    assert "unchanged: ann/again@main, public" in path.client.swwae("push", tmp_path / "run", "--repo", "ann/again").out


def test_branch_tag_private_message(path: OnePath, tmp_path: Path) -> None:
    make_run(tmp_path / "run")
    said = path.client.swwae(
        "push",
        tmp_path / "run",
        "--repo",
        "ann/flags",
        "--private",
        "--revision",
        "trial",
        "--tag",
        "v1",
        "--message",
        "A first try",
        "--json",
    ).json
    repo = path.hub.repos["ann/flags"]
    assert repo.private and said["private"] is True
    assert repo.branches["trial"] == repo.tags["v1"] == said["commit"] != repo.branches["main"]
    assert repo.commits[said["commit"]].title == "A first try"
    again = path.client.swwae(
        "push", tmp_path / "run", "--repo", "ann/flags", "--revision", "trial", "--tag", "v1", "--json"
    ).json
    assert again["status"] == "unchanged" and again["private"] is True
    assert path.client.load("hf-hub:ann/flags@v1")["weights"] == path.client.load("hf-hub:ann/flags@trial")["weights"]
    make_run(tmp_path / "other")
    refused = path.client.swwae(
        "push", tmp_path / "other", "--repo", "ann/flags", "--revision", "trial", "--tag", "v1"
    ).refusal
    assert "the tag 'v1' names commit" in refused and repo.tags["v1"] == repo.branches["trial"] == said["commit"]


def test_private_is_made_true_of_a_public_repository(path: OnePath, tmp_path: Path) -> None:
    make_run(tmp_path / "run")
    path.push(tmp_path / "run", "ann/seen")
    make_run(tmp_path / "secret")
    path.client.swwae("push", tmp_path / "secret", "--repo", "ann/seen", "--private")
    assert path.hub.repos["ann/seen"].private


def test_pull_request(path: OnePath, tmp_path: Path) -> None:
    make_run(tmp_path / "run")
    said = path.client.swwae("push", tmp_path / "run", "--repo", "ann/asked", "--create-pr", "--json").json
    repo = path.hub.repos["ann/asked"]
    assert said["url"].endswith("/discussions/1") and repo.pulls["refs/pr/1"] == said["commit"] != repo.branches["main"]
    assert path.client.load("hf-hub:ann/asked@refs/pr/1").get("weights")


def test_dry_run_needs_no_network(path: OnePath, tmp_path: Path) -> None:
    make_run(tmp_path / "run")
    said = path.client.swwae("push", tmp_path / "run", "--repo", "ann/dry", "--dry-run", "--json", token=None).json
    assert (
        said["status"] == "dry run"
        and said["commit"] is None
        and path.hub.requests == []
        and said["card"].startswith("---\n")
    )


def test_pull_says_what_it_did(path: OnePath, tmp_path: Path) -> None:
    make_run(tmp_path / "run")
    path.push(tmp_path / "run", "ann/pulled")
    out = tmp_path / "out"
    first = path.client.swwae("pull", "ann/pulled", "--out", out)
    assert first.out.startswith("pulled: swwae_mnist, ann/pulled at ") and f'"local-dir:{out}"' in first.out
    assert path.client.swwae("pull", "ann/pulled", "--out", out).out.startswith("unchanged: ")
    assert sorted(file.name for file in out.iterdir()) == ["README.md", "config.json", "model.safetensors"]
    (out / "config.json").write_text("{}")
    assert "is not empty" in path.client.swwae("pull", "ann/pulled", "--out", out).refusal
    assert (out / "config.json").read_text() == "{}"
    (tmp_path / "file").touch()
    assert "is a file" in path.client.swwae("pull", "ann/pulled", "--out", tmp_path / "file").refusal
    cached = json.loads(path.client.swwae("pull", "ann/pulled", "--json").out)
    assert Path(cached["folder"]).is_relative_to(path.client.home)


def test_options_on_the_way(path: OnePath, tmp_path: Path) -> None:
    make_run(tmp_path / "run", "swwae_svhn", contrast="image")
    path.push(tmp_path / "run", "zoo/swwae_svhn.small")  # not a registered tag: the organisation's own
    for name in ("hf-hub:zoo/swwae_svhn.small", "swwae_svhn.small"):
        whole = path.client.load(name)
        assert whole["cfg"]["notes"] == ["contrast=image"], whole
        assert path.client.load(name, num_classes=3)["shapes"] == [[2, 3]]
        assert path.client.load(name, in_chans=1)["shapes"] == [[2, 10]]
        assert path.client.load(name, unpool="upsample")["weights"] == whole["weights"]
        assert path.client.load(name, features_only=True)["shapes"] == [[2, 4, 16, 16], [2, 4, 8, 8]]
    assert path.client.load("swwae_svhn.none")["error"].startswith("zoo/swwae_svhn.none does not exist")


def test_organisation_without_the_model_names_the_recipe(path: OnePath) -> None:
    path.hub.repos.pop("zoo/swwae_svhn", None)
    error = path.client.load("swwae_svhn")["error"]
    assert (
        "zoo/swwae_svhn does not exist" in error and "`swwae train --model swwae_svhn`" in error and "\n" not in error
    )


def test_weights_that_are_there_need_no_second_download(path: OnePath, tmp_path: Path) -> None:
    make_run(tmp_path / "run")
    path.push(tmp_path / "run", "ann/once")
    path.client.load("hf-hub:ann/once")
    path.hub.requests.clear()
    path.client.load("hf-hub:ann/once")
    assert not any("storage" in request or "token" in request for request in path.hub.requests)


def test_the_saved_copy_of_a_pulled_model(path: OnePath, tmp_path: Path) -> None:
    """What timm writes of a model that came from the Hub comes back too."""
    make_run(tmp_path / "run")
    path.push(tmp_path / "run", "ann/kept")
    code = """
import json, pathlib, safetensors.torch, timm
from timm.models._hub import save_config_for_hf
model = timm.create_model("hf-hub:ann/kept", pretrained=True)
folder = pathlib.Path({!r})
folder.mkdir()
save_config_for_hf(model, folder / "config.json")
safetensors.torch.save_file(model.state_dict(), folder / "model.safetensors")
answer = None
"""
    path.client.tell(do="run", code=code.format(str(tmp_path / "kept")), token=None)
    again = timm.create_model(f"local-dir:{tmp_path / 'kept'}", pretrained=True)
    assert describe(again)["weights"] == path.client.load("hf-hub:ann/kept")["weights"]


@pytest.mark.parametrize("pools", ["tap", "insert"])
def test_a_wrapped_backbone_comes_back_with_its_options(path: OnePath, tmp_path: Path, pools: str) -> None:
    args = {"backbone": "test_resnet", "pools": pools, "decoder": "light", "img_size": 64, "num_classes": 10}
    expected = describe(make_run(tmp_path / "run", "swwae_wrap", args=args))
    said = path.client.swwae("push", tmp_path / "run", "--repo", f"ann/wrapped-{pools}", "--json").json
    assert (
        f"test_resnet, pools={pools}" in said["card"]
        and "model.backbone" in said["card"]
        and "license:" not in said["card"].split("---")[1]
        and "timm names the licence apache-2.0 for the backbone" in said["card"]
    )
    loaded = path.client.load(f"hf-hub:ann/wrapped-{pools}")
    assert (loaded.get("weights"), loaded.get("logits")) == (expected["weights"], expected["logits"]), loaded
    if pools == "insert":
        return
    assert (
        path.client.swwae("pull", f"ann/wrapped-{pools}", "--out", tmp_path / "out", "--json").json["architecture"]
        == "swwae_wrap"
    )
    assert loaded["type"] == "WrappedSWWAE" and path.client.load(f"local-dir:{tmp_path / 'out'}", num_classes=3)[
        "shapes"
    ] == [[2, 3]]
    named = path.client.load("swwae_wrap", pretrained_cfg_overlay={"hf_hub_id": f"ann/wrapped-{pools}"})
    assert named.get("weights") == expected["weights"] and Path(named["cfg"]["file"]).is_relative_to(
        path.client.home
    ), named
