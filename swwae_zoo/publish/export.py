"""A trained classifier for other programs: ONNX, a torch.export program, or the plain backbone as a timm model.

onnx and pt2 hold the whole way from pixels to probabilities: uint8 images (B, C, H, W) in, (B, num_classes) out, any B.
Nothing is called written before the file, read back, gives what the model gives.
"""

from __future__ import annotations

import contextlib
import copy
import errno
import json
import logging
import os
import re
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import safetensors.torch
import timm
import torch
from timm.models._hub import save_config_for_hf
from timm.models._input import get_model_args
from torch import Tensor, nn

from swwae_zoo.analysis.load import load
from swwae_zoo.data import Preprocess
from swwae_zoo.models._base import SWWAE
from swwae_zoo.models._data_config import contrast_of, stored_size
from swwae_zoo.models.wrapped.model import WrappedSWWAE
from swwae_zoo.training.places import CHOICES, HUB, is_registered
from swwae_zoo.utils.files import atomic_write, output_path, user_path, utf8_path
from swwae_zoo.utils.text import printable
from swwae_zoo.version import __version__

__all__ = ["FORMATS", "Exported", "export", "export_model"]

FORMATS = ("onnx", "pt2", "timm")
TOLERANCE = 1e-4  # of a probability
BATCHES = (1, 3)  # sizes that a file is tried with
METADATA = "metadata.json"  # name of the facts in a pt2 file
# Of a backbone's pretrained_cfg: what holds for other weights too; and of ours: how its images were prepared.
KEPT = ("architecture", "fixed_input_size", "pool_size", "first_conv", "classifier", "license", "paper_ids")
PREPARED = ("input_size", "mean", "std", "interpolation", "crop_pct", "crop_mode")
CONFIG, WEIGHTS = "config.json", "model.safetensors"
EXPORTED = {"exported_by": "swwae_zoo"}  # in config.json: such a folder may be replaced, any other model's not
MAX_CONFIG = 2**20  # bytes


class Exported(NamedTuple):
    """path: the file, or timm's folder. metadata: what stands in it. difference: largest, of a probability or logit."""

    path: Path
    metadata: dict[str, Any]
    difference: float

    @property
    def about(self) -> str:
        """What the file takes and gives, in a line."""
        if "preprocessing" not in self.metadata:
            return "timm's own model, which timm.create_model loads as local-dir:; its logits are equal to the bit"
        names = self.metadata["class_names"]
        return (
            f"{self.metadata['preprocessing']['input']} -> probabilities (B, {len(names)}); pictures of another size: "
            f"{self.metadata['preprocessing']['pictures']}; read back, it differs from the model by at most "
            f"{self.difference:.1g}"
        )


class Classifier(nn.Module):
    """uint8 images (B, C, H, W) -> class probabilities (B, num_classes), prepared as in training."""

    def __init__(self, model: nn.Module, prepare: Preprocess):
        super().__init__()
        self.model, self.prepare = model, prepare

    def forward(self, images: Tensor) -> Tensor:
        return self.model(self.prepare(images)).float().softmax(1)


def export(
    place: str | Path,
    format: str = "onnx",
    out: str | Path | None = None,
    opset: int | None = None,
    weights: str | None = None,
) -> Exported:
    """Writes a trained model for other programs.

    Args:
        place: what `swwae_zoo.load` takes: a run, a folder, "hf-hub:ORG/NAME", or a tag.
        format: "onnx", "pt2" or "timm".
        out: the file, or timm's folder; by default the place's name with the format's ending, in the working folder.
        opset: of ONNX; the exporter's own by default.
        weights: of a run: "last" (the default) or "best".

    Raises:
        ValueError: no trained classifier there, a format that it has no form in, or a library that is missing.
    """
    _check_format(format, opset)
    if out is not None:  # before anything takes time
        _timm_folder(user_path(out)) if format == "timm" else _graph_file(user_path(out), format)
    trained = load(place, weights, device="cpu")
    trained.check_classifier()
    if out is None:
        folder = trained.folder.resolve()
        folder = folder.parent if folder.name in CHOICES and (folder.parent / "config.toml").is_file() else folder
        base = str(place).rpartition("/")[2] if str(place).startswith(HUB) or is_registered(str(place)) else folder.name
        name = re.sub(r"[^\w.-]+", "_", base).lstrip(".-") or "model"
        out = f"{name}-timm" if format == "timm" else f"{name}.{format}"
    names = trained.model.pretrained_cfg.get("label_names") or ()
    return export_model(trained.model, trained.prepare, names, format, out, opset)


