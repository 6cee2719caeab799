"""Builds the model that a checked config.json describes: each tensor is counted before it is allocated."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Any

import timm
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.overrides import TorchFunctionMode

from swwae_zoo.hub.config import ModelConfig
from swwae_zoo.hub.errors import HubError

__all__ = ["MAX_PARAMS", "bounded", "build_on_meta", "check_model"]

MAX_PARAMS = 2**30
MAX_TENSORS = 2**14
FACTORIES = frozenset(
    (
        torch.arange,
        torch.empty,
        torch.empty_strided,
        torch.eye,
        torch.full,
        torch.linspace,
        torch.ones,
        torch.rand,
        torch.randint,
        torch.randn,
        torch.tril_indices,
        torch.triu_indices,
        torch.zeros,
    )
)
REFUSALS = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    MemoryError,
    RecursionError,
    RuntimeError,
    TypeError,
    ValueError,
)


class _Bounds(TorchFunctionMode):
    """Counts what is allocated before it is, and can skip the random initialisation of weights that are overwritten."""

    def __init__(self, where: str, limit: int, skip_init: bool) -> None:
        super().__init__()
        self.where, self.limit, self.skip_init = where, limit, skip_init
        self.params = self.tensors = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if self.skip_init:
            if getattr(func, "__module__", "") == "torch.nn.init":
                return kwargs["tensor"] if "tensor" in kwargs else args[0]
            if func in (Tensor.normal_, Tensor.uniform_):
                return args[0]
        if func in FACTORIES:
            self._count(func(*args, **{**kwargs, "device": "meta", "pin_memory": False}))
        return func(*args, **kwargs)

    def _count(self, shape: Tensor) -> None:
        if isinstance(shape, FakeTensor):  # while a backbone is probed: it has no memory
            return
        self.params, self.tensors = self.params + shape.numel(), self.tensors + 1
        if self.params > self.limit:
            raise HubError(
                f"{self.where}: config.json asks for a model of {self.params:,} parameters, "
                f"expected at most {self.limit:,}"
            )
        if self.tensors > MAX_TENSORS:
            raise HubError(f"{self.where}: config.json asks for a model of more than {MAX_TENSORS:,} tensors")


@contextmanager
def bounded(where: str, limit: int = MAX_PARAMS, skip_init: bool = False, blame_config: bool = True) -> Iterator[None]:
    """Within it a model may be built that a config.json describes.

    Args:
        where: whose config.json it is, for errors.
        limit: parameters and buffers that may be allocated.
        skip_init: leave weights uninitialised: all are overwritten.
        blame_config: every argument is the config.json's, so an error of the constructor is, too.

    Raises:
        HubError: the model is too large, or refuses its arguments.
    """
    try:
        with _Bounds(where, limit, skip_init):
            yield
    except HubError:
        raise
    except REFUSALS as error:
        if not blame_config:
            raise
        reason = " ".join(str(error).split()) or type(error).__name__
        raise HubError(f"{where}: no model can be built from config.json: {reason:.300}") from error


def build_on_meta(config: ModelConfig, where: str) -> nn.Module:
    """The saved model on the meta device, to compare weights with: shapes without memory.

    Raises:
        HubError: the model refuses its arguments, is too large, or contradicts the rest of its config.json.
    """
    with torch.device("meta"), bounded(where, skip_init=True):
        model = timm.create_model(config.architecture, pretrained_cfg=dict(config.pretrained_cfg), **config.model_args)
    check_model(model, config, where)
    return model


def check_model(model: nn.Module, config: ModelConfig, where: str, changed: Collection[str] = ()) -> None:
    """Compares a built model with what its config.json says of it, since timm leaves out what does not fit in silence.

    Args:
        changed: arguments that the caller gave otherwise than they were saved.

    Raises:
        HubError: they contradict each other.
    """
    said = {
        "num_classes": config.pretrained_cfg.get("num_classes"),
        "in_chans": (config.pretrained_cfg.get("input_size") or [None])[0],
    }
    for key, value in said.items():
        if value is not None and key not in changed and value != getattr(model, key, value):
            raise HubError(
                f"{where}: config.json says {key} = {value} in one place, and builds a model of {getattr(model, key)}"
            )
    names = dict(model.named_modules())
    for key, fits in (("first_conv", _is_conv), ("classifier", _is_classifier)):
        named = config.pretrained_cfg.get(key)
        for name in [named] if isinstance(named, str) else named or ():
            if name in names and not fits(names[name], model):
                raise HubError(f"{where}: config.json says {key} = {name!r}, which is none of this model")


def _is_conv(module: nn.Module, _model: nn.Module) -> bool:
    return isinstance(module, nn.Conv2d)


def _is_classifier(module: nn.Module, model: nn.Module) -> bool:
    """Whether timm may leave out this layer's weights where the number of classes differs."""
    found: Any = model.get_classifier()  # type: ignore[operator]
    weight = getattr(module, "weight", None)
    rows = weight.shape[0] if isinstance(weight, Tensor) and weight.ndim > 1 else None
    return module in (found if isinstance(found, (tuple, list)) else [found]) or rows == model.num_classes
