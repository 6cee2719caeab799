"""Captures feature maps and switches during one forward pass of a backbone, replacing pooling ops as they are called.

`Capture` is a `TorchFunctionMode`: it is entered around one call of the backbone and sees that call's operations alone,
in the thread that runs them.  Nothing is put on a module, so threads do not see each other, and checkpointing,
torch.compile and torch.export see the plain backbone.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from swwae_zoo.layers.hard_pool import HardPool
from swwae_zoo.models.wrapped.probe import is_counted

__all__ = ["Action", "PoolGeometry", "Plan", "Pooled", "Capture", "fit", "tap"]


class PoolGeometry(NamedTuple):
    """Window of one pool, and (H, W) of the map it pooled, to which unpooling returns."""

    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]
    size: tuple[int, int]

    def unpool(self, what: Tensor, where: Tensor) -> Tensor:
        """(B, C, h, w) -> (B, C, *size)."""
        return HardPool(self.kernel, self.stride, self.padding).unpool(what, where, self.size)

    def centre(self, where: Tensor) -> Tensor:
        """A where that points at the middle of every window."""
        return HardPool(self.kernel).centre(where)


class Pooled(NamedTuple):
    """what, where: (B, C, h, w), see `HardPool`."""

    what: Tensor
    where: Tensor
    geometry: PoolGeometry


class Action(NamedTuple):
    """What to do at one call.

    kind: "in" or "out": capture its input or output map; "size": record (h, w) of its output; "max": replace a max pool
        by one that also gives the where; "conv", "avg": use stride 1, then a pool of that stride; "move": take the
        maximum of every window of stride 1 before the map is rearranged.
    slot: index of the step; -1 where the result is not needed.
    """

    kind: str
    slot: int
    stride: tuple[int, int]
    channels_last: bool


Plan = dict[Any, dict[int, tuple[Action, ...]]]  # function -> turn -> actions


class Captured(NamedTuple):
    """What one run captured, by slot."""

    maps: dict[int, Tensor]
    sizes: dict[int, tuple[int, int]]
    pooled: dict[int, Pooled]


class Capture(TorchFunctionMode):
    """Carries out a plan while it is entered.

    Args:
        plan: calls to act on.
        captured: filled during the run.
        turns: an empty dict, which counts the calls.
        replace: whether max pools are replaced.  A checkpointed backbone is recomputed outside of this mode and has to
            compute the same, so there the where is computed beside its own max pool.
    """

    def __init__(self, plan: Plan, captured: Captured, turns: dict[Any, int], replace: bool = True):
        super().__init__()
        self.plan, self.captured, self.turns, self.replace = plan, captured, turns, replace

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        planned = self.plan.get(func)
        if planned is None:
            return func(*args, **kwargs)
        turn = self.turns.get(func, 0)
        if not is_counted(args, kwargs):
            return func(*args, **kwargs)
        self.turns[func] = turn + 1
        actions = planned.get(turn)
        if actions is None:
            return func(*args, **kwargs)
        captured, out = self.captured, None
        for action in actions:
            if action.kind == "in":
                captured.maps[action.slot] = channels_first(args[0] if args else kwargs["input"], action.channels_last)
        for action in actions:
            if action.kind == "max":
                pooled = _max_pool(*args, replace=self.replace, **kwargs)
                captured.pooled[action.slot] = pooled
                out = pooled.what
            elif action.kind == "conv" or action.kind == "avg":
                dense = _dense_conv(*args, **kwargs) if action.kind == "conv" else _dense_average(*args, **kwargs)
                out = self._pool(dense, action)
            elif action.kind == "move":
                x = channels_first(args[0], action.channels_last)
                if action.slot >= 0:
                    self._pool(x, action)
                (sh, sw) = action.stride
                x = F.max_pool2d(F.pad(x, (0, sw - 1, 0, sh - 1), mode="replicate"), action.stride, 1)
                args = (x.permute(0, 2, 3, 1) if action.channels_last else x, *args[1:])
        if out is None:
            out = func(*args, **kwargs)
        for action in actions:
            if action.kind == "out":
                captured.maps[action.slot] = channels_first(out, action.channels_last)
            elif action.kind == "size":
                captured.sizes[action.slot] = (out.shape[2], out.shape[3])
        return out

    def _pool(self, x: Tensor, action: Action) -> Tensor:
        """Reduces a dense map by the stride that was taken out; windows start where the strided ones did."""
        if action.slot < 0:
            return F.max_pool2d(x, action.stride, action.stride, ceil_mode=True)
        pooled = self.captured.pooled[action.slot] = _pool_windows(x, action.stride)
        return pooled.what


def channels_first(x: Tensor, channels_last: bool) -> Tensor:
    return x.permute(0, 3, 1, 2) if channels_last else x


def _max_pool(
    x: Tensor,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
    replace: bool = True,
) -> Pooled:
    """`F.max_pool2d` with a where; that of a dilated window is its position in the window that spans it."""
    kernel, padding, dilation = _pair(kernel_size), _pair(padding), _pair(dilation)
    stride = kernel if stride is None or stride == [] else _pair(stride)
    size = (x.shape[2], x.shape[3])
    if dilation != (1, 1):
        what, index = F.max_pool2d(x, kernel, stride, padding, dilation, ceil_mode, return_indices=True)
        span = ((kernel[0] - 1) * dilation[0] + 1, (kernel[1] - 1) * dilation[1] + 1)
        return Pooled(
            what, _where_of_index(index, span, stride, padding, size[1]), PoolGeometry(span, stride, padding, size)
        )
    pool = HardPool(kernel, stride, padding, ceil_mode)
    if replace:
        what, where = pool.pool(x)
    else:
        what = F.max_pool2d(x, kernel, stride, padding, 1, ceil_mode)
        with torch.no_grad():
            where = pool.pool(x.detach())[1]
    return Pooled(what, where, PoolGeometry(kernel, stride, padding, size))


def _where_of_index(
    index: Tensor, span: tuple[int, int], stride: tuple[int, int], padding: tuple[int, int], width: int
) -> Tensor:
    """Row-major position in a window of ``span``, uint8, from torch's index into a flat image ``width`` wide."""
    rows, columns = (torch.arange(n, device=index.device) for n in index.shape[2:])
    row = index // width - (rows * stride[0] - padding[0])[:, None]
    column = index % width - (columns * stride[1] - padding[1])
    return (row * span[1] + column).to(torch.uint8)