def export_model(
    model: SWWAE,
    prepare: Preprocess,
    label_names: Sequence[str],
    format: str,
    out: str | Path,
    opset: int | None = None,
) -> Exported:
    """`export` of a model that is loaded already.

    Args:
        model: left in eval mode and on the CPU.
        prepare: uint8 images -> its input, as in training.
        label_names: in the order of the logits; empty: they are not known.
        format, out, opset: as for `export`.
    """
    _check_format(format, opset)
    out = user_path(out)
    if model.num_classes == 0:
        raise ValueError("the model has no classifier (num_classes = 0), so there are no probabilities to export")
    model = model.cpu().eval()
    if format == "timm":
        return _export_timm(model, prepare, label_names, out)
    _graph_file(out, format).parent.mkdir(parents=True, exist_ok=True)
    return _export_graph(model, prepare, label_names, format, out, opset)


def _graph_file(out: Path, format: str) -> Path:
    """Where a file is written, in a folder that may be missing; raises as `output_path` does."""
    return output_path(out, (f".{format}",)) if out.parent.is_dir() else out


def _check_format(format: str, opset: int | None) -> None:
    if format not in FORMATS:
        raise ValueError(f"format: got {printable(repr(format), 50)}, expected one of {', '.join(FORMATS)}")
    if opset is not None and format != "onnx":
        raise ValueError(f"opset {opset}: only --format onnx has one, leave it out with {format}")
    if opset is not None and not 18 <= opset <= 25:
        raise ValueError(f"opset: got {opset}, expected 18 to 25: what torch's exporter writes")
    if format == "onnx":
        try:
            import onnx  # noqa: F401
            import onnxruntime  # noqa: F401
            import onnxscript  # noqa: F401
        except ImportError as error:
            raise ValueError(f"--format onnx needs {error.name}: pip install 'swwae_zoo[export]'") from None


def describe(model: SWWAE, prepare: Preprocess, label_names: Sequence[str], size: tuple[int, int]) -> dict[str, Any]:
    """What a reader of the file has to know, for JSON."""
    cfg = model.pretrained_cfg
    names = [str(name) for name in label_names] or [str(number) for number in range(model.num_classes)]
    pictures = f"scale to cover {size[0]}x{size[1]}, crop to the centre"
    if cfg.get("crop_mode") == "squash":
        pictures = f"scale to {size[0]}x{size[1]}, whatever their shape"
    return {
        "model": cfg.get("architecture") or type(model).__name__,
        "version": __version__,
        "class_names": names,
        "preprocessing": {
            "included": True,
            "input": f"uint8 (B, {model.in_chans}, {size[0]}, {size[1]}), 0 to 255",
            "input_size": [model.in_chans, *size],
            "pictures": f"{pictures} (bilinear, antialiased)",
            "model_size": list(prepare.img_size),
            "contrast": prepare.contrast,
            "mean": prepare.mean.flatten().tolist(),
            "std": prepare.std.flatten().tolist(),
        },
    }


# --- graphs -----------------------------------------------------------------------------------------


