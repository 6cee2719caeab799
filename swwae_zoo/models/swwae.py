"""Stacked What-Where Auto-Encoders in the paper's notation, and the paper's four nets as timm models.

Paper: `Stacked What-Where Auto-Encoders` - https://arxiv.org/abs/1506.02351

    image -> stages (convs, pool) -> features -> head -> logits
                      | switches        |
    image~ <- decoder (unpool, convs) <-'
"""

# No `from __future__ import annotations` here: fx writes annotations into its graphs, and TorchScript reads them there.
from typing import Any

import torch
import torch.fx
from timm.layers import get_device_dtype
from timm.models import build_model_with_cfg, checkpoint, checkpoint_seq, generate_default_cfgs, register_model
from timm.models._builder import resolve_pretrained_cfg
from timm.models._features import feature_take_indices
from torch import Tensor, nn

from swwae_zoo.hub.config import (
    MAX_CHANS,
    MAX_CLASSES,
    MAX_SIDE,
    Rule,
    either,
    flag,
    listed,
    number,
    one_of,
    register_arguments,
    text,
    whole,
)
from swwae_zoo.layers.classifier import GLOBAL_POOLS, Head
from swwae_zoo.layers.pool import pool_names, unpool_names
from swwae_zoo.models import _notation as paper
from swwae_zoo.models._base import SWWAE, Encoding, explain_norms, pair_of
from swwae_zoo.models._decoder import MirroredDecoder
from swwae_zoo.models._encoder import EncoderStage
from swwae_zoo.models._image_channels import fit_image_channels
from swwae_zoo.models._pretrained import resolve, with_weights
from swwae_zoo.models._stages import feature_sizes, stages_from_notation, total_reduction

__all__ = ["NOTATIONS", "NotationSWWAE"]

NOTATIONS = {
    "swwae_mnist": "(64)5c-2p-(64)3c-2p-(64)3c-2p-10fc",
    "swwae_svhn": "(128)5c-2p-(128)3c-(256)3c-2p-(256)3c-2p-10fc",
    "swwae_stl10": "(64)3c-4p-(64)3c-3p-(128)3c-(128)3c-2p-(256)3c-(256)3c-(256)3c-(512)3c-(512)3c-(512)3c-2p-10fc",
    "swwae_cifar_vgg": "(128)3c-(256)3c-2p-(256)3c-(512)3c-2p-(512)3c-(512)3c-2p-(512)3c-(512)3c-2p-128fc-10fc",
}


_python_only: Any = torch.jit.ignore  # whose type knows no decorator without arguments


def _check_images(x: Tensor, in_chans: int, smallest: int) -> Tensor:
    if x.ndim != 4 or x.shape[1] != in_chans or x.shape[2] < smallest or x.shape[3] < smallest:
        raise ValueError(
            f"images have shape {x.shape}: expected (B, {in_chans}, H, W) with H and W at least {smallest}; "
            f"build the model with in_chans=... for other channels, or resize the images"
        )
    return x


torch.fx.wrap("_check_images")  # its check is Python control flow on a shape


