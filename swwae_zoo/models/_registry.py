"""The registered SWWAEs by name, and one of them built without weights."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any

import timm
import torch

from swwae_zoo.models._base import SWWAE
from swwae_zoo.models._pretrained import place_of_weights

__all__ = ["build_meta", "check_model_name", "model_names", "without_weights"]


def model_names() -> list[str]:
    """The registered SWWAEs, by name."""
    return timm.list_models("swwae*")


def check_model_name(name: str) -> None:
    """Lets pass what names a SWWAE: a registered name, with or without timm's tag, or one with a schema ("local-dir:").

    Raises:
        ValueError: any other name, the nearest is in the message; or a tag without weights.
    """
    names = model_names()
    if ":" in name:
        return
    if name.partition(".")[0] in names:
        if "." in name:
            place_of_weights(name)
        return
    if timm.is_model(name.partition(".")[0]):
        raise ValueError(f"model: got {name!r}, a plain backbone: --backbone {name} wraps it with a decoder")
    near = difflib.get_close_matches(name, names, n=1)
    hint = f"did you mean {near[0]}?" if near else "`swwae list` lists them"
    raise ValueError(f"model: got {name!r}, expected one of {', '.join(names)}; {hint}")


def without_weights(model_args: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments that say what a model is, less those that say where its backbone's weights come from."""
    return {
        key: value for key, value in model_args.items() if key not in ("backbone_pretrained", "backbone_checkpoint")
    }


def build_meta(name: str, model_args: Mapping[str, Any] | None = None) -> SWWAE:
    """The model without weights, on the meta device: costs no memory and no initialisation.

    Args:
        name: as `timm.create_model` takes it.
        model_args: arguments for `timm.create_model`; None values, and a backbone's weights, are left out.

    Raises:
        ValueError: an unknown model or argument, or one that the model refuses.
    """
    check_model_name(name)
    given = {key: value for key, value in without_weights(model_args or {}).items() if value is not None}
    with torch.device("meta"):
        try:
            model = timm.create_model(name, **given)
        except TypeError as error:
            raise ValueError(f"model {name} does not take these arguments: {error}") from None
    if not isinstance(model, SWWAE):
        raise ValueError(f"model: got {name!r}, a {type(model).__name__}, expected a SWWAE such as swwae_mnist")
    return model.eval()