def _export_graph(
    model: SWWAE, prepare: Preprocess, label_names: Sequence[str], format: str, out: Path, opset: int | None
) -> Exported:
    size = stored_size(model.pretrained_cfg, model.img_size)
    whole = Classifier(model, prepare).eval()
    random = torch.Generator().manual_seed(0)
    batches = [
        torch.randint(256, (count, model.in_chans, *size), dtype=torch.uint8, generator=random) for count in BATCHES
    ]
    with torch.no_grad():
        expected = [whole(images) for images in batches]
        program = _captured(whole, batches[-1])
    metadata = describe(model, prepare, label_names, size)
    with atomic_write(out) as part:
        if format == "onnx":
            _write_onnx(program, metadata, part, opset)
            got = _run_onnx(part, batches)
        else:
            with _quiet(), open(part, "wb") as file:
                torch.export.save(program, file, extra_files={METADATA: json.dumps(metadata)})
            got = _run_pt2(part, batches)
        difference = max(float((a - b).abs().max()) for a, b in zip(got, expected, strict=True))
        if not difference <= TOLERANCE:
            raise ValueError(
                f"the {format} file gives other probabilities than the model (by up to {difference:.2g}), so nothing "
                "was written: try another format"
            )
    return Exported(out, metadata, difference)


def _captured(whole: Classifier, images: Tensor) -> torch.export.ExportedProgram:
    """The computation as a graph of torch's own operators, none of this package's."""
    batch = torch.export.Dim("batch", min=1)
    try:
        with _quiet():
            program = torch.export.export(whole, (images,), dynamic_shapes=({0: batch},), strict=False)
    except Exception as error:  # torch's exporter raises all kinds, for whatever it can't capture
        line = printable(" ".join(str(error).split()), 300)
        raise ValueError(f"torch.export can't capture this model, so it has no onnx or pt2 form: {line}") from error
    own = {str(node.target) for node in program.graph.nodes if str(node.target).startswith("swwae_zoo")}
    if own:
        raise ValueError(f"the graph holds operators that only swwae_zoo knows ({', '.join(sorted(own))})")
    return program


def _write_onnx(program: torch.export.ExportedProgram, metadata: dict[str, Any], path: Path, opset: int | None) -> None:
    import onnx

    with _quiet():
        made = torch.onnx.export(
            program,
            dynamo=True,
            input_names=["images"],
            output_names=["probabilities"],
            opset_version=opset,
            verbose=False,
            optimize=True,
        )
    assert made is not None
    proto = made.model_proto
    onnx.helper.set_model_props(
        proto,
        {
            key: value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
            for key, value in metadata.items()
        },
    )
    for value in (*proto.graph.input, *proto.graph.output):  # torch's own names of the batch are s0, s77, ...
        value.type.tensor_type.shape.dim[0].dim_param = "batch"
    domains = {node.domain for node in proto.graph.node} - {"", "ai.onnx"}
    assert not domains, f"operators of {domains} in the graph"
    try:
        path.write_bytes(proto.SerializeToString())
    except ValueError as error:  # protobuf's limit
        raise ValueError("the model is larger than the 2 GB of an ONNX file: use --format pt2") from error


def _run_onnx(path: Path, batches: Sequence[Tensor]) -> list[Tensor]:
    import onnxruntime

    session = onnxruntime.InferenceSession(path.read_bytes(), providers=["CPUExecutionProvider"])
    return [torch.from_numpy(session.run(None, {"images": images.numpy()})[0]) for images in batches]


def _run_pt2(path: Path, batches: Sequence[Tensor]) -> list[Tensor]:
    with _quiet(), open(path, "rb") as file, torch.no_grad():
        program: Any = torch.export.load(file).module()
        return [program(images) for images in batches]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without what torch's exporters have to say to their developers."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "torch.export", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings(), contextlib.redirect_stdout(None), contextlib.redirect_stderr(None):
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)


# --- timm -------------------------------------------------------------------------------------------


