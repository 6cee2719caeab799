"""Exported files, read by programs that don't know this package, give what the model gives."""

import copy
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from hub_server.client import Client
from hub_server.fixtures import make_run
from typer.testing import CliRunner

import swwae_zoo
from swwae_zoo.cli.main import app
from swwae_zoo.models._data_config import describe_training_data
from swwae_zoo.models._registry import model_names
from swwae_zoo.publish import export as module
from swwae_zoo.publish.export import export, export_model

onnxruntime = pytest.importorskip("onnxruntime")
NAMES = ("cat", "dog", "äöü <b>", "fox")
# In a process that has loaded torch and torchvision, of which the file uses torch alone; and in one that has timm too.
PT2 = """
import sys, json, torch
extra = {"metadata.json": ""}
file, images, result = paths
program = torch.export.load(file, extra_files=extra).module()
with torch.no_grad():
    torch.save([program(batch) for batch in torch.load(images)], result)
assert not any("torchvision" in str(node.target) for node in program.graph.nodes), "the file needs more than torch"
assert not any(name.startswith(("swwae_zoo", "timm")) for name in sys.modules), "the file needs more than torch"
answer = json.loads(extra["metadata.json"])
"""
TIMM = """
import sys, timm, torch
from timm.data import create_transform, resolve_model_data_config
folder, images, result = paths
model = timm.create_model("local-dir:" + folder, pretrained=True).eval()
create_transform(**resolve_model_data_config(model), is_training=False)
with torch.no_grad():
    torch.save(model(torch.load(images)), result)
assert not any(name.startswith("swwae_zoo") for name in sys.modules), "it needs swwae_zoo"
cfg = model.pretrained_cfg
answer = [cfg["label_names"], cfg["mean"], cfg["std"], cfg["input_size"], cfg["crop_pct"]]
"""
Program = Callable[[Path, Path, Path], Any]


def probabilities(model: torch.nn.Module, images: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(swwae_zoo.preprocess_of(model)(images)).softmax(1)


def random_images(model: torch.nn.Module, size: tuple[int, int], count: int) -> torch.Tensor:
    return torch.randint(256, (count, model.in_chans, *size), dtype=torch.uint8)


def check_onnx(path: Path, model: torch.nn.Module, size: tuple[int, int]) -> dict[str, str]:
    """Any batch size; no operators but ONNX's own. Returns the metadata."""
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    for count in (1, 3, 5):
        images = random_images(model, size, count)
        [got] = session.run(None, {"images": images.numpy()})
        np.testing.assert_allclose(got, probabilities(model, images).numpy(), atol=1e-4)
    import onnx

    assert {node.domain for node in onnx.load(path).graph.node} <= {"", "ai.onnx"}
    return session.get_modelmeta().custom_metadata_map


def check_pt2(path: Path, model: torch.nn.Module, size: tuple[int, int], torch_alone: Program) -> dict[str, object]:
    batches = [random_images(model, size, count) for count in (1, 3, 5)]
    torch.save(batches, path.with_suffix(".in"))
    told = torch_alone(path, path.with_suffix(".in"), path.with_suffix(".result"))
    for images, got in zip(batches, torch.load(path.with_suffix(".result")), strict=True):
        torch.testing.assert_close(got, probabilities(model, images), atol=1e-4, rtol=0)
    return told


def program(code: str, home: Path) -> Iterator[Program]:
    """Runs the code, for as long as there are tests for it, in a process that knows nothing of this package."""
    client = Client(home)
    yield lambda *paths: client.tell(do="run", code=f"paths = {[str(path) for path in paths]}\n{code}")
    client.close()


@pytest.fixture(scope="module")
def torch_alone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Program]:
    yield from program(PT2, tmp_path_factory.mktemp("torch"))


@pytest.fixture(scope="module")
def timm_alone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Program]:
    yield from program(TIMM, tmp_path_factory.mktemp("timm"))