class NotationSWWAE(SWWAE):
    """Stacked What-Where Auto-Encoder with a classifier, built from the paper's notation.

    Args:
        notation: the net, e.g. ``"(64)5c-2p-(64)3c-2p-(64)3c-2p-10fc"``; its last fc layer is the classifier.
        num_classes: classes; None takes the last fc layer's width, 0 leaves the classifier out.
        in_chans: channels of the images, and of the reconstruction.
        img_size: (H, W) that the flattening classifier is built for; encoder and decoder take any size.
        global_pool: "flatten" as in the paper, or one of timm's ("avg", ...) for a classifier of any size.
        pool: "hard" (max and its switch), "soft" (eq. 3, 4), or another kind that `register_pool` was given.
        beta: sharpness of the soft pool; the paper's value is 100.
        unpool: "switch", or "upsample" (the what is copied to its whole window: the ablation of Figure 2).
        batch_norm: batch norm after every convolution, in the encoder and the decoder.
        drop_rate: dropout before the fully connected layers.
        drop_conv_rate: dropout before the encoder's convolutions but the first: a baseline of the paper's Table 4.

    Raises:
        ValueError: wrong notation, option or image size.
    """

    def __init__(
        self,
        notation: str,
        num_classes: int | None = None,
        in_chans: int = 1,
        img_size: int | tuple[int, int] = 32,
        global_pool: str = "flatten",
        pool: str = "hard",
        beta: float = 100.0,
        unpool: str = "switch",
        batch_norm: bool = False,
        drop_rate: float = 0.0,
        drop_conv_rate: float = 0.0,
        device=None,
        dtype=None,
    ):
        super().__init__()
        dd = {"device": device, "dtype": dtype}
        height, width = img_size = pair_of(img_size)
        if in_chans < 1 or min(height, width) < 1:
            raise ValueError(
                f"images of {in_chans}x{height}x{width} (in_chans, img_size): expected numbers of at least 1"
            )
        if not 0 <= beta < float("inf"):
            raise ValueError(f"beta is {beta}: expected a finite number of at least 0; the paper uses 100")
        if not 0 <= drop_conv_rate < 1:
            raise ValueError(f"drop_conv_rate is {drop_conv_rate}: expected a share of at least 0 and below 1")
        stages, linears = stages_from_notation(notation, in_chans)
        sizes = feature_sizes(stages, img_size)
        self.notation = paper.format(paper.parse(notation))
        self.num_classes = (linears[-1] if linears else 0) if num_classes is None else num_classes
        self.in_chans = in_chans
        self.grad_checkpointing = False
        self._traits = {"fixed_input_size": global_pool == "flatten"}

        decoder = MirroredDecoder(stages, pool, unpool, batch_norm, beta, **dd)
        self.stages: Any = nn.Sequential(
            *(
                EncoderStage(s, pool, beta, batch_norm, drop_conv_rate, is_input=m == 0, **dd)
                for m, s in enumerate(stages)
            )
        )
        self.feature_info = [
            {"num_chs": stage.convs[-1].out_chs, "reduction": total_reduction(stages[: m + 1]), "module": f"stages.{m}"}
            for m, stage in enumerate(stages)
        ]
        self.smallest = total_reduction(stages)
        self.num_features = stages[-1].convs[-1].out_chs
        self.head = Head(
            self.num_features, sizes[-1], img_size, linears[:-1], self.num_classes, global_pool, drop_rate, **dd
        )
        self.head_hidden_size = self.head.num_features
        self.decoder: MirroredDecoder | None = decoder  # last: timm's feature nets run children in order
        self.init_weights(needs_reset=False)

    @_python_only
    def init_weights(self, needs_reset: bool = True) -> None:
        """He initialisation of the convolutions (all but the last are followed by ReLU), zero biases.

        Args:
            needs_reset: also reset the other layers to torch's own initialisation, as after `to_empty`; a layer
                that was just built has it already.
        """
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
            elif needs_reset and isinstance(module, (nn.Linear, nn.BatchNorm2d)):
                module.reset_parameters()

    # --- the auto-encoder -------------------------------------------------------------------------

    @torch.jit.unused
    @explain_norms
    def forward_encoder(self, x: Tensor) -> Encoding:
        """Images (B, in_chans, H, W) -> whats, switches, sizes and top features."""
        x = _check_images(x, self.in_chans, self.smallest)
        whats, switches, sizes = [], [], []
        for stage in self.stages:
            sizes.append((x.shape[2], x.shape[3]))
            x, where = checkpoint(stage.forward_switch, x) if self.grad_checkpointing else stage.forward_switch(x)
            whats.append(x)
            switches.append(where)
        return Encoding(tuple(whats), tuple(switches), tuple(sizes), x)

    @property
    def img_size(self) -> tuple[int, int]:
        """(H, W) of the images that the model was built for."""
        return self.head.img_size

    @property
    def num_middles(self) -> int:
        """One for each stage but the topmost."""
        return len(self.stages) - 1

    @property
    def text(self) -> str:
        """The paper's notation."""
        return self.notation

    def forget_where(self, encoding: Encoding) -> Encoding:
        """The encoding with every where replaced by the middle of its window."""
        return encoding._replace(
            switches=tuple(
                None if where is None else stage.pool.centre(where)
                for where, stage in zip(encoding.switches, self.stages, strict=False)
            )
        )

    # --- timm's contract --------------------------------------------------------------------------

    def forward_features(self, x: Tensor) -> Tensor:
        """Images (B, in_chans, H, W) -> top what (B, num_features, h, w)."""
        x = _check_images(x, self.in_chans, self.smallest)
        if self.grad_checkpointing and not torch.jit.is_scripting():
            return checkpoint_seq(self.stages, x)
        return self.stages(x)

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Top what -> logits (B, num_classes), or the input of the last layer."""
        return self.head(x, pre_logits=pre_logits)

    def forward(self, x: Tensor) -> Tensor:
        """Images (B, in_chans, H, W) -> logits (B, num_classes): the plain convnet."""
        return self.forward_head(self.forward_features(x))

    @_python_only
    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | list[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> list[Tensor] | tuple[Tensor, list[Tensor]]:
        """The whats of the chosen stages, as timm's models return them.

        Args:
            x: images (B, in_chans, H, W).
            indices: the last n stages if an int, all if None, else those named (negative: from the end).
            norm: unused, there is no final norm.
            stop_early: do not run the stages after the last one asked for.
            output_fmt: "NCHW" only.
            intermediates_only: return the list alone, not (features, list).

        Raises:
            ValueError: another output_fmt, or images of another shape.
        """
        if output_fmt != "NCHW":
            raise ValueError(f"output_fmt is {output_fmt!r}: expected 'NCHW'; permute the maps for another")
        take, last = feature_take_indices(len(self.stages), indices)
        x = _check_images(x, self.in_chans, self.smallest)
        intermediates = []
        for m, stage in enumerate(self.stages[: last + 1] if stop_early else self.stages):
            x = checkpoint(stage, x) if self.grad_checkpointing else stage(x)
            if m in take:
                intermediates.append(x)
        return intermediates if intermediates_only else (x, intermediates)

    def prune_intermediate_layers(
        self, indices: int | list[int] = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Drops what the chosen intermediates don't need: later stages, the decoder, the head.

        Returns:
            The indices of the stages asked for, from the front.
        """
        take, last = feature_take_indices(len(self.stages), indices)
        self.decoder = None
        if last < len(self.stages) - 1:
            prune_head = True  # it was built for the map of a stage that is dropped
            info = self.feature_info[last]
            self.stages, self.smallest, self.num_features = self.stages[: last + 1], info["reduction"], info["num_chs"]
            self.head.rebase(self.num_features, self.smallest)
        if prune_head:
            self.reset_classifier(0, "")
        return take

    @_python_only
    def get_classifier(self) -> nn.Module:
        return self.head.fc

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """A new last layer for ``num_classes`` (0: none), and another global pool if given."""
        self.head.reset(num_classes, global_pool, **get_device_dtype(self))
        self.num_classes, self.head_hidden_size = num_classes, self.head.num_features
        self._traits = dict(self._traits, fixed_input_size=self.head.pool_type == "flatten")

    @_python_only
    def set_grad_checkpointing(self, enable: bool = True) -> None:
        self.grad_checkpointing = enable

    @_python_only
    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Layer groups for timm's layer-wise learning rate decay; the decoder counts with the head."""
        return {
            "stem": r"^stages\.0\.convs\.0",
            "blocks": r"^stages\.(\d+)" if coarse else r"^stages\.(\d+)\.convs\.(\d+)",
        }

    @_python_only
    def no_weight_decay(self) -> set[str]:
        return set()


