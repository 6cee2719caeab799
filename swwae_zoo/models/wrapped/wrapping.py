"""`wrap`: turns any timm convnet, or any module of your own, into a SWWAE.

`timm.create_model("swwae_wrap", backbone="resnet50")` is the same through timm's registry; recipes and saved models
use it, with the backbone as an option.
"""

from __future__ import annotations

import difflib
import errno
import inspect
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors import SafetensorError
from timm.models import (
    build_model_with_cfg,
    generate_default_cfgs,
    get_pretrained_cfg,
    load_checkpoint,
    load_state_dict,
    register_model,
)
from timm.models._builder import resolve_pretrained_cfg
from timm.models._input import get_model_args
from torch import Tensor, nn
from torch._dynamo.eval_frame import OptimizedModule
from torch.nn.parameter import is_lazy

from swwae_zoo.hub.config import Rule, either, flag, listed, number, one_of, register_arguments, text, whole
from swwae_zoo.models._base import SWWAE, pair_of
from swwae_zoo.models._image_channels import fit_image_channels
from swwae_zoo.models._pretrained import resolve, source_of_backbone
from swwae_zoo.models.swwae import SWWAE_ARGS
from swwae_zoo.models.wrapped.model import DECODERS, POOL_MODES, WrappedSWWAE
from swwae_zoo.models.wrapped.probe import probe

__all__ = ["wrap"]

DEFAULT = "resnet18"
IS_ONE = "is a SWWAE, which has its decoder already; expected a plain backbone"
NEAR = {  # parameters, in millions, of models that work
    "resnet10t": 5.4,
    "resnet18": 11.7,
    "convnext_tiny": 28.6,
    "resnet50": 25.6,
    "convnext_atto": 3.7,
    "convnext_base": 88.6,
    "convnext_large": 197.8,
}
CFG = {
    "input_size": (3, 224, 224),
    "num_classes": 1000,
    "mean": (0.485, 0.456, 0.406),
    "std": (0.229, 0.224, 0.225),
    "interpolation": "bicubic",
    "crop_pct": 0.95,
}
AS_SAVED = ("num_classes", "input_size", "mean", "std", "interpolation", "crop_pct", "crop_mode", "license")


def wrap(
    backbone: str | nn.Module,
    *,
    pretrained: bool = False,
    pools: str = "tap",
    decoder: str = "mirror",
    decoder_depth: int | None = None,
    in_chans: int = 3,
    num_classes: int | None = None,
    img_size: int | tuple[int, int] | None = None,
    stages: Sequence[str] | str | None = None,
    backbone_checkpoint: str | Path | None = None,
    **timm_kwargs: Any,
) -> WrappedSWWAE:
    """A backbone with a mirrored decoder: the same logits, and a reconstruction and middles besides.

    Args:
        backbone: a timm name (with a tag, or "hf-hub:...", "local-dir:..."), a timm model, or any module that takes
            images.
        pretrained: load the backbone's weights.
        pools: "tap": the backbone's function stays as it is, bit for bit; pools beside its downsampling steps give the
            where. "insert": each step gets stride 1 and a switch-returning pool after it, for training from scratch.
        decoder: "mirror": as many convolutions as the backbone has spatial ones; "light": one for each step.
        decoder_depth: number of convolutions for each step, instead.
        in_chans: channels of the images.
        num_classes: width of the logits; the backbone's own by default.
        img_size: (H, W) that the model is built for; the backbone's own by default.
        stages: names of modules (or one string of them, with commas) whose outputs to capture: the maps that the
            reconstruction goes through and is compared with.
        backbone_checkpoint: a file of the plain backbone's weights, of any kind that timm loads.
        timm_kwargs: further arguments of `timm.create_model` for a backbone given by name.

    Raises:
        ValueError: a backbone that can't be wrapped, wrong stages or options; the message says what to do.
    """
    _check_numbers(in_chans, num_classes, img_size)
    stages = stages.split(",") if isinstance(stages, str) else stages
    options = {
        "pools": pools,
        "decoder": decoder,
        "decoder_depth": decoder_depth,
        "stages": list(stages) if stages else None,
    }
    if isinstance(backbone, str):
        model: Any = timm.create_model(
            "swwae_wrap",
            backbone=backbone,
            backbone_pretrained=pretrained or None,
            in_chans=None if in_chans == 3 else in_chans,
            num_classes=num_classes,
            img_size=img_size,
            **options,
            **timm_kwargs,
        )
    else:
        if not isinstance(backbone, nn.Module):
            raise ValueError(f"backbone: got a {type(backbone).__name__}, expected a timm name or a module")
        if isinstance(backbone, SWWAE):
            raise ValueError(f"backbone: {type(backbone).__name__} {IS_ONE}")
        if pretrained or timm_kwargs:
            given = "pretrained" if pretrained else next(iter(timm_kwargs))
            raise ValueError(f"{given}: only for a backbone given by its name; build the module with it")
        model = _wrap_module(backbone, options, in_chans, num_classes, img_size)
    if backbone_checkpoint is not None:
        load_backbone(model, backbone_checkpoint)
    return model