@pytest.fixture
def captured_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """One graph for both formats of a model: to capture it takes as long as to write it."""
    real, graphs = module._captured, {}

    def captured(whole: Any, images: torch.Tensor) -> torch.export.ExportedProgram:
        key = (id(whole.model), images.shape)
        if key not in graphs:
            graphs[key] = real(whole, images)
        return graphs[key]

    monkeypatch.setattr(module, "_captured", captured)


def described(model: torch.nn.Module, names: tuple[str, ...] = (), **how: object) -> torch.nn.Module:
    describe_training_data(model, label_names=names, **how)
    return model.eval()


def wrapped(backbone: str, **args: object) -> torch.nn.Module:
    torch.manual_seed(0)
    return swwae_zoo.wrap(backbone, num_classes=4, img_size=64, **args)


MODELS = {
    **{
        tag: lambda tag=tag: timm.create_model(tag, pretrained=True)
        for tag in timm.list_pretrained("swwae*")
        if "." in tag
    },
    **{
        name: lambda name=name: described(timm.create_model(name, num_classes=4), NAMES)
        for name in model_names()
        if name not in ("swwae_cifar_vgg", "swwae_wrap")  # 90 MB; the wrapped ones follow
    },
    "contrast": lambda: described(timm.create_model("swwae_svhn", num_classes=4), NAMES, contrast="image"),
    "soft": lambda: described(timm.create_model("swwae_mnist", pool="soft", batch_norm=True, drop_rate=0.5)),
    "resnet": lambda: described(wrapped("test_resnet"), NAMES, image_size=(60, 50)),
    "efficientnet": lambda: described(wrapped("test_efficientnet"), NAMES),
    "insert": lambda: described(wrapped("test_resnet", pools="insert"), NAMES),
}
SIZES = {**{tag: (28, 28) for tag in timm.list_pretrained("swwae*") if "." in tag}}


