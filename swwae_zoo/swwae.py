"""The paper's four nets as timm models.

Paper: `Stacked What-Where Auto-Encoders` - https://arxiv.org/abs/1506.02351

Importing this file registers them: `timm.create_model("swwae_mnist")`.
"""
from __future__ import annotations

from typing import Any

from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from torch import Tensor

from . import wrap as _registers_swwae_wrap  # noqa: F401
from .adapt import fit_image_channels
from .convnet import NotationSWWAE
from .hub.pretrained import resolve, with_weights
from .model import SWWAE, SWWAEOutput
from .stages import stages_from_notation

__all__ = ["NOTATIONS", "SWWAE", "SWWAEOutput"]

NOTATIONS = {
    "swwae_mnist": "(64)5c-2p-(64)3c-2p-(64)3c-2p-10fc",
    "swwae_svhn": "(128)5c-2p-(128)3c-(256)3c-2p-(256)3c-2p-10fc",
    "swwae_stl10": "(64)3c-4p-(64)3c-3p-(128)3c-(128)3c-2p-(256)3c-(256)3c-(256)3c-(512)3c-(512)3c-(512)3c-2p-10fc",
    "swwae_cifar_vgg": "(128)3c-(256)3c-2p-(256)3c-(512)3c-2p-(512)3c-(512)3c-2p-(512)3c-(512)3c-2p-128fc-10fc",
}


def checkpoint_filter_fn(state_dict: dict[str, Tensor], model: NotationSWWAE) -> dict[str, Tensor]:
    """Fits saved weights to a model of another in_chans (see `fit_image_channels`), and says what can't be fitted.

    Raises:
        ValueError: layers of the head have other shapes, since img_size, global_pool or notation differ.
    """
    state_dict = dict(state_dict.get("state_dict", state_dict))  # training scripts save it under that name
    own = model.state_dict()
    last = len(model.decoder.stages[0].convs) - 1
    fit_image_channels(state_dict, own, f"decoder.stages.0.convs.{last}.conv", model.in_chans)

    classifier = state_dict.get("head.fc.weight")
    dropped = classifier is not None and classifier.shape[0] != model.num_classes  # timm leaves it out then
    for key, saved in state_dict.items():
        wrong = key.startswith("head.") and key in own and own[key].shape != saved.shape
        if wrong and not (dropped and key.startswith("head.fc.")):
            raise ValueError(
                f"{key} has shape {tuple(saved.shape)} in the saved weights, but {tuple(own[key].shape)} in a model for "
                f"images of {model.head.img_size} with global_pool={model.head.pool_type!r}: build the model with the "
                f"img_size, global_pool and notation that the weights were trained with, or leave its head out with num_classes=0 and global_pool=''"
            )
    return state_dict


def _cfg(url: str = "", **kwargs: Any) -> dict[str, Any]:
    return {
        "url": url, "num_classes": 10, "input_size": (3, 32, 32), "pool_size": (4, 4), "fixed_input_size": True,
        "crop_pct": 1.0, "interpolation": "bilinear", "mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0),
        "first_conv": "stages.0.convs.0.conv", "classifier": "head.fc", "license": "mit",
        "paper_ids": "arXiv:1506.02351", "paper_name": "Stacked What-Where Auto-Encoders", **kwargs,
    }


_STL10 = _cfg(input_size=(3, 96, 96), pool_size=(2, 2))
default_cfgs = generate_default_cfgs(with_weights({
    "swwae_mnist": _cfg(input_size=(1, 32, 32), mean=(0.0,), std=(1.0,)),
    "swwae_svhn": _cfg(),
    "swwae_stl10": _STL10,
    "swwae_cifar_vgg": _cfg(pool_size=(2, 2)),
}))
default_cfgs["swwae_stl10_vgg"] = default_cfgs["swwae_stl10"]


def _create_swwae(variant: str, pretrained: bool, defaults: dict[str, Any], given: dict[str, Any]) -> NotationSWWAE:
    """Build a variant.  A caller's own ``notation`` brings its own number of classes along.

    Raises:
        RuntimeError: pretrained, but there are no weights to load.
        ValueError: an option is wrong, or the weights can't be had or are not what they should be.
    """
    kwargs = resolve(variant, pretrained, defaults, given)
    stages, linears = stages_from_notation(kwargs["notation"], in_chans=1)
    if kwargs["notation"] != NOTATIONS[variant] and linears:
        kwargs.setdefault("num_classes", linears[-1])
    out_indices = kwargs.pop("out_indices", tuple(range(len(stages))))
    saved_args = kwargs.get("pretrained_model_args") or {}
    model = build_model_with_cfg(
        NotationSWWAE, variant, pretrained,
        pretrained_filter_fn=checkpoint_filter_fn,
        feature_cfg={"out_indices": out_indices, "flatten_sequential": True},
        **kwargs,
    )
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
    return _create_swwae("swwae_cifar_vgg", pretrained, {"notation": NOTATIONS["swwae_cifar_vgg"], "batch_norm": True}, kwargs)
