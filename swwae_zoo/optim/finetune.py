"""Fine-tuning an encoder that has learned already: stages that stay, batch norm that stays, learning rates by layer.

Layers are timm's layer groups (`group_matcher`): the stem is the first, classifier and decoder are the last.
"""

from __future__ import annotations

from typing import Any

from timm.models import group_parameters
from timm.optim import param_groups_layer_decay, param_groups_weight_decay
from torch.nn.modules.batchnorm import _BatchNorm

from swwae_zoo.models._base import SWWAE

__all__ = ["freeze", "parameter_groups"]


def freeze(model: SWWAE, stages: int = 0, norm_eval: bool = False) -> None:
    """Keeps weights of the first stages, and their batch norms' statistics, or those of the whole encoder.

    Args:
        model: changed in place.
        stages: how many of the encoder's stages, the stem being the first.
        norm_eval: batch norm of the whole encoder runs as in evaluation, in training too.

    Raises:
        ValueError: more stages than there are.
    """
    names: set[str] = set()
    if stages:
        layer_of = _layers(model, coarse=True)
        own = sorted(set(layer_of.values()))[:-1]  # the last holds classifier and decoder
        if stages > len(own):
            raise ValueError(
                f"freeze_stages: got {stages}, expected at most {len(own)}, the stem and the stages of this model"
            )
        names = {name for name, layer in layer_of.items() if layer in own[:stages]}
        for name, parameter in model.named_parameters():
            if name in names:
                parameter.requires_grad_(False)
    stilled = []
    for name, module in model.named_modules():
        in_encoder = isinstance(module, _BatchNorm) and not name.startswith("decoder.")
        frozen = any(f"{name}.{own}" in names for own, _ in module.named_parameters(recurse=False))
        if in_encoder and (norm_eval or frozen):
            stilled.append(module)
    object.__setattr__(model, "_stilled", tuple(stilled))  # no submodules of their own
    model.train(model.training)


def parameter_groups(
    model: Any, weight_decay: float, lr: float, lr_encoder: float = 0.0, layer_decay: float = 1.0
) -> list[dict[str, Any]]:
    """Groups for timm's optimisers: no decay of biases and norms, and "lr_scale" for timm's schedulers.

    Args:
        lr: learning rate of decoder and classifier.
        lr_encoder: of all else; 0 for the same.
        layer_decay: a factor for each layer further from the classifier.
    """
    skip = model.no_weight_decay() if hasattr(model, "no_weight_decay") else set()
    if layer_decay < 1:
        groups = param_groups_layer_decay(
            model, weight_decay, no_weight_decay_list=tuple(skip), layer_decay=layer_decay
        )
    else:
        groups = param_groups_weight_decay(model, weight_decay, no_weight_decay_list=tuple(skip))
    if not lr_encoder or lr_encoder == lr:
        return groups
    classifier = model.get_classifier()
    heads = classifier if isinstance(classifier, (tuple, list)) else (classifier,)
    late = {id(p) for module in (model.decoder, *heads) if module is not None for p in module.parameters()}
    split = []
    for group in groups:
        for is_late, factor in ((False, lr_encoder / lr), (True, 1.0)):
            params = [p for p in group["params"] if (id(p) in late) == is_late]
            if params:
                split.append({**group, "params": params, "lr_scale": group.get("lr_scale", 1.0) * factor})
    return split


def _layers(model: Any, coarse: bool) -> dict[str, int]:
    """Name of each parameter -> its layer, 0 nearest to the image."""
    found: dict[str, int] = {}
    for layer, names in enumerate(group_parameters(model, model.group_matcher(coarse=coarse)).items()):
        for name in names[1]:
            found[name] = names[0] if isinstance(names[0], int) else layer
    return found
