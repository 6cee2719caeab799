"""Stacked What-Where Auto-Encoder (SWWAE), and the paper's four nets as timm models.

Paper: `Stacked What-Where Auto-Encoders` - https://arxiv.org/abs/1506.02351

    image -> stages (convs, pool) -> features -> head -> logits
                      | switches        |
    image~ <- decoder (unpool, convs) <-'

`forward` is the plain convnet and gives logits, so a SWWAE stands wherever a timm model does;
`forward_swwae` adds the reconstruction and the middles that eq. (1) needs.  No call leaves anything
behind on a module.
"""
from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from timm.layers import get_device_dtype, register_notrace_function, to_2tuple
from timm.models import build_model_with_cfg, checkpoint, checkpoint_seq, generate_default_cfgs, register_model
from timm.models._features import feature_take_indices
from torch import Tensor, nn

from . import notation as paper
from .decoder import ConvFact, Decoding, Encoding, MirroredDecoder, Stage
from .encoder import EncoderStage
from .head import Head

__all__ = ["SWWAE", "SWWAEOutput", "stages_from_notation"]

NOTATIONS = {
    "swwae_mnist": "(64)5c-2p-(64)3c-2p-(64)3c-2p-10fc",
    "swwae_svhn": "(128)5c-2p-(128)3c-(256)3c-2p-(256)3c-2p-10fc",
    "swwae_stl10": "(64)3c-4p-(64)3c-3p-(128)3c-(128)3c-2p-(256)3c-(256)3c-(256)3c-(512)3c-(512)3c-(512)3c-2p-10fc",
    "swwae_cifar_vgg": "(128)3c-(256)3c-2p-(256)3c-(512)3c-2p-(512)3c-(512)3c-2p-(512)3c-(512)3c-2p-128fc-10fc",
}


class SWWAEOutput(NamedTuple):
    """Everything one pass gives.

    logits: (B, num_classes).
    reconstruction: x~, (B, in_chans, H, W).
    middles: pairs (encoder's what, decoder's activation), shallow to deep.
    """

    logits: Tensor
    reconstruction: Tensor
    middles: tuple[tuple[Tensor, Tensor], ...]


def stages_from_notation(notation: str, in_chans: int) -> tuple[tuple[Stage, ...], tuple[int, ...]]:
    """The stages and the widths of the fully connected layers of a net in the paper's notation.

    ``"(16)5c-(32)3c-2p-10fc"`` with one input channel gives
    ``((Stage(((1, 16, 5), (16, 32, 3)), 2),), (10,))``.

    Raises:
        ValueError: the notation is wrong (the message points at the character).
    """
    stages: list[Stage] = []
    convs: list[ConvFact] = []
    linears: list[int] = []
    chs = in_chans
    for layer in paper.parse(notation):
        if isinstance(layer, paper.Conv):
            convs.append(ConvFact(chs, layer.maps, layer.kernel))
            chs = layer.maps
        elif isinstance(layer, paper.Pool):
            if not convs:
                raise ValueError(f"{notation!r}: two pools follow each other; put a convolution between them")
            stages.append(Stage(tuple(convs), layer.kernel))
            convs = []
        else:
            linears.append(layer.features)
    if convs:  # convolutions behind the last pool are a stage that keeps its resolution
        stages.append(Stage(tuple(convs), None))
    return tuple(stages), tuple(linears)


def pooled_sizes(stages: Sequence[Stage], img_size: tuple[int, int]) -> list[tuple[int, int]]:
    """(h, w) behind each stage for images of ``img_size``.

    Raises:
        ValueError: a pool's window is larger than the map it meets.
    """
    sizes, (h, w) = [], img_size
    for m, stage in enumerate(stages):
        k = stage.pool_size or 1
        if min(h, w) < k:
            smallest = 1
            for s in stages:
                smallest *= s.pool_size or 1
            raise ValueError(
                f"images of {img_size[0]}x{img_size[1]} are too small: stage {m} pools {k}x{k} windows, but its map "
                f"is {h}x{w}; this net takes images from {smallest}x{smallest} up"
            )
        h, w = h // k, w // k
        sizes.append((h, w))
    return sizes


