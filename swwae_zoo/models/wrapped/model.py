"""A SWWAE whose encoder is anyone's convnet: the backbone as it is, watched on the way, and a decoder that mirrors it.

image -> backbone.forward_features -> features -> backbone.forward_head -> logits
             | whats and switches, picked up by `Watch`
image~ <- LadderDecoder <-'
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Mapping
from typing import Any

import torch
from timm.layers import SelectAdaptivePool2d
from timm.models import checkpoint
from timm.models._features import feature_take_indices
from timm.models._input import get_model_args
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from swwae_zoo.models._base import SWWAE, Decoding
from swwae_zoo.models.wrapped.capture import Action, Catch, Plan, Watch, tap
from swwae_zoo.models.wrapped.decoder import LadderDecoder, LadderEncoding, RungFacts
from swwae_zoo.models.wrapped.probe import Probe, probe
from swwae_zoo.models.wrapped.search import find_ladder
from swwae_zoo.models.wrapped.steps import Event, Ladder

__all__ = ["DECODERS", "POOLS", "WrappedSWWAE"]

POOLS = ("tap", "insert")
DECODERS = ("mirror", "light")
TOP = -1  # slot of the top map
LARGE = 192  # side of an image in which every ladder of timm's has room


class WrappedSWWAE(SWWAE):
    """A backbone with a mirrored decoder.

    Args:
        backbone: a timm model, or any module that takes images and gives a map or logits.
        pools: "tap" leaves the backbone's function as it is and pools beside each step down; "insert" gives every step
            stride 1 and a pool behind it, so that every step has a where, the first one too.
        decoder: "mirror" has a convolution for each of the backbone's, "light" one for each step.
        decoder_depth: convolutions for each step, whatever ``decoder`` says.
        in_chans: channels of the images.
        img_size: (H, W) of the images the model is built for; others work where the backbone takes them.
        stages: names of modules whose outputs (inputs, for the value "in") are tapped where they have the size that is about
            to shrink.
        stages_given: they are the caller's, so each has to give a map; timm's own are hints.
        num_classes: for a module that gives no logits, or others: a classifier behind it.
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
        if pools not in POOLS:
            raise ValueError(f"pools: got {pools!r}, expected one of {', '.join(POOLS)}")
        if decoder not in DECODERS:
            raise ValueError(f"decoder: got {decoder!r}, expected one of {', '.join(DECODERS)}")
        if decoder_depth is not None and (
            isinstance(decoder_depth, bool) or not isinstance(decoder_depth, int) or decoder_depth < 1
        ):
            raise ValueError(
                f"decoder_depth: got {decoder_depth!r}, expected a number of convolutions of at least 1, or None"
            )
        self.backbone = backbone
        self.name = name or type(backbone).__name__
        self.pools, self.in_chans = pools, in_chans
        self._img_size = (img_size[0], img_size[1])
        self.grad_checkpointing = False
        self._saved_args: dict[str, Any] = {}
        self.is_timm = hasattr(backbone, "forward_features") and hasattr(backbone, "forward_head")
        self.classifier: nn.Module | None = None
        weight = next(backbone.parameters(), None)
        dd = {} if weight is None else {"device": weight.device, "dtype": weight.dtype}
        self.ladder, features = self._find_ladder(stages or {}, stages_given)
        if not self.is_timm:
            self._set_classifier(features, num_classes, dd)
        self.num_classes = int(backbone.num_classes) if self.is_timm else self.num_classes
        self.num_features = int(getattr(backbone, "num_features", 0) or self.ladder.top.channels)
        self.head_hidden_size = int(getattr(backbone, "head_hidden_size", 0) or self.num_features)
        rungs, image_depth = self._rungs(1 if decoder == "light" else None, decoder_depth)
        has_norm = any(isinstance(module, _BatchNorm) for module in backbone.modules())
        self.feature_info = self._feature_info()
        self._plan = self._make_plan()
        self.decoder = LadderDecoder(rungs, in_chans, image_depth, has_norm, **dd)
        for module in self.decoder.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        self.train(backbone.training)

    # --- built once -------------------------------------------------------------------------------

    def _find_ladder(self, stages: Mapping[str, str], given: bool) -> tuple[Ladder, tuple[int, ...] | None]:
        """From a probe of images large enough that no step is lost in a map of one pixel, where the backbone takes them."""
        training = self.backbone.training
        self.backbone.eval()
        try:
            found = probe(self.backbone, self._run, self.in_chans, self._img_size, stages)
            for stage in stages if given else ():
                _check_stage(found, stage)
            times = -(-LARGE // min(self._img_size))
            if times > 1 and not (getattr(self.backbone, "pretrained_cfg", None) or {}).get("fixed_input_size"):
                with contextlib.suppress(RuntimeError, AssertionError, ValueError):
                    large = (self._img_size[0] * times, self._img_size[1] * times)
                    return find_ladder(
                        probe(self.backbone, self._run, self.in_chans, large, stages)
                    ), found.output_shape
        finally:
            self.backbone.train(training)
        return find_ladder(found), found.output_shape

    def _set_classifier(self, features: tuple[int, ...] | None, num_classes: int | None, dd: Mapping[str, Any]) -> None:
        shape = features or ()
        gives_logits = len(shape) == 2 and num_classes in (None, shape[1])
        self.num_classes = shape[1] if gives_logits else num_classes or 0
        if self.num_classes and not gives_logits:
            pool = [SelectAdaptivePool2d(pool_type="avg", flatten=True)] if len(shape) == 4 else []
            self.classifier = nn.Sequential(*pool, nn.Linear(shape[1], self.num_classes, **dd))

    def _rungs(self, cap: int | None, depth: int | None) -> tuple[list[RungFacts], int]:
        rungs: list[RungFacts] = []
        steps = self.ladder.steps
        widths = [self._what_channels(m) for m in range(len(steps))] + [self.ladder.top.channels]
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
            rungs.append(RungFacts(widths[m + 1], widths[m], convs, event.stride, has_where, rectified))
        return rungs, depth or cap or max(1, self.ladder.image_depth)

    def _what_channels(self, m: int) -> int:
        step = self.ladder.steps[m]
        if step.event.kind == "max" or self.pools == "tap":
            return step.below.channels if step.below is not None else self.in_chans
        return step.event.out_chs if step.event.kind != "move" else step.event.in_chs or self.in_chans

    def _feature_info(self) -> list[dict[str, Any]]:
        """Channels and reduction of the maps, level 1 to the top."""
        height = self.ladder.img_size[0]
        anchors = [step.below for step in self.ladder.steps[1:]] + [self.ladder.top]
        return [
            {"num_chs": anchor.channels, "reduction": round(height / anchor.size[0]), "module": f"level{m}"}
            for m, anchor in enumerate(anchors, 1)
            if anchor is not None
        ]

    def _make_plan(self) -> Plan:
        plan: Plan = {}

        def add(call: Any, action: Action) -> None:
            turns = plan.setdefault(call.func, {})
            turns[call.turn] = (*turns.get(call.turn, ()), action)

        def insert(event: Event, slot: int) -> None:
            for op in event.entry:
                add(op.call, Action(event.kind, slot, event.stride, event.channels_last))

        for m, step in enumerate(self.ladder.steps):
            if step.event.kind == "max":
                add(step.event.op.call, Action("max", m, step.event.stride, False))
            elif self.pools == "insert":
                insert(step.event, m)
            elif step.event.kind in ("conv", "avg"):
                add(step.event.op.call, Action("size", m, step.event.stride, False))
            if step.below is not None and step.below.call is not None:
                add(step.below.call, Action(step.below.end, m, step.event.stride, step.below.channels_last))
        top = self.ladder.top
        if top.call is not None:
            add(top.call, Action(top.end, TOP, (1, 1), top.channels_last))
        if self.pools == "insert":
            chosen = {id(step.event) for step in self.ladder.steps}
            every = [event for step in self.ladder.steps for event in step.events] + list(self.ladder.others)
            for event in every:
                if id(event) not in chosen and event.kind != "max":
                    insert(event, -1)
        return plan

    # --- the auto-encoder -------------------------------------------------------------------------

    def _run(self, x: Tensor) -> Any:
        """What the head takes: timm's features, or another module's whole output."""
        return self.backbone.forward_features(x) if self.is_timm else self.backbone(x)

    def _watched(self, x: Tensor) -> tuple[Any, Catch]:
        catch = Catch({}, {}, {})
        turns: dict[Any, int] = {}
        with Watch(self._plan, catch, turns, exchange=not self.grad_checkpointing or self.pools == "insert"):
            features = self._run(x)
        return features, catch

    def forward_encoder(self, x: Tensor) -> LadderEncoding:
        """Images (B, in_chans, H, W) -> whats, switches, sizes, features and the geometry of the pools."""
        if self.grad_checkpointing and self.pools == "insert":
            return LadderEncoding(*checkpoint(self._encode, x))
        return self._encode(x)

    def _encode(self, x: Tensor) -> LadderEncoding:
        self._check(x)
        features, catch = self._watched(x)
        levels = self._levels(features, catch)
        top = levels[-1]
        assert top is not None
        whats, switches, sizes, frames = [], [], [], []
        for m, step in enumerate(self.ladder.steps):
            pooled = catch.pooled.get(m)
            below = levels[m]
            if pooled is None and below is not None:
                pooled = tap(below, catch.sizes.get(m), step.event.stride)
            sizes.append(
                (x.shape[2], x.shape[3]) if m == 0 else (0, 0) if below is None else (below.shape[2], below.shape[3])
            )
            if pooled is None:
                behind = levels[m + 1]
                whats.append(top if behind is None else behind)
            else:
                whats.append(pooled.what)
            switches.append(None if pooled is None else pooled.where)
            frames.append(None if pooled is None else pooled.frame)
        return LadderEncoding(
            (*whats, top), (*switches, None), (*sizes, (top.shape[2], top.shape[3])), features, (*frames, None)
        )

    def _levels(self, features: Any, catch: Catch) -> list[Tensor | None]:
        """Map of each level that was picked up, the image's (None) to the top."""
        top = catch.maps.get(TOP)
        if top is None:
            top = features[-1] if isinstance(features, (tuple, list)) else features
            top = top.permute(0, 3, 1, 2) if self.ladder.top.channels_last else top
        return [*(catch.maps.get(m) for m in range(len(self.ladder.steps))), top]

    def _check(self, x: Tensor) -> None:
        if x.ndim != 4 or x.shape[1] != self.in_chans:
            raise ValueError(
                f"images have shape {tuple(x.shape)}: expected (B, {self.in_chans}, H, W); build the model with in_chans=... "
                "for other channels"
            )

    def forget_where(self, encoding: LadderEncoding) -> LadderEncoding:
        """The encoding with every where at the middle of its window."""
        switches = tuple(
            where
            if where is None or frame is None
            else torch.full_like(where, (frame.kernel[0] // 2) * frame.kernel[1] + frame.kernel[1] // 2)
            for where, frame in zip(encoding.switches, encoding.frames, strict=False)
        )
        return encoding._replace(switches=switches)

    @property
    def _model_args(self) -> dict[str, Any]:
        """Arguments that build this model again without its weights, as timm saves them."""
        return self._saved_args

    @_model_args.setter
    def _model_args(self, args: Mapping[str, Any]) -> None:
        # timm's factory writes down what it was called with: where weights came from is no part of the architecture.
        kept = {key: value for key, value in args.items() if key not in ("backbone_pretrained", "backbone_checkpoint")}
        if ":" in str(kept.get("backbone", "")) and not kept["backbone"].startswith("module:"):
            own = get_model_args(self.backbone)
            kept = {**own, **kept, "backbone": self.backbone.pretrained_cfg["architecture"]}
        self._saved_args = kept

    def forward_decoder(self, encoding: LadderEncoding) -> Decoding:
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
        return sum(rung.facts.has_where for rung in self.decoder.rungs)

    @property
    def text(self) -> str:
        """The backbone, and how it was wrapped."""
        return f"{self.name}, pools={self.pools}"

    def report(self, img_size: tuple[int, int] | None = None) -> str:
        """A table: each step down, what was done about it, and its rung, with shapes, parameters and FLOPs."""
        from swwae_zoo.models.wrapped.summary import ladder_text

        return ladder_text(self, img_size or self._img_size)

    # --- timm's contract --------------------------------------------------------------------------

    def forward_features(self, x: Tensor) -> Any:
        """Images -> what the backbone's own `forward_features` gives."""
        if self.pools == "tap":
            return self._run(x)
        self._check(x)
        return self._watched(x)[0]

    def forward_head(self, x: Any, pre_logits: bool = False) -> Tensor:
        """Features -> logits (B, num_classes), or what the last layer would see."""
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
        """The maps of the chosen levels, as the decoder's mirror: level 1 (behind the first step) up to the top.

        Raises:
            ValueError: another output_fmt than NCHW, or images of another shape.
        """
        if output_fmt != "NCHW":
            raise ValueError(f"output_fmt is {output_fmt!r}: expected 'NCHW'; permute the maps for another")
        self._check(x)
        features, catch = self._watched(x)
        maps = [level for level in self._levels(features, catch)[1:] if level is not None]
        take, _ = feature_take_indices(len(maps), indices)
        chosen = [maps[m] for m in take]
        return chosen if intermediates_only else (features, chosen)

    def prune_intermediate_layers(
        self, indices: int | list[int] = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Drop the decoder and the classifier; the backbone's own layers stay."""
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
            with contextlib.suppress(TypeError):  # some take no pool
                self.backbone.reset_classifier(num_classes, global_pool)
        self.num_classes = num_classes

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        self.grad_checkpointing = enable
        if self.pools == "tap" and hasattr(self.backbone, "set_grad_checkpointing"):
            with contextlib.suppress(AssertionError):  # timm's way to say that a net can't
                self.backbone.set_grad_checkpointing(enable)

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """The backbone's layer groups; the decoder counts with the head."""
        groups = self.backbone.group_matcher(coarse=coarse) if hasattr(self.backbone, "group_matcher") else {}
        return {key: _prefixed(value) for key, value in groups.items()}

    def no_weight_decay(self) -> set[str]:
        own = self.backbone.no_weight_decay() if hasattr(self.backbone, "no_weight_decay") else set()
        return {f"backbone.{name}" for name in own}


def _check_stage(found: Probe, stage: str) -> None:
    """Raises ValueError if a module was not run or gave no map."""
    made = found.modules.get(stage)
    if made is None:
        raise ValueError(f"stages: {stage!r} is not run on the way from the image to the features: leave it out")
    if made >= 0 and len(found.ops[made].out_shape) != 4:
        shape = ", ".join(map(str, found.ops[made].out_shape[1:]))
        raise ValueError(
            f"stages: {stage!r} gives (B, {shape}), expected a map (B, C, H, W): name modules in front of it"
        )


def _prefixed(pattern: Any) -> Any:
    """A group's pattern for names with "backbone." in front."""
    if isinstance(pattern, str):
        anywhere = re.sub(r"(?<!\[)\^", "", pattern)  # alternatives may each begin with one
        return rf"^backbone\.(?:{anywhere})"
    if isinstance(pattern, (list, tuple)) and pattern and all(isinstance(p, (list, tuple)) for p in pattern):
        return [(_prefixed(p[0]), *p[1:]) for p in pattern]
    if isinstance(pattern, (list, tuple)):
        return type(pattern)(_prefixed(p) for p in pattern)
    return pattern