# Of tests/models/test_backbones.py, and those that the documents train; and the largest of the paper's nets.
LARGER = {
    **{
        name: lambda name=name: described(wrapped(name, decoder="light"), NAMES)
        for name in (
            "resnet18", "tf_efficientnet_lite0", "test_convnext", "test_nfnet", "resnetblur18", "lcnet_035",
            "ese_vovnet19b_slim_dw", "cs3darknet_focus_s", "pvt_v2_b0", "mobilevit_xxs", "inception_next_atto",
            "test_mambaout", "starnet_s050",
        )
    },
    "swwae_cifar_vgg": lambda: described(timm.create_model("swwae_cifar_vgg", num_classes=4), NAMES),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", LARGER)
def test_onnx_and_pt2_of_larger_nets(name: str, tmp_path: Path, torch_alone: Program, captured_once: None) -> None:
    model = LARGER[name]()
    for format in ("pt2", "onnx"):
        export_model(model, swwae_zoo.preprocess_of(model), NAMES, format, tmp_path / f"a.{format}")
    check_pt2(tmp_path / "a.pt2", model, model.img_size, torch_alone)
    check_onnx(tmp_path / "a.onnx", model, model.img_size)


@pytest.mark.parametrize("name", MODELS)
def test_onnx_and_pt2(name: str, tmp_path: Path, torch_alone: Program, captured_once: None) -> None:
    model = MODELS[name]()
    prepare = swwae_zoo.preprocess_of(model)
    names = model.pretrained_cfg.get("label_names") or ()
    size = tuple(export_model(model, prepare, names, "pt2", tmp_path / "a.pt2").metadata["preprocessing"]["input_size"])
    assert size[1:] == SIZES.get(name, size[1:])
    told = check_pt2(tmp_path / "a.pt2", model, size[1:], torch_alone)
    export_model(model, prepare, names, "onnx", tmp_path / "a.onnx")
    props = check_onnx(tmp_path / "a.onnx", model, size[1:])
    classes = list(names) or [str(number) for number in range(model.num_classes)]
    for facts in (told, {**props, **{key: json.loads(props[key]) for key in ("class_names", "preprocessing")}}):
        assert facts["class_names"] == classes and facts["version"] == swwae_zoo.__version__
        assert facts["model"] == model.pretrained_cfg["architecture"]
        assert facts["preprocessing"]["contrast"] == prepare.contrast


@pytest.mark.parametrize("backbone", ["resnet18", "test_resnet", "test_efficientnet"])
def test_timm_alone_loads_the_backbone(backbone: str, tmp_path: Path, timm_alone: Program) -> None:
    model = described(wrapped(backbone), NAMES)
    as_loaded = copy.deepcopy(model).to(memory_format=torch.channels_last)  # as a run is
    export_model(as_loaded, swwae_zoo.preprocess_of(model), NAMES, "timm", tmp_path / "plain")
    x = torch.randn(3, 3, 64, 64)
    torch.save(x, tmp_path / "in")
    told = timm_alone(tmp_path / "plain", tmp_path / "in", tmp_path / "result")
    cfg = model.pretrained_cfg
    assert told == [list(NAMES), list(cfg["mean"]), list(cfg["std"]), [3, 64, 64], 1.0]
    with torch.no_grad():
        assert torch.equal(torch.load(tmp_path / "result"), model(x))


def test_what_has_no_form(tmp_path: Path) -> None:
    plain = described(timm.create_model("swwae_mnist"))
    prepare = swwae_zoo.preprocess_of(plain)
    for model, how, said in (
        (plain, "timm", "notation.*use --format onnx"),
        (described(wrapped("test_resnet", pools="insert")), "timm", "insert"),
        (timm.create_model("swwae_mnist", num_classes=0, global_pool=""), "onnx", "no classifier"),
        (plain, "tflite", "expected one of onnx, pt2, timm"),
    ):
        with pytest.raises(ValueError, match=said):
            export_model(model, prepare, (), how, tmp_path / "x")
    with pytest.raises(ValueError, match="expected 18 to"):
        export_model(plain, prepare, (), "onnx", tmp_path / "x", opset=3)
    with pytest.raises(ValueError, match="leave it out"):
        export_model(plain, prepare, (), "pt2", tmp_path / "x", opset=18)
    make_run(tmp_path / "unsupervised", lambda_nll=0.0, lambda_rec=1.0)
    with pytest.raises(ValueError, match="learnt without labels"):
        export(tmp_path / "unsupervised", "pt2", tmp_path / "x")
    assert not (tmp_path / "x").exists()


def test_a_file_that_is_wrong_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = described(timm.create_model("swwae_mnist"))
    path = tmp_path / "a.pt2"
    path.write_text("as it was")
    true = module._run_pt2
    monkeypatch.setattr(module, "_run_pt2", lambda *args: [out + 0.01 for out in true(*args)])
    with pytest.raises(ValueError, match="other probabilities"):
        export_model(model, swwae_zoo.preprocess_of(model), (), "pt2", path)
    assert path.read_text() == "as it was" and [each.name for each in tmp_path.iterdir()] == ["a.pt2"]


def test_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    net = make_run(tmp_path / "my run")
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, ["export", "my run", "--opset", "18"])
    assert done.exit_code == 0 and done.stdout == "my_run.onnx\n", done.output
    assert "uint8 (B, 1, 32, 32)" in done.stderr and "scale to cover 32x32, crop to the centre" in done.stderr
    check_onnx(tmp_path / "my_run.onnx", net, (32, 32))
    for args in (
        ["nowhere"],
        ["my run", "--format", "coreml"],
        ["my run", "--format", "timm"],
        ["my run", "--out", "."],
    ):
        done = CliRunner().invoke(app, ["export", *args])
        assert done.exit_code == 2 and done.stderr.startswith("error: ") and done.stderr.count("\n") == 1, done.stderr