def _check_numbers(in_chans: Any, num_classes: Any, img_size: Any) -> None:
    for name, value, least in (("in_chans", in_chans, 1), ("num_classes", num_classes, 0)):
        if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < least):
            raise ValueError(f"{name}: got {value!r}, expected a whole number of at least {least}")
    sides = tuple(img_size) if isinstance(img_size, (tuple, list)) else (img_size, img_size)
    if img_size is not None and (len(sides) != 2 or not all(isinstance(side, int) and side > 0 for side in sides)):
        raise ValueError(f"img_size: got {img_size!r}, expected the side of the images or (height, width)")


def load_backbone(model: WrappedSWWAE, path: str | Path) -> bool:
    """Loads a file of the plain backbone's weights as timm reads it: safetensors, or a pickle with weights_only=True.

    A classifier of another number of classes is left out, as timm does, and the model's own starts at zero: its first
    guesses are even, and its first gradients leave what the backbone has learnt alone.

    Returns:
        Whether the classifier was taken too.

    Raises:
        ValueError: it can't be read, or is another backbone's.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(errno.ENOENT, "no such file", str(path))
    try:
        if Path(path).suffix.lower() in (".npz", ".npy"):  # which each model of timm's reads in its own way
            load_checkpoint(model.backbone, str(path))
            return True
        filtered = load_state_dict(str(path), use_ema=True, device="cpu", weights_only=True)
        own = model.backbone.state_dict()
        named = model.backbone.pretrained_cfg.get("classifier") if model.is_timm else None
        heads = (named,) if isinstance(named, str) else tuple(named or ())
        fits = True
        for key in [key for key in filtered if key.rpartition(".")[0] in heads]:
            if key in own and own[key].shape != filtered[key].shape:
                del filtered[key]
                fits = False
        missing, unexpected = model.backbone.load_state_dict(filtered, strict=False)
        wrong = [*unexpected, *(key for key in missing if fits or key.rpartition(".")[0] not in heads)]
        if wrong:
            raise ValueError(f"{len(wrong)} of its tensors are others, the first is {wrong[0]}")
        if not fits:
            zero_classifier(model.backbone)
        return fits
    except (OSError, RuntimeError, ValueError, KeyError, SafetensorError) as error:
        raise ValueError(
            f"backbone_checkpoint: {path} can't be loaded into {model.name}: {' '.join(str(error).split()):.300}"
        ) from error


def zero_classifier(backbone: Any) -> None:
    """Sets weights and biases of a timm model's classifier to zero."""
    found = backbone.get_classifier()
    for module in found if isinstance(found, (tuple, list, nn.ModuleList)) else (found,):
        for parameter in module.parameters():
            nn.init.zeros_(parameter)


# --- modules given as objects -------------------------------------------------------------------------


def _wrap_module(
    backbone: Any, options: Mapping[str, Any], in_chans: int, num_classes: int | None, img_size: Any
) -> WrappedSWWAE:
    cfg = dict(getattr(backbone, "pretrained_cfg", None) or {})
    is_timm = bool(cfg) and hasattr(backbone, "forward_head")
    in_chans = getattr(backbone, "in_chans", in_chans) if is_timm else in_chans
    size = pair_of(img_size) if img_size is not None else tuple(cfg.get("input_size", (3, 224, 224))[1:])
    name = cfg.get("architecture") or type(backbone).__name__
    if is_timm and num_classes is not None and num_classes != backbone.num_classes:
        backbone.reset_classifier(num_classes)
    model: Any = build(backbone, name, options, in_chans, num_classes, size)
    model.pretrained_cfg = model.default_cfg = _cfg_of(cfg, in_chans, backbone, size, model.num_classes)
    args = dict(get_model_args(backbone)) if is_timm else {}
    kept = {key: value for key, value in options.items() if value is not None}
    model._model_args = {
        **args,
        "backbone": name if is_timm else f"module:{name}",
        **kept,
        "in_chans": in_chans,
        "num_classes": model.num_classes,
        "img_size": list(size),
    }
    return model


