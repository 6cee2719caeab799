"""Kinds of what-where pools, by name: what encoder and decoder ask of a pool.

A new kind is one subclass of `Pool` in one file, anywhere:

    @register_pool("mine")
    class MyPool(Pool): ...

    timm.create_model("swwae_mnist", pool="mine")

Shapes: x and unpooled (B, C, H, W), what (B, C, h, w), where (B, C, ..., h, w).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, TypeVar

from torch import Tensor, nn

__all__ = ["Pool", "check_pool", "create_pool", "pool_names", "register_pool", "unpool_names"]

SWITCH = "switch"  # the `unpool` option that means: as the pool itself unpools, with its where


class Pool:
    """A what-where pool over windows of kernel_size x kernel_size that do not overlap, and its inverse.

    It holds options and no tensors: encoder and decoder each make their own.

    Attributes:
        name: as `register_pool` was given it.
        has_where: whether it makes and needs a where. A kind without one can only unpool: it is a choice of ``unpool``.
        commutes_with_relu: whether pool(relu(x)) == relu(pool(x)); the encoder's ReLU then runs on the pooled map.
        options: names of the keyword arguments that it takes besides kernel_size, such as "beta".

    Args:
        kernel_size: side of the window.
    """

    name: ClassVar[str] = ""
    has_where: ClassVar[bool] = True
    commutes_with_relu: ClassVar[bool] = False
    options: ClassVar[tuple[str, ...]] = ()

    def __init__(self, kernel_size: int):
        self.kernel_size = kernel_size

    def pool(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """x -> what, where; rows and columns that don't fill a window are dropped."""
        raise NotImplementedError

    def unpool(self, what: Tensor, where: Tensor | None, output_size: tuple[int, int]) -> Tensor:
        """what, where -> (B, C, *output_size), any size that pools to the what's."""
        raise NotImplementedError

    def centre(self, where: Tensor) -> Tensor:
        """A where of the same shape and dtype that points at the middle of every window."""
        raise NotImplementedError

    def what_only(self) -> nn.Module:
        """Module x -> what alone, at the plain convnet's cost; if possible, one that TorchScript compiles."""
        return WhatOnly(self)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{k}={v}' for k, v in vars(self).items())})"


class WhatOnly(nn.Module):
    """The what of a pool that has no cheaper way to it."""

    def __init__(self, pool: Pool):
        super().__init__()
        self.pool = pool

    def forward(self, x: Tensor) -> Tensor:
        return self.pool.pool(x)[0]

    def extra_repr(self) -> str:
        return repr(self.pool)


_KINDS: dict[str, type[Pool]] = {}
_Kind = TypeVar("_Kind", bound=type[Pool])


def register_pool(name: str) -> Callable[[_Kind], _Kind]:
    """Class decorator: makes a `Pool` available as the model option ``pool`` (or ``unpool``, if it has no where).

    Raises:
        ValueError: not an identifier, or the name of another kind.
    """

    def register(kind: _Kind) -> _Kind:
        if not isinstance(name, str) or not name.isidentifier() or name == SWITCH:
            raise ValueError(f"register_pool: got the name {name!r}, expected an identifier other than {SWITCH!r}")
        if name in _KINDS and _KINDS[name].__qualname__ != kind.__qualname__:  # a module that is loaded again may do so
            raise ValueError(
                f"register_pool: {name!r} is registered already, as {_KINDS[name].__name__}; choose another name"
            )
        kind.name = name
        _KINDS[name] = kind
        return kind

    return register


def pool_names() -> tuple[str, ...]:
    """Choices of the model option ``pool``: the registered kinds that make a where."""
    return tuple(name for name, kind in _KINDS.items() if kind.has_where)


def unpool_names() -> tuple[str, ...]:
    """Choices of the model option ``unpool``: "switch", and the registered kinds that need no where."""
    return (SWITCH, *(name for name, kind in _KINDS.items() if not kind.has_where))


def check_pool(name: str, unpool: str = SWITCH) -> None:
    """Raises ValueError for an unknown pool or unpool."""
    for option, given, choices in (("pool", name, pool_names()), ("unpool", unpool, unpool_names())):
        if given not in choices:
            raise ValueError(f"{option} is {given!r}: expected one of {', '.join(choices)}")


def create_pool(name: str, kernel_size: int, unpool: str = SWITCH, **options: Any) -> Pool:
    """A pool by name, or with ``unpool`` the kind that unpools in its place.

    Args:
        options: of all kinds; each is given those that it takes.

    Raises:
        ValueError: an unknown pool or unpool.
    """
    check_pool(name, unpool)
    kind = _KINDS[name if unpool == SWITCH else unpool]
    return kind(kernel_size, **{key: value for key, value in options.items() if key in kind.options})