def _dense_conv(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Tensor:
    return torch.conv2d(x, weight, bias, 1, padding, dilation, groups)


def _dense_average(
    x: Tensor,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Tensor:
    """Average pooling at stride 1; where a window hangs over the edge in ceil mode, the last row is repeated."""
    kernel, padding = _pair(kernel_size), _pair(padding)
    stride = kernel if stride is None or stride == [] else _pair(stride)
    if ceil_mode:
        over = []
        for full, k, s, p in zip(x.shape[2:], kernel, stride, padding, strict=False):
            n = -((full + 2 * p - k) // -s) + 1
            n -= int((n - 1) * s >= full + p)
            over.append(max(0, (n - 1) * s + k - 2 * p - full))
        x = F.pad(x, (0, over[1], 0, over[0]), mode="replicate")
    return F.avg_pool2d(x, kernel, 1, padding, False, count_include_pad, divisor_override)


def tap(x: Tensor, size: tuple[int, int] | None, stride: tuple[int, int]) -> Pooled:
    """Pools a map beside the backbone's own downsampling step, to the size of the step's output.

    Args:
        x: (B, C, H, W), the step's input.
        size: (h, w) of the step's output; None for the smallest that covers the map.
        stride: of the step.
    """
    full = (x.shape[2], x.shape[3])
    if size is not None:  # rows and columns that the step drops, and those that its padding adds
        kept = tuple(
            n * s if n * s < side else max(side, (n - 1) * s + 1)
            for side, n, s in zip(full, size, stride, strict=False)
        )
        x = fit(x, (kept[0], kept[1]), "replicate")
    return _pool_windows(x, stride)


def _pool_windows(x: Tensor, size: tuple[int, int]) -> Pooled:
    """Windows of ``size`` that do not overlap and cover the whole map."""
    what, where = HardPool(size, ceil_mode=True).pool(x)
    return Pooled(what, where, PoolGeometry(size, size, (0, 0), (x.shape[2], x.shape[3])))


def fit(x: Tensor, size: tuple[int, int], mode: str = "constant") -> Tensor:
    """Crops or pads (B, C, H, W) evenly on both sides to (B, C, *size)."""
    down, right = size[0] - x.shape[2], size[1] - x.shape[3]
    if down == 0 and right == 0:
        return x
    pads = (_floor_half(right), right - _floor_half(right), _floor_half(down), down - _floor_half(down))
    if mode != "constant" and min(pads) < 0:
        x = F.pad(x, tuple(min(0, p) for p in pads))
        pads = tuple(max(0, p) for p in pads)
    return F.pad(x, pads, mode=mode)


def _floor_half(n: int) -> int:
    return n // 2 if n >= 0 else -(-n // 2)


def _pair(value: Any) -> tuple[int, int]:
    if isinstance(value, int):
        return value, value
    return (int(value[0]), int(value[-1]))