def build(
    backbone: nn.Module,
    name: str,
    options: Mapping[str, Any],
    in_chans: int,
    num_classes: int | None,
    size: tuple[int, int],
) -> WrappedSWWAE:
    """A `WrappedSWWAE` of a backbone; whatever is wrong with it becomes a one-line error.

    Raises:
        ValueError: as `wrap` says.
    """
    options = dict(options)
    _check_module(backbone, name)
    is_timm = hasattr(backbone, "forward_features") and hasattr(backbone, "forward_head")
    given = options.pop("stages", None)
    stages = _stage_names(backbone, given, name)
    _check_arguments(backbone, name, is_timm)
    try:
        return WrappedSWWAE(
            backbone,
            in_chans=in_chans,
            img_size=size,
            stages=stages,
            num_classes=num_classes,
            name=name,
            stages_given=bool(given),
            **options,
        )
    except ValueError as error:
        if not str(error).startswith(("its ", "the backbone's")):
            raise
        raise ValueError(f"{name} can't be wrapped: {error}; {_near(backbone)}") from None
    except (RuntimeError, AssertionError, IndexError, TypeError, AttributeError, ZeroDivisionError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(
            f"{name} does not take images of {in_chans}x{size[0]}x{size[1]}: {reason:.200}; "
            f"{_size_that_works(backbone, in_chans, size)}"
        ) from error


def _check_module(backbone: nn.Module, name: str) -> None:
    for module in backbone.modules():
        if isinstance(module, (torch.jit.ScriptModule, OptimizedModule)):
            kind = "compiled" if isinstance(module, OptimizedModule) else "scripted"
            raise ValueError(
                f"{name} is or holds a {kind} module, whose operations can't be seen: wrap the plain module, and "
                "compile the model that wrap returns"
            )
    lazy = [parameter for parameter, value in backbone.named_parameters() if is_lazy(value)]
    if lazy:
        raise ValueError(
            f"{name} has lazy layers ({lazy[0]}), without weights yet: run it once on images, then wrap it"
        )


def _near(backbone: nn.Module) -> str:
    millions = sum(parameter.numel() for parameter in backbone.parameters()) / 1e6
    near = min(NEAR, key=lambda name: abs(NEAR[name] - millions))
    return f"a convnet near its size is {near}"


def _size_that_works(backbone: nn.Module, in_chans: int, size: tuple[int, int]) -> str:
    """Tries larger images, on fake tensors."""
    side = max(size)
    while side < 512:
        side = side * 2 if side >= 32 else 32
        try:
            probe(backbone, in_chans, (side, side), {})
        except Exception:
            continue
        return f"it takes {side}x{side}: give img_size={side}, and resize the images"
    return "give the size and the channels that it was built for, with img_size and in_chans"


def _check_arguments(backbone: Any, name: str, is_timm: bool) -> None:
    takes = inspect.signature(backbone.forward_features if is_timm else backbone.forward).parameters.values()
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    needed = [
        p.name
        for p in takes
        if p.default is inspect.Parameter.empty and (p.kind in kinds or p.kind is inspect.Parameter.KEYWORD_ONLY)
    ]
    if len(needed) > 1:
        raise ValueError(
            f"{name}.forward needs {', '.join(needed)}: expected images alone; "
            f"wrap a module that fills in {', '.join(needed[1:])}"
        )


def _stage_names(backbone: nn.Module, stages: Sequence[str] | str | None, name: str) -> dict[str, str]:
    """Modules to capture, and whether their outputs ("out") or inputs ("in"): the caller's, else timm's own.

    Raises:
        ValueError: no such module; the nearest is in the message.
    """
    known = dict(backbone.named_modules())
    if stages:
        stages = stages.split(",") if isinstance(stages, str) else stages
        for stage in stages:
            if stage not in known or not stage:
                children = [child for child, _ in backbone.named_children()]
                near = difflib.get_close_matches(str(stage), list(filter(None, known)), n=1)
                hint = f"did you mean {near[0]}? It" if near else "it"
                raise ValueError(
                    f"stages: {name} has no module {stage!r}; {hint} has {', '.join(children)}, and those below them"
                )
        return dict.fromkeys(stages, "out")
    info = getattr(backbone, "feature_info", None) or []
    infos = info if isinstance(info, list) else getattr(info, "info", [])
    return {
        entry["module"]: "in" if entry.get("hook_type") == "forward_pre" else "out"
        for entry in infos
        if isinstance(entry, dict) and entry.get("module") in known
    }


# --- the registry ---------------------------------------------------------------------------------------


def _cfg_of(
    cfg: Mapping[str, Any], in_chans: int, backbone: nn.Module, size: tuple[int, int], num_classes: int | None = None
) -> dict[str, Any]:
    """The backbone's configuration as the wrapped model's: same images, names of layers with "backbone." in front."""
    kept = {
        key: cfg[key]
        for key in ("interpolation", "crop_pct", "crop_mode", "mean", "std", "fixed_input_size", "license")
        if cfg.get(key) is not None
    }
    modules = dict(backbone.named_modules())
    for key in ("first_conv", "classifier"):
        names = [cfg[key]] if isinstance(cfg.get(key), str) else cfg.get(key) or ()
        found = tuple(f"backbone.{name}" for name in names if name in modules)
        if names:  # what this variant of a family does not have is left out
            kept[key] = found[0] if len(found) == 1 else found or None
    for key in ("mean", "std"):
        values = tuple(kept.get(key, CFG[key]))
        kept[key] = values if len(values) == in_chans else (sum(values) / len(values),) * in_chans
    return {
        **CFG,
        **kept,
        "architecture": "swwae_wrap",
        "input_size": (in_chans, *size),
        "num_classes": backbone.num_classes if num_classes is None else num_classes,
        "paper_ids": "arXiv:1506.02351",
    }


def _backbone_name(name: Any) -> bool:
    """Whether it is a registered model's name: no path, no address, no SWWAE in a SWWAE."""
    return (
        isinstance(name, str)
        and timm.is_model(name.partition(".")[0])
        and not name.startswith("swwae")
        and ":" not in name
    )


register_arguments(
    ["swwae_wrap"],
    {
        "backbone": Rule(_backbone_name, "the name of a timm model"),
        "pools": one_of(*POOL_MODES),
        "decoder": one_of(*DECODERS),
        "decoder_depth": whole(1, 100),
        "stages": either(text(4000), listed(text(200), 1, 100)),
        **{key: SWWAE_ARGS[key] for key in ("num_classes", "in_chans", "img_size")},
        "global_pool": text(100),
        **dict.fromkeys(
            ("drop_rate", "drop_path_rate", "attn_drop_rate", "proj_drop_rate", "block_drop_rate"), number(0, 1)
        ),
        "output_stride": whole(8, 32),
        "zero_init_last": flag(),
        "act_layer": text(50),
        "norm_layer": text(50),
    },
    others=True,
)

default_cfgs = generate_default_cfgs(
    {
        "swwae_wrap": {
            **CFG,
            "first_conv": "backbone.conv1",
            "classifier": "backbone.fc",
            "license": "mit",
            "paper_ids": "arXiv:1506.02351",
        }
    }
)


def _create_backbone(name: str, pretrained: bool, img_size: Any, cache_dir: Any, args: Mapping[str, Any]) -> Any:
    """A timm model by its name.

    Raises:
        ValueError: unknown, a SWWAE itself, or arguments it does not take.
    """
    if name.startswith("module:"):
        raise ValueError(
            f"these weights belong to a module of your own, {name.removeprefix('module:')}: build it, "
            "swwae_zoo.wrap it, and load model.safetensors into that"
        )
    sized = dict(args)
    try:
        cfg = None if ":" in name else get_pretrained_cfg(name, allow_unregistered=True)
        if img_size is not None and cfg is not None and cfg.fixed_input_size:
            sized["img_size"] = img_size
        place, overlay = source_of_backbone(name, pretrained, cache_dir)
        how = {"pretrained": pretrained, "pretrained_cfg_overlay": overlay or None, "cache_dir": cache_dir}
        try:
            model: Any = timm.create_model(place, **how, **sized)
        except TypeError:
            if "img_size" not in sized:
                raise
            model = timm.create_model(place, **how, **args)
        if overlay:
            model.pretrained_cfg.pop("file", None)  # a place in this machine's cache, no part of what the backbone is
    except (RuntimeError, TypeError, OSError) as error:
        names = timm.list_models(exclude_filters="swwae*")
        near = difflib.get_close_matches(name.partition(".")[0], names, n=1)
        hint = f"; did you mean {near[0]}?" if "Unknown model" in str(error) and near else ""
        raise ValueError(f"backbone: {name} can't be built: {' '.join(str(error).split()):.200}{hint}") from error
    if isinstance(model, SWWAE):
        raise ValueError(f"backbone: {name} {IS_ONE}")
    return model


@register_model
def swwae_wrap(pretrained: bool = False, **kwargs: Any) -> SWWAE:
    """`wrap` by the registry: the options of it, ``backbone`` a timm name; further ones go to the backbone."""
    cfg, overlay, saved = kwargs.get("pretrained_cfg"), kwargs.get("pretrained_cfg_overlay") or {}, None
    if isinstance(cfg, dict) and cfg.get("source") in ("hf-hub", "local-dir") or overlay.get("hf_hub_id"):
        kwargs, saved = resolve("swwae_wrap", pretrained, {}, kwargs)
    cfg, overlay = kwargs.pop("pretrained_cfg", None), kwargs.pop("pretrained_cfg_overlay", None)
    name = kwargs.pop("backbone", DEFAULT)
    options = {key: kwargs.pop(key) for key in ("pools", "decoder", "decoder_depth", "stages") if key in kwargs}
    saved_args = kwargs.pop("pretrained_model_args", None)
    backbone_pretrained, checkpoint = kwargs.pop("backbone_pretrained", False), kwargs.pop("backbone_checkpoint", None)
    features = {key: kwargs.pop(key) for key in ("features_only", "out_indices", "feature_cls") if key in kwargs}
    features.pop("feature_cls", None)
    cache_dir, img_size = kwargs.pop("cache_dir", None), kwargs.pop("img_size", None)
    own = None if cfg is None and overlay is None else resolve_pretrained_cfg("swwae_wrap", cfg, overlay).to_dict()
    whole = own is not None and any(own.get(key) for key in ("url", "file", "hf_hub_id", "state_dict"))
    is_saved = cfg is not None and not isinstance(cfg, str)  # its weights come along, or aren't wanted
    if is_saved and own is not None:
        kwargs.setdefault("num_classes", own["num_classes"])
        img_size = img_size or own["input_size"][1:]
    with nullcontext() if saved is None else saved.bounds():
        from_timm = (backbone_pretrained or pretrained) and not is_saved and not whole
        backbone = _create_backbone(name, from_timm, img_size, cache_dir, kwargs)
        base = dict(backbone.pretrained_cfg)
        if from_timm and backbone.num_classes not in (0, base.get("num_classes")):  # timm has left it as it was drawn
            zero_classifier(backbone)
        size = pair_of(img_size) if img_size is not None else pair_of(base["input_size"][1:])
        in_chans = kwargs.get("in_chans", base["input_size"][0])
        wrapped = build(backbone, name, options, in_chans, None, size)
    merged = {**(own or {}), **_cfg_of(base, in_chans, backbone, size)}
    if is_saved and own is not None:
        merged |= {key: own[key] for key in AS_SAVED if own.get(key) is not None}
    file = None if saved is None else saved.fill(wrapped, checkpoint_filter_fn, merged)
    model = build_model_with_cfg(
        lambda **_: wrapped,
        "swwae_wrap",
        pretrained and whole and saved is None,
        pretrained_cfg=merged,
        pretrained_model_args=saved_args,
        cache_dir=cache_dir,
        pretrained_filter_fn=checkpoint_filter_fn,
        feature_cfg={
            "feature_cls": "getter",
            "out_indices": features.get("out_indices", tuple(range(len(wrapped.feature_info)))),
        },
        num_classes=backbone.num_classes,
        in_chans=in_chans,
        **features,
    )
    if file is not None:
        model.pretrained_cfg["file"] = file
    if checkpoint is not None and not is_saved:
        load_backbone(model, checkpoint)
    return model


def checkpoint_filter_fn(state_dict: dict[str, Any], model: WrappedSWWAE) -> dict[str, Tensor]:
    """Adapts saved weights to a model of another in_chans; timm adapts the backbone's first convolution and head.

    Raises:
        ValueError: they are those of another decoder.
    """
    state_dict = dict(state_dict.get("state_dict", state_dict))
    assert model.decoder is not None
    output, convs = model.decoder.output, model.decoder.stages[0].convs
    last = (
        f"decoder.stages.0.convs.{len(convs) - 1}.conv" if output is None else f"decoder.output.{len(output) - 1}.conv"
    )
    own = model.state_dict()
    fit_image_channels(state_dict, own, last, model.in_chans)
    decoder = {key: value.shape for key, value in state_dict.items() if key.startswith("decoder.")}
    if decoder and decoder != {key: value.shape for key, value in own.items() if key.startswith("decoder.")}:
        raise ValueError(
            "the saved weights are those of another decoder: leave pools, decoder, decoder_depth and img_size as they "
            "were saved, or take the backbone's weights alone with backbone_checkpoint=FILE"
        )
    return state_dict
