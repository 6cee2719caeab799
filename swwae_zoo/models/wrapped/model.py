"""A SWWAE whose encoder is any convnet: the backbone as it is, a capture of its maps, and a decoder that mirrors it.

image -> backbone.forward_features -> features -> backbone.forward_head -> logits
             | whats and switches, by `Capture`
image~ <- WrappedDecoder <-'
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any

import torch
from timm.layers import SelectAdaptivePool2d
from timm.models import checkpoint, group_parameters
from timm.models._features import feature_take_indices
from timm.models._input import get_model_args
from timm.optim._param_groups import auto_group_layers
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils._pytree import tree_leaves

from swwae_zoo.models._base import SWWAE, Decoding, explain_norms
from swwae_zoo.models.wrapped.capture import Capture, Captured, tap
from swwae_zoo.models.wrapped.decoder import DecoderStageFacts, WrappedDecoder, WrappedEncoding
from swwae_zoo.models.wrapped.probe import Probe, is_timm, probe, run_backbone
from swwae_zoo.models.wrapped.steps import DownsamplingPath
from swwae_zoo.models.wrapped.summary import wrapped_table
from swwae_zoo.models.wrapped.trace import TOP, Trace, find_mismatch, make_plan, same_maps, trace

__all__ = ["DECODERS", "POOL_MODES", "WrappedSWWAE"]

POOL_MODES = ("tap", "insert")
DECODERS = ("mirror", "light")
LARGE = 192  # side of an image in which the path of every timm backbone has room


class WrappedSWWAE(SWWAE):
    """A backbone with a mirrored decoder.

    Args:
        backbone: a timm model, or any module that takes images and returns a map or logits.
        pools: "tap" leaves the backbone's function as it is and pools beside each downsampling step; "insert" gives
            every step stride 1 and a pool after it, so that every step has a where, the first one too.
        decoder: "mirror" has a convolution for each of the backbone's, "light" one for each step.
        decoder_depth: convolutions for each step, whatever ``decoder`` says.
        in_chans: channels of the images.
        img_size: (H, W) of the images the model is built for; others work where the backbone takes them.
        stages: names of modules whose outputs (inputs, for the value "in") are captured where they have the size that
            is about to shrink.
        stages_given: they are the caller's, so each has to output a map; timm's own are hints.
        num_classes: for a module that returns no logits, or another number of them: a classifier after it.
        name: of the backbone, for messages.

    Raises:
        ValueError: an unknown option or stage, or a backbone that can't be wrapped; the message says why.
    """

    def __init__(
        self,
        backbone: nn.Module,
        pools: str = "tap",
        decoder: str = "mirror",
        decoder_depth: int | None = None,
        in_chans: int = 3,
        img_size: tuple[int, int] = (224, 224),
        stages: Mapping[str, str] | None = None,
        num_classes: int | None = None,
        name: str = "",
        stages_given: bool = False,
    ):
        super().__init__()
        if pools not in POOL_MODES:
            raise ValueError(f"pools: got {pools!r}, expected one of {', '.join(POOL_MODES)}")
        if decoder not in DECODERS:
            raise ValueError(f"decoder: got {decoder!r}, expected one of {', '.join(DECODERS)}")
        if decoder_depth is not None and (
            isinstance(decoder_depth, bool) or not isinstance(decoder_depth, int) or decoder_depth < 1
        ):
            raise ValueError(
                f"decoder_depth: got {decoder_depth!r}, expected a number of convolutions of at least 1, or None"
            )
        self.backbone: Any = backbone
        self.name = name or type(backbone).__name__
        self.pools, self.in_chans = pools, in_chans
        self._img_size = (img_size[0], img_size[1])
        self.grad_checkpointing = False
        self._saved_args: dict[str, Any] = {}
        self.is_timm = is_timm(backbone)
        self._stages = dict(stages or {})
        self.classifier: nn.Module | None = None
        weight = next(backbone.parameters(), None)
        dd = {} if weight is None else {"device": weight.device, "dtype": weight.dtype}
        features = self._trace_first(stages_given)
        self._plans = {training: make_plan(own) for training, own in self._traces.items()}
        if not self.is_timm:
            self._set_classifier(features, num_classes, dd)
        self.num_classes = int(self.backbone.num_classes) if self.is_timm else self.num_classes
        self.num_features = int(getattr(backbone, "num_features", 0) or self.path.top.channels)
        self.head_hidden_size = int(getattr(backbone, "head_hidden_size", 0) or self.num_features)
        facts, image_depth = self._stage_facts(1 if decoder == "light" else None, decoder_depth)
        has_norm = any(isinstance(module, _BatchNorm) for module in backbone.modules())
        self.feature_info = self._feature_info()
        self.decoder: WrappedDecoder | None = WrappedDecoder(facts, in_chans, image_depth, has_norm, **dd)
        for module in self.decoder.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        self.train(backbone.training)
        if _aliases(self):
            self.register_state_dict_post_hook(_drop_aliases)
            self.register_load_state_dict_pre_hook(_add_aliases)

    # --- built once -------------------------------------------------------------------------------

    def _trace_first(self, given: bool) -> tuple[int, ...] | None:
        """Traces the backbone with images so large, where it takes them, that no step ends in a map of one pixel.

        Returns:
            Shape of the features of images of the model's own size.

        Raises:
            ValueError: a module's output is not one tensor, or as `_trace`.
        """
        found = probe(self.backbone, self.in_chans, self._img_size, self._stages)
        if not self.is_timm and found.output_kind != "Tensor" and found.output is not None:
            raise ValueError(
                f"its output is a {found.output_kind}, expected one tensor, logits or feature maps: wrap a module that "
                "picks one, or give it timm's forward_features and forward_head"
            )
        for stage in self._stages if given else ():
            _check_stage(found, stage)
        times = -(-LARGE // min(self._img_size))
        if times > 1 and not (getattr(self.backbone, "pretrained_cfg", None) or {}).get("fixed_input_size"):
            with contextlib.suppress(RuntimeError, AssertionError, ValueError):
                large = (self._img_size[0] * times, self._img_size[1] * times)
                self._traces = self._trace(large)
                return found.output_shape
        self._traces = self._trace(self._img_size)
        return found.output_shape

    def _trace(self, size: tuple[int, int]) -> dict[Any, Trace]:
        """Training (True) -> trace, for both modes.

        Raises:
            ValueError: the downsampling path in training is another than in evaluation.
        """
        args = (self.backbone, self.pools, self.in_chans, size, self._stages)
        evaluation = trace(*args, training=False)
        try:
            training = trace(*args, training=True)
        except (RuntimeError, AssertionError, IndexError, TypeError, AttributeError, ValueError):
            training = evaluation  # each run is compared with it
        if not same_maps(training.path, evaluation.path):
            raise ValueError("its feature maps in training have other channels or sizes than in evaluation")
        return {False: evaluation, True: training}

    @property
    def path(self) -> DownsamplingPath:
        """The backbone's downsampling steps, in evaluation."""
        return self._traces[False].path

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in self.__dict__.items() if key != "_plans"}  # functions that don't pickle

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._plans = {key: make_plan(own) for key, own in self._traces.items()}

    def _set_classifier(self, features: tuple[int, ...] | None, num_classes: int | None, dd: Mapping[str, Any]) -> None:
        shape = tuple(features or ())
        gives_logits = len(shape) == 2 and num_classes in (None, shape[1])
        self.num_classes = shape[1] if gives_logits else num_classes or 0
        if self.num_classes and not gives_logits:
            pool = [SelectAdaptivePool2d(pool_type="avg", flatten=True)] if len(shape) == 4 else []
            self.classifier = nn.Sequential(*pool, nn.Linear(shape[1], self.num_classes, **dd))

    def _stage_facts(self, cap: int | None, depth: int | None) -> tuple[list[DecoderStageFacts], int]:
        facts: list[DecoderStageFacts] = []
        steps = self.path.steps
        widths = [self._what_channels(m) for m in range(len(steps))] + [self.path.top.channels]
        for m, step in enumerate(steps):
            event = step.event
            has_where = self.pools == "insert" or event.kind == "max" or step.below is not None
            rectified = (
                event.kind == "max"
                and step.below is not None
                and step.below.is_positive
                or (self.pools == "tap" and step.below is not None and step.below.is_positive)
            )
            convs = depth or cap or step.depth
            facts.append(DecoderStageFacts(widths[m + 1], widths[m], convs, event.stride, has_where, rectified))
        return facts, depth or cap or max(1, self.path.image_depth)

    def _what_channels(self, m: int) -> int:
        step = self.path.steps[m]
        if step.event.kind == "max" or self.pools == "tap":
            return step.below.channels if step.below is not None else self.in_chans
        return step.event.out_chs if step.event.kind != "move" else step.event.in_chs or self.in_chans

    def _feature_info(self) -> list[dict[str, Any]]:
        """Channels and reduction of the maps, from level 1 to the top."""
        height = self.path.img_size[0]
        anchors = [step.below for step in self.path.steps[1:]] + [self.path.top]
        return [
            {"num_chs": anchor.channels, "reduction": round(height / anchor.size[0]), "module": f"level{m}"}
            for m, anchor in enumerate(anchors, 1)
            if anchor is not None
        ]

    # --- the auto-encoder -------------------------------------------------------------------------

    def _run_captured(self, x: Tensor) -> tuple[Any, Captured, DownsamplingPath]:
        """One run of the backbone: features, captured maps, and the path that they belong to.

        A run whose calls are not the traced ones, since the backbone was changed, is traced anew and repeated.
        """
        if torch.compiler.is_compiling() or torch.jit.is_tracing():
            return self._run_once(x)
        try:
            return self._run_once(x)
        except (RuntimeError, IndexError, TypeError, ValueError) as error:
            if not self._trace_again(x, error):
                raise
        return self._run_once(x)

    def _run_once(self, x: Tensor) -> tuple[Any, Captured, DownsamplingPath]:
        key = self._trace_key(x)
        captured = Captured({}, {}, {})
        turns: dict[Any, int] = {}
        replace = not self.grad_checkpointing or self.pools == "insert"
        with Capture(self._plans[key], captured, turns, replace):
            features = run_backbone(self.backbone, x)
        if mismatch := find_mismatch(self._traces[key], turns):
            raise ValueError(
                f"{self.name} calls {mismatch}: which of its maps are which can't be told if its operations differ "
                "from run to run; take out what is random, or run it once before it is compiled"
            )
        return features, captured, self._traces[key].path

    def _trace_key(self, x: Tensor) -> Any:
        """Of the trace for this mode, and for images of this size if such was needed."""
        training = self.backbone.training
        if len(self._traces) > 2:
            key = (training, x.shape[2], x.shape[3])
            return key if key in self._traces else training
        return training

    def _trace_again(self, x: Tensor, error: Exception) -> bool:
        """Traces the backbone as it is now, with images of the first trace's size, then of this size.

        Returns:
            Whether its trace has changed.

        Raises:
            ValueError: it has changed so much that the decoder does not fit.
        """
        own, size = self._traces[self._trace_key(x)], (x.shape[2], x.shape[3])
        for tried in dict.fromkeys((self.path.img_size, size)):
            try:
                traces = self._trace(tried)
            except (RuntimeError, AssertionError, IndexError, TypeError, AttributeError, ValueError):
                continue
            new = traces[self.backbone.training]
            if (new.actions, new.counts) == (own.actions, own.counts):
                continue
            if same_maps(new.path, self.path):
                for training, made in traces.items():
                    self._plans[(training, *size)] = make_plan(made)
                    self._traces[(training, *size)] = made
                return True
            if tried != size:
                raise ValueError(
                    f"{self.name} was changed after it was wrapped, and its feature maps have other channels or sizes "
                    "now: wrap it again"
                ) from error
        return False

    @explain_norms
    def forward_encoder(self, x: Tensor) -> WrappedEncoding:
        """Images (B, in_chans, H, W) -> whats, switches, sizes, features and the geometry of the pools."""
        if self.grad_checkpointing and self.pools == "insert":
            return WrappedEncoding(*checkpoint(self._encode, x))
        return self._encode(x)

    def _encode(self, x: Tensor) -> WrappedEncoding:
        self._check(x)
        features, captured, path = self._run_captured(x)
        levels = _levels(features, captured, path)
        top = levels[-1]
        assert top is not None
        whats, switches, sizes, geometries = [], [], [], []
        for m, step in enumerate(path.steps):
            pooled = captured.pooled.get(m)
            below = levels[m]
            if pooled is None and below is not None:
                pooled = tap(below, captured.sizes.get(m), step.event.stride)
            sizes.append(
                (x.shape[2], x.shape[3]) if m == 0 else (0, 0) if below is None else (below.shape[2], below.shape[3])
            )
            if pooled is None:
                after = levels[m + 1]
                whats.append(top if after is None else after)
            else:
                whats.append(pooled.what)
            switches.append(None if pooled is None else pooled.where)
            geometries.append(None if pooled is None else pooled.geometry)
        return WrappedEncoding(
            (*whats, top), (*switches, None), (*sizes, (top.shape[2], top.shape[3])), features, (*geometries, None)
        )

    def _check(self, x: Tensor) -> None:
        if x.ndim != 4 or x.shape[1] != self.in_chans:
            raise ValueError(
                f"images have shape {tuple(x.shape)}: expected (B, {self.in_chans}, H, W); build the model with "
                "in_chans=... for other channels"
            )

    def forget_where(self, encoding: WrappedEncoding) -> WrappedEncoding:
        """The encoding with every where replaced by the middle of its window."""
        switches = tuple(
            where if where is None or geometry is None else geometry.centre(where)
            for where, geometry in zip(encoding.switches, encoding.geometries, strict=True)
        )
        return encoding._replace(switches=switches)

    @property
    def _model_args(self) -> dict[str, Any]:
        """Arguments that rebuild this model without its weights, as timm saves them."""
        return self._saved_args

    @_model_args.setter
    def _model_args(self, args: Mapping[str, Any]) -> None:
        # timm's factory records its arguments; where weights came from is no part of the architecture.
        kept = {key: value for key, value in args.items() if key not in ("backbone_pretrained", "backbone_checkpoint")}
        if ":" in str(kept.get("backbone", "")) and not kept["backbone"].startswith("module:"):
            own = get_model_args(self.backbone)
            kept = {**own, **kept, "backbone": self.backbone.pretrained_cfg["architecture"]}
        self._saved_args = kept

    def forward_decoder(self, encoding: WrappedEncoding) -> Decoding:
        """Encoding -> reconstruction (B, in_chans, H, W) and middles, one for each step with a where.

        Raises:
            ValueError: the decoder was pruned away.
        """
        return super().forward_decoder(encoding)

    @property
    def img_size(self) -> tuple[int, int]:
        """(H, W) of the images that the model was built for."""
        return self._img_size

    @property
    def num_middles(self) -> int:
        """One for each step that has a where."""
        if self.decoder is None:
            return 0
        return sum(stage.facts.has_where for stage in self.decoder.stages)

    @property
    def text(self) -> str:
        """The backbone, and how it was wrapped."""
        return f"{self.name}, pools={self.pools}"

    def report(self, img_size: tuple[int, int] | None = None) -> str:
        """A table: each downsampling step, how it is treated, and its decoder stage; shapes, parameters, FLOPs."""
        return wrapped_table(self, img_size or self._img_size)

    # --- timm's contract --------------------------------------------------------------------------

    def forward_features(self, x: Tensor) -> Any:
        """Images -> output of the backbone's own `forward_features`."""
        if self.pools == "tap":
            return run_backbone(self.backbone, x)
        self._check(x)
        return self._run_captured(x)[0]

    def forward_head(self, x: Any, pre_logits: bool = False) -> Tensor:
        """Features -> logits (B, num_classes), or the input of the last layer."""
        if self.is_timm:
            return self.backbone.forward_head(x, pre_logits=True) if pre_logits else self.backbone.forward_head(x)
        return x if pre_logits or self.classifier is None else self.classifier(x)

    def forward(self, x: Tensor) -> Tensor:
        """Images (B, in_chans, H, W) -> logits (B, num_classes)."""
        if self.pools == "tap" and self.classifier is None:
            return self.backbone(x)
        return self.forward_head(self.forward_features(x))

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | list[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> list[Tensor] | tuple[Tensor, list[Tensor]]:
        """The feature maps of the chosen levels: from level 1 (after the first step) to the top.

        Raises:
            ValueError: another output_fmt than NCHW, or images of another shape.
        """
        if output_fmt != "NCHW":
            raise ValueError(f"output_fmt is {output_fmt!r}: expected 'NCHW'; permute the maps for another")
        self._check(x)
        features, captured, path = self._run_captured(x)
        maps = [level for level in _levels(features, captured, path)[1:] if level is not None]
        take, _ = feature_take_indices(len(maps), indices)
        chosen = [maps[m] for m in take]
        return chosen if intermediates_only else (features, chosen)

    def prune_intermediate_layers(
        self, indices: int | list[int] = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Drops the decoder and the classifier; the backbone's own layers stay."""
        take, _ = feature_take_indices(len(self.feature_info), indices)
        self.decoder = None
        if prune_head:
            self.reset_classifier(0, "")
        return take

    def get_classifier(self) -> nn.Module:
        return self.backbone.get_classifier() if self.is_timm else self.classifier or nn.Identity()

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """A new last layer for ``num_classes`` (0: none), and another global pool if given."""
        if not self.is_timm:
            raise ValueError(
                f"{self.name} is no timm model, so its classifier can't be exchanged: wrap it with num_classes=..."
            )
        if global_pool is None:
            self.backbone.reset_classifier(num_classes)
        else:
            with contextlib.suppress(TypeError):  # some take no pool argument
                self.backbone.reset_classifier(num_classes, global_pool)
        self.num_classes = num_classes

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        self.grad_checkpointing = enable
        if self.pools == "tap" and hasattr(self.backbone, "set_grad_checkpointing"):
            with contextlib.suppress(AssertionError):  # how timm's models say that they can't
                self.backbone.set_grad_checkpointing(enable)

    def group_matcher(self, coarse: bool = False) -> Callable[[str], int]:
        """The layers that timm groups the backbone into; the decoder counts with the head."""
        layers = _layers(self.backbone, coarse, has_head=self.classifier is None)
        last = max(layers.values(), default=0) + (self.classifier is not None)
        return lambda name: layers.get(name.removeprefix("backbone."), last)

    def no_weight_decay(self) -> set[str]:
        own = self.backbone.no_weight_decay() if hasattr(self.backbone, "no_weight_decay") else set()
        return {f"backbone.{name}" for name in own}


def _levels(features: Any, captured: Captured, path: DownsamplingPath) -> list[Tensor | None]:
    """Captured map of each level, from the image's (None) to the top."""
    top = captured.maps.get(TOP)
    if top is None:
        top = tree_leaves(features)[-1]
        top = top.permute(0, 3, 1, 2) if path.top.channels_last else top
    return [*(captured.maps.get(m) for m in range(len(path.steps))), top]


def _aliases(module: nn.Module) -> dict[str, str]:
    """Second names of tied weights -> first names."""
    first: dict[int, str] = {}
    tensors = (*module.named_parameters(remove_duplicate=False), *module.named_buffers(remove_duplicate=False))
    return {name: first[id(tensor)] for name, tensor in tensors if first.setdefault(id(tensor), name) != name}


def _drop_aliases(module: nn.Module, state_dict: dict[str, Any], prefix: str, _metadata: Any) -> None:
    """State dict hook: tied weights are saved once, as safetensors asks for."""
    for alias in _aliases(module):
        state_dict.pop(prefix + alias, None)


def _add_aliases(module: nn.Module, state_dict: dict[str, Any], prefix: str, *_: Any) -> None:
    """Load hook: the inverse of `_drop_aliases`."""
    for alias, name in _aliases(module).items():
        if prefix + name in state_dict:
            state_dict.setdefault(prefix + alias, state_dict[prefix + name])


def _check_stage(found: Probe, stage: str) -> None:
    """Raises ValueError if a module was not run or gave no map."""
    made = found.modules.get(stage)
    if made is None:
        raise ValueError(f"stages: {stage!r} is not run between the image and the features: leave it out")
    if made >= 0 and len(found.ops[made].out_shape) != 4:
        shape = ", ".join(map(str, found.ops[made].out_shape[1:]))
        raise ValueError(f"stages: {stage!r} outputs (B, {shape}), expected a map (B, C, H, W): name modules before it")


def _layers(backbone: Any, coarse: bool, has_head: bool) -> dict[str, int]:
    """Name of each parameter -> its layer, 0 nearest to the image, as timm groups them."""
    if hasattr(backbone, "group_matcher"):
        with contextlib.suppress(
            AssertionError, NotImplementedError, RuntimeError, TypeError
        ):  # some refuse coarse ones
            return dict(group_parameters(backbone, backbone.group_matcher(coarse=coarse), reverse=True))
    named = SimpleNamespace(named_parameters=backbone.named_parameters, pretrained_cfg=_head_cfg(backbone, has_head))
    return dict(auto_group_layers(named))


def _head_cfg(backbone: nn.Module, has_head: bool) -> dict[str, Any]:
    """What timm's automatic grouping asks for: the name of the classifier; by default the last module with weights."""
    cfg = getattr(backbone, "pretrained_cfg", None) or {}
    last = [name.rpartition(".")[0] for name, _ in backbone.named_parameters()][-1:] if has_head else []
    return {"classifier": cfg.get("classifier") or tuple(last) or "no classifier"}