def checkpoint_filter_fn(state_dict: dict[str, Any], model: NotationSWWAE) -> dict[str, Tensor]:
    """Adapts saved weights to a model of another in_chans (see `fit_image_channels`).

    Raises:
        ValueError: layers of the head have other shapes, since img_size, global_pool or notation differ.
    """
    state_dict = dict(state_dict.get("state_dict", state_dict))  # training scripts save it under that name
    own = model.state_dict()
    assert model.decoder is not None
    last = len(model.decoder.stages[0].convs) - 1
    fit_image_channels(state_dict, own, f"decoder.stages.0.convs.{last}.conv", model.in_chans)

    classifier = state_dict.get("head.fc.weight")
    dropped = classifier is not None and classifier.shape[0] != model.num_classes  # timm leaves it out then
    for key, saved in state_dict.items():
        wrong = key.startswith("head.") and key in own and own[key].shape != saved.shape
        if wrong and not (dropped and key.startswith("head.fc.")):
            raise ValueError(
                f"{key} has shape {tuple(saved.shape)} in the saved weights, but {tuple(own[key].shape)} in a model "
                f"for images of {model.head.img_size} with global_pool={model.head.pool_type!r}: build the model with "
                f"the img_size, global_pool and notation that the weights were trained with, or leave its head out "
                f"with num_classes=0 and global_pool=''"
            )
    return state_dict


def _cfg(url: str = "", **kwargs: Any) -> dict[str, Any]:
    return {
        "url": url,
        "num_classes": 10,
        "input_size": (3, 32, 32),
        "pool_size": (4, 4),
        "fixed_input_size": True,
        "crop_pct": 1.0,
        "interpolation": "bilinear",
        "mean": (0.0, 0.0, 0.0),
        "std": (1.0, 1.0, 1.0),
        "first_conv": "stages.0.convs.0.conv",
        "classifier": "head.fc",
        "license": "mit",
        "paper_ids": "arXiv:1506.02351",
        "paper_name": "Stacked What-Where Auto-Encoders",
        **kwargs,
    }