@register_notrace_function  # its check is Python control flow on a shape
def _check_images(x: Tensor, in_chans: int, smallest: int) -> Tensor:
    if x.ndim != 4 or x.shape[1] != in_chans or x.shape[2] < smallest or x.shape[3] < smallest:
        raise ValueError(
            f"images have shape {tuple(x.shape)}: expected (B, {in_chans}, H, W) with H and W at least {smallest}; "
            f"build the model with in_chans=... for other channels, or resize the images"
        )
    return x


class SWWAE(nn.Module):
    """Stacked What-Where Auto-Encoder with a classifier, built from the paper's notation.

    Args:
        notation: the net, e.g. ``"(64)5c-2p-(64)3c-2p-(64)3c-2p-10fc"``; its last fc layer is the classifier.
        num_classes: classes; None takes the last fc layer's width, 0 leaves the classifier out.
        in_chans: channels of the images, and of the reconstruction.
        img_size: (H, W) the flattening classifier is built for; the encoder and the decoder take any size.
        global_pool: "flatten" as in the paper, or one of timm's ("avg", ...) for a classifier of any size.
        pool: "hard" (max and its switch) or "soft" (eq. 3, 4).
        beta: sharpness of the soft pool; the paper's value is 100.
        unpool: "switch", or "upsample" (every position gets the what: the ablation of Figure 2).
        batch_norm: batch norm after every convolution, in the encoder and the decoder.
        drop_rate: dropout in front of the fully connected layers.

    Raises:
        ValueError: wrong notation, option or image size.
    """

    def __init__(
        self,
        notation: str = NOTATIONS["swwae_mnist"],
        num_classes: int | None = None,
        in_chans: int = 1,
        img_size: int | tuple[int, int] = 32,
        global_pool: str = "flatten",
        pool: str = "hard",
        beta: float = 100.0,
        unpool: str = "switch",
        batch_norm: bool = False,
        drop_rate: float = 0.0,
        device=None,
        dtype=None,
    ):
        super().__init__()
        dd = {"device": device, "dtype": dtype}
        img_size = to_2tuple(img_size)
        stages, linears = stages_from_notation(notation, in_chans)
        self.notation = paper.format(paper.parse(notation))
        self.num_classes = (linears[-1] if linears else 0) if num_classes is None else num_classes
        self.in_chans = in_chans
        self.grad_checkpointing = False
        self._traits = {"fixed_input_size": global_pool == "flatten"}

        sizes = pooled_sizes(stages, img_size)
        decoder = MirroredDecoder(stages, pool=pool, unpool=unpool, batch_norm=batch_norm, **dd)
        self.stages = nn.Sequential(*(EncoderStage(s, pool, beta, batch_norm, **dd) for s in stages))
        self.feature_info, reduction = [], 1
        for m, stage in enumerate(stages):
            reduction *= stage.pool_size or 1
            self.feature_info.append(
                {"num_chs": stage.convs[-1].out_chs, "reduction": reduction, "module": f"stages.{m}"})
        self.smallest = reduction
        self.num_features = stages[-1].convs[-1].out_chs
        self.head = Head(
            self.num_features, sizes[-1], img_size, linears[:-1], self.num_classes, global_pool, drop_rate, **dd)
        self.head_hidden_size = self.head.num_features
        self.decoder = decoder
        self.init_weights()

    @torch.jit.ignore
    def init_weights(self) -> None:
        """He initialisation of the convolutions (all are followed by ReLU, but the last), zero biases."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    # --- the auto-encoder -------------------------------------------------------------------------

    @torch.jit.unused
    def forward_encoder(self, x: Tensor) -> Encoding:
        """Images (B, in_chans, H, W) -> whats, switches, sizes and top features."""
        x = _check_images(x, self.in_chans, self.smallest)
        whats, switches, sizes = [], [], []
        for stage in self.stages:
            if self.grad_checkpointing and self.training and torch.is_grad_enabled():
                x, where, size = checkpoint(stage.forward_switch, x)
            else:
                x, where, size = stage.forward_switch(x)
            whats.append(x)
            switches.append(where)
            sizes.append(size)
        return Encoding(tuple(whats), tuple(switches), tuple(sizes), x)

    @torch.jit.unused
    def forward_decoder(self, encoding: Encoding) -> Decoding:
        """Encoding -> reconstruction (B, in_chans, H, W) and middles."""
        return self.decoder(encoding)

    @torch.jit.unused
    def forward_swwae(self, x: Tensor) -> SWWAEOutput:
        """Images (B, in_chans, H, W) -> logits, reconstruction and middles; the encoder runs once."""
        encoding = self.forward_encoder(x)
        return SWWAEOutput(self.forward_head(encoding.features), *self.forward_decoder(encoding))

    # --- timm's contract --------------------------------------------------------------------------

    def forward_features(self, x: Tensor) -> Tensor:
        """Images (B, in_chans, H, W) -> top what (B, num_features, h, w)."""
        x = _check_images(x, self.in_chans, self.smallest)
        if self.grad_checkpointing and not torch.jit.is_scripting():
            return checkpoint_seq(self.stages, x)
        return self.stages(x)

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Top what -> logits (B, num_classes), or what the last layer would see."""
        return self.head(x, pre_logits=pre_logits)

    def forward(self, x: Tensor) -> Tensor:
        """Images (B, in_chans, H, W) -> logits (B, num_classes): the plain convnet."""
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
        """The whats of the chosen stages, as timm's models give them.

        Args:
            x: images (B, in_chans, H, W).
            indices: the last n stages if an int, all if None, else those named (negative: from the end).
            norm: unused, there is no final norm.
            stop_early: leave out the stages behind the last one asked for.
            output_fmt: "NCHW" only.
            intermediates_only: return the list alone, not (features, list).
        """
        if output_fmt != "NCHW":
            raise ValueError(f"output_fmt is {output_fmt!r}: expected 'NCHW'")
        take, last = feature_take_indices(len(self.stages), indices)
        x = _check_images(x, self.in_chans, self.smallest)
        intermediates = []
        for m, stage in enumerate(self.stages[: last + 1] if stop_early else self.stages):
            x = checkpoint(stage, x) if self.grad_checkpointing and not torch.jit.is_scripting() else stage(x)
            if m in take:
                intermediates.append(x)
        return intermediates if intermediates_only else (x, intermediates)

    def prune_intermediate_layers(
        self, indices: int | list[int] = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Drop what the chosen intermediates don't need: later stages, the decoder, the head."""
        take, last = feature_take_indices(len(self.stages), indices)
        pruned_end = last < len(self.stages) - 1
        self.stages = self.stages[: last + 1]
        self.decoder = nn.Identity()
        if pruned_end:
            self.num_features = self.head.in_chs = self.feature_info[last]["num_chs"]
        if prune_head or pruned_end:
            self.reset_classifier(0, "")
        return take

    @torch.jit.ignore
    def get_classifier(self) -> nn.Module:
        return self.head.fc

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """A new last layer for ``num_classes`` (0: none), and another global pool if given."""
        self.num_classes = num_classes
        self.head.reset(num_classes, global_pool, **get_device_dtype(self))
        self.head_hidden_size = self.head.num_features
        self._traits = dict(self._traits, fixed_input_size=self.head.pool_type == "flatten")

    @torch.jit.ignore
    def set_grad_checkpointing(self, enable: bool = True) -> None:
        self.grad_checkpointing = enable

    @torch.jit.ignore
    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Layer groups for timm's layer-wise learning rate decay; the decoder counts with the head."""
        return {"stem": r"^stages\.0\.convs\.0", "blocks": r"^stages\.(\d+)" if coarse else r"^stages\.(\d+)\.convs\.(\d+)"}

    @torch.jit.ignore
    def no_weight_decay(self) -> set[str]:
        return set()


def checkpoint_filter_fn(state_dict: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Accepts a bare state dict or one under "state_dict", as training scripts save it."""
    return state_dict.get("state_dict", state_dict)


def _cfg(url: str = "", **kwargs: Any) -> dict[str, Any]:
    return {
        "url": url, "num_classes": 10, "input_size": (3, 32, 32), "pool_size": (4, 4), "fixed_input_size": True,
        "crop_pct": 1.0, "interpolation": "bilinear", "mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0),
        "first_conv": "stages.0.convs.0.conv", "classifier": "head.fc", "license": "mit",
        "paper_ids": "arXiv:1506.02351", "paper_name": "Stacked What-Where Auto-Encoders", **kwargs,
    }


_STL10 = _cfg(input_size=(3, 96, 96), pool_size=(2, 2))
default_cfgs = generate_default_cfgs({
    "swwae_mnist": _cfg(input_size=(1, 32, 32), mean=(0.0,), std=(1.0,)),
    "swwae_svhn": _cfg(),
    "swwae_stl10": _STL10,
    "swwae_stl10_vgg": _STL10,
    "swwae_cifar_vgg": _cfg(pool_size=(2, 2)),
})


def _create_swwae(variant: str, pretrained: bool, **kwargs: Any) -> SWWAE:
    """Build a variant.  A caller's own ``notation`` brings its own number of classes along."""
    notation = kwargs["notation"]
    stages, linears = stages_from_notation(notation, 1)
    if notation not in NOTATIONS.values() and linears:
        kwargs.setdefault("num_classes", linears[-1])
    out_indices = kwargs.pop("out_indices", tuple(range(len(stages))))
    return build_model_with_cfg(
        SWWAE, variant, pretrained,
        pretrained_filter_fn=checkpoint_filter_fn,
        feature_cfg={"out_indices": out_indices, "flatten_sequential": True},
        **kwargs,
    )


@register_model
def swwae_mnist(pretrained: bool = False, **kwargs: Any) -> SWWAE:
    """The paper's MNIST net, 1x32x32 (28x28 padded by 2)."""
    return _create_swwae("swwae_mnist", pretrained, **{"notation": NOTATIONS["swwae_mnist"], **kwargs})


@register_model
def swwae_svhn(pretrained: bool = False, **kwargs: Any) -> SWWAE:
    """The paper's SVHN net, 3x32x32."""
    return _create_swwae("swwae_svhn", pretrained, **{"notation": NOTATIONS["swwae_svhn"], **kwargs})


@register_model
def swwae_stl10(pretrained: bool = False, **kwargs: Any) -> SWWAE:
    """The paper's VGG-style STL-10 net, 3x96x96, batch norm after every convolution."""
    args = {"notation": NOTATIONS["swwae_stl10"], "batch_norm": True, **kwargs}
    return _create_swwae("swwae_stl10", pretrained, **args)


@register_model
def swwae_stl10_vgg(pretrained: bool = False, **kwargs: Any) -> SWWAE:
    """`swwae_stl10` by its other name."""
    return swwae_stl10(pretrained, **kwargs)


@register_model
def swwae_cifar_vgg(pretrained: bool = False, **kwargs: Any) -> SWWAE:
    """The paper's VGG-style CIFAR net, 3x32x32, batch norm after every convolution."""
    args = {"notation": NOTATIONS["swwae_cifar_vgg"], "batch_norm": True, **kwargs}
    return _create_swwae("swwae_cifar_vgg", pretrained, **args)