def _export_timm(model: SWWAE, prepare: Preprocess, label_names: Sequence[str], out: Path) -> Exported:
    """The plain backbone as a folder that timm loads as local-dir:, without swwae_zoo; logits equal to the bit."""
    backbone = _plain_backbone(model)
    given, out = out, _timm_folder(out)
    own, trained = backbone.pretrained_cfg, model.pretrained_cfg
    cfg = {key: value for key, value in own.items() if key in KEPT}
    cfg |= {key: trained[key] for key in PREPARED if key in trained} | {"num_classes": model.num_classes}
    if label_names:
        cfg["label_names"] = list(label_names)
    if contrast_of(model.pretrained_cfg) != "none":
        cfg["description"] = (
            "Each image less its own mean, over its own standard deviation (all channels and pixels together, of the "
            "0..1 range, at least 0.01), in the place of mean and std: timm's transforms don't do that."
        )
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name[:50]}-") as made:
        folder = Path(made) / "new"
        folder.mkdir()
        kept, backbone.pretrained_cfg = own, cfg
        try:
            args = {key: value for key, value in (get_model_args(backbone) or {}).items() if key != "num_classes"}
            save_config_for_hf(backbone, str(folder / CONFIG), {**({"model_args": args} if args else {}), **EXPORTED})
        finally:
            backbone.pretrained_cfg = kept
        state = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in backbone.state_dict().items()}
        safetensors.torch.save_file(state, folder / WEIGHTS, metadata={"format": "pt"})
        difference = _timm_difference(model, folder)
        if difference != 0:
            raise ValueError(
                f"timm's own {cfg.get('architecture')} gives other logits than this backbone (by up to "
                f"{difference:.2g}), so nothing was written: use --format onnx or pt2"
            )
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        _put(folder, out, Path(made) / "old")
    return Exported(given, config, difference)


def _timm_folder(out: Path) -> Path:
    """Where the folder is written: a link's own place is left to the link.

    Raises:
        ValueError: something is there that is neither an empty folder nor an earlier export.
    """
    shown, out = printable(out), utf8_path(out.resolve())
    if out.exists() and not out.is_dir():
        raise ValueError(f"{shown} is {'a file' if out.is_file() else 'no folder'}: give another --out, a new folder")
    names = set(os.listdir(out)) if out.is_dir() else set()
    if names - {CONFIG, WEIGHTS}:
        raise ValueError(f"{shown} holds other files: give another --out, a new folder")
    if names and not _is_export(out / CONFIG):
        raise ValueError(f"{shown} holds a model that is no earlier export: give another --out, a new folder")
    return out


def _is_export(config: Path) -> bool:
    try:
        kept = json.loads(config.read_bytes() if config.is_file() and config.stat().st_size < MAX_CONFIG else b"{}")
    except (ValueError, RecursionError):
        return False
    return isinstance(kept, dict) and EXPORTED.items() <= kept.items()


def _put(folder: Path, out: Path, old: Path) -> None:
    """Moves a folder to ``out`` as a whole, and what was there to ``old``: never weights beside another's config."""
    for turn in range(100):  # another process that puts its own there each time
        with contextlib.suppress(FileNotFoundError):
            os.rename(out, old.with_name(f"{old.name}{turn}"))
        try:
            os.rename(folder, out)
            return
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
    raise ValueError(f"{printable(out)} is being written by other processes: give another --out")


def _plain_backbone(model: SWWAE) -> Any:
    why = None
    if not isinstance(model, WrappedSWWAE):
        why = "its encoder is of the paper's notation, which timm without swwae_zoo does not know"
    elif not model.is_timm or model.classifier is not None:
        why = f"its backbone {printable(model.name)} is no timm model"
    elif model.pools != "tap":
        why = 'pools="insert" changed what its backbone computes, so timm\'s own model is another'
    if why:
        raise ValueError(f"no --format timm of this model: {why}; use --format onnx or pt2")
    assert isinstance(model, WrappedSWWAE)
    return model.backbone


def _timm_difference(model: SWWAE, folder: Path) -> float:
    try:
        plain = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
        assert type(plain).__module__.startswith("timm."), type(plain)
        x = torch.randn(3, model.in_chans, *model.img_size, generator=torch.Generator().manual_seed(0))
        ours: Any = copy.deepcopy(model).to(memory_format=torch.contiguous_format)  # a run's is channels-last
        with torch.no_grad():
            return float((plain(x) - ours(x)).abs().max())
    except (RuntimeError, TypeError, KeyError) as error:
        line = printable(" ".join(str(error).split()), 200)
        raise ValueError(
            f"timm can't build this backbone from its saved arguments: {line}; use --format onnx or pt2"
        ) from error