_STL10 = _cfg(input_size=(3, 96, 96), pool_size=(2, 2))
_cfgs: Any = with_weights(
    {
        "swwae_mnist": _cfg(input_size=(1, 32, 32), mean=(0.0,), std=(1.0,)),
        "swwae_svhn": _cfg(),
        "swwae_stl10": _STL10,
        "swwae_cifar_vgg": _cfg(pool_size=(2, 2)),
    }
)
default_cfgs = generate_default_cfgs(_cfgs)
default_cfgs["swwae_stl10_vgg"] = default_cfgs["swwae_stl10"]

SWWAE_ARGS = {
    "notation": text(1000),
    "num_classes": whole(0, MAX_CLASSES),
    "in_chans": whole(1, MAX_CHANS),
    "img_size": either(whole(1, MAX_SIDE), listed(whole(1, MAX_SIDE), 2, 2)),
    "global_pool": one_of(*GLOBAL_POOLS),
    "pool": Rule(
        lambda value: isinstance(value, str) and value in pool_names(),
        "a registered kind of pool, such as 'hard' or 'soft'",
    ),
    "beta": number(0, 1e6),
    "unpool": Rule(
        lambda value: isinstance(value, str) and value in unpool_names(),
        "'switch', or a registered kind without a where, such as 'upsample'",
    ),
    "batch_norm": flag(),
    "drop_rate": number(0, 1),
    "drop_conv_rate": number(0, 1),
}
register_arguments((*NOTATIONS, "swwae_stl10_vgg"), SWWAE_ARGS)


def _create_swwae(variant: str, pretrained: bool, defaults: dict[str, Any], given: dict[str, Any]) -> NotationSWWAE:
    """Builds a variant; a ``notation`` of the caller's sets the number of classes, too.

    Raises:
        RuntimeError: pretrained, but there are no weights to load.
        ValueError: an option is wrong, or the weights can't be fetched or don't fit.
    """
    kwargs, saved = resolve(variant, pretrained, defaults, given)
    stages, linears = stages_from_notation(kwargs["notation"], in_chans=1)
    if kwargs["notation"] != NOTATIONS[variant] and linears:
        kwargs.setdefault("num_classes", linears[-1])
    out_indices = kwargs.pop("out_indices", tuple(range(len(stages))))
    saved_args, file = kwargs.get("pretrained_model_args") or {}, None

    def construct(**args: Any) -> NotationSWWAE:
        nonlocal file
        if saved is None:
            return NotationSWWAE(**args)
        with saved.bounds():
            model = NotationSWWAE(**args)
        cfg = resolve_pretrained_cfg(variant, kwargs["pretrained_cfg"], kwargs["pretrained_cfg_overlay"])
        file = saved.fill(model, checkpoint_filter_fn, cfg.to_dict())
        return model

    model: Any = build_model_with_cfg(
        construct,
        variant,
        pretrained and saved is None,
        pretrained_filter_fn=checkpoint_filter_fn,
        feature_cfg={"out_indices": out_indices, "flatten_sequential": True},
        **kwargs,
    )
    if file is not None:
        model.pretrained_cfg["file"] = file
    model._model_args = dict(saved_args)  # timm adds what the caller gave, and saves both in config.json
    return model


@register_model
def swwae_mnist(pretrained: bool = False, **kwargs: Any) -> NotationSWWAE:
    """The paper's MNIST net, 1x32x32 (28x28 padded by 2)."""
    return _create_swwae("swwae_mnist", pretrained, {"notation": NOTATIONS["swwae_mnist"]}, kwargs)


@register_model
def swwae_svhn(pretrained: bool = False, **kwargs: Any) -> NotationSWWAE:
    """The paper's SVHN net, 3x32x32."""
    return _create_swwae("swwae_svhn", pretrained, {"notation": NOTATIONS["swwae_svhn"]}, kwargs)


@register_model
def swwae_stl10(pretrained: bool = False, **kwargs: Any) -> NotationSWWAE:
    """The paper's VGG-style STL-10 net, 3x96x96, batch norm after every convolution."""
    return _create_swwae("swwae_stl10", pretrained, {"notation": NOTATIONS["swwae_stl10"], "batch_norm": True}, kwargs)


@register_model
def swwae_stl10_vgg(pretrained: bool = False, **kwargs: Any) -> NotationSWWAE:
    """`swwae_stl10` by its other name."""
    return swwae_stl10(pretrained, **kwargs)


@register_model
def swwae_cifar_vgg(pretrained: bool = False, **kwargs: Any) -> NotationSWWAE:
    """The paper's VGG-style CIFAR net, 3x32x32, batch norm after every convolution."""
    return _create_swwae(
        "swwae_cifar_vgg", pretrained, {"notation": NOTATIONS["swwae_cifar_vgg"], "batch_norm": True}, kwargs
    )
