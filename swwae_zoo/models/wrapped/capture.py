"""One run of a backbone, watched: its maps and switches are picked up on the way, its pools exchanged in flight.

`Watch` is a `TorchFunctionMode`: it is entered around one call of the backbone and sees that call's operations alone, in
the thread that runs them.  So nothing is ever put on a module, and two threads, a checkpointed backbone, torch.compile
and torch.export see the plain backbone.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from swwae_zoo.layers.pooling import switch_pool2d

__all__ = ["Action", "Frame", "Plan", "Pooled", "Watch", "fit", "tap"]


class Frame(NamedTuple):
    """Geometry of one pool: its window, and (H, W) of the map it pooled, to which unpooling returns."""

    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]
    size: tuple[int, int]


class Pooled(NamedTuple):
    """what, where: (B, C, h, w), see `switch_pool2d`."""

    what: Tensor
    where: Tensor
    frame: Frame


class Action(NamedTuple):
    """What to do at one call.

    kind: "in" or "out": pick up the map it takes or gives; "size": note (h, w) of the result; "max": a max pool, exchanged
        for the one that gives switches; "conv", "avg": take stride 1 and let a pool step down; "move": let a dense
        maximum run over the map that is to be rearranged.
    slot: of the step, -1 where nobody asks.
    """

    kind: str
    slot: int
    stride: tuple[int, int]
    channels_last: bool


Plan = dict[Any, dict[int, tuple[Action, ...]]]  # function -> turn -> actions


class Catch(NamedTuple):
    """What one run left: by slot."""

    maps: dict[int, Tensor]
    sizes: dict[int, tuple[int, int]]
    pooled: dict[int, Pooled]


class Watch(TorchFunctionMode):
    """Carries out a plan while it is entered.

    Args:
        plan: calls to act on.
        catch: filled on the way.
        turns: an empty dict, which counts the calls.
        exchange: whether max pools are exchanged; where the backbone is checkpointed its second run is not watched and has
            to do what the first did, so there the where is made beside them.
    """

    def __init__(self, plan: Plan, catch: Catch, turns: dict[Any, int], exchange: bool = True):
        super().__init__()
        self.plan, self.catch, self.turns, self.exchange = plan, catch, turns, exchange

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        watched = self.plan.get(func)
        if watched is None:
            return func(*args, **kwargs)
        turn = self.turns.get(func, 0)
        self.turns[func] = turn + 1
        actions = watched.get(turn)
        if actions is None:
            return func(*args, **kwargs)
        catch, out = self.catch, None
        for action in actions:
            if action.kind == "in":
                catch.maps[action.slot] = channels_first(args[0] if args else kwargs["input"], action.channels_last)
        for action in actions:
            if action.kind == "max":
                pooled = _max_pool(*args, exchange=self.exchange, **kwargs)
                catch.pooled[action.slot] = pooled
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
                catch.maps[action.slot] = channels_first(out, action.channels_last)
            elif action.kind == "size":
                catch.sizes[action.slot] = (out.shape[2], out.shape[3])
        return out

    def _pool(self, x: Tensor, action: Action) -> Tensor:
        """The reduction that a stride had: every stride-th window's first position stays a window's first position."""
        if action.slot < 0:
            return F.max_pool2d(x, action.stride, action.stride, ceil_mode=True)
        what, where = switch_pool2d(x, action.stride, action.stride, 0, True)
        self.catch.pooled[action.slot] = Pooled(
            what, where, Frame(action.stride, action.stride, (0, 0), (x.shape[2], x.shape[3]))
        )
        return what


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
    exchange: bool = True,
) -> Pooled:
    """`F.max_pool2d` with a where.  A dilated window's where is counted in the window that spans it."""
    kernel, padding, dilation = _pair(kernel_size), _pair(padding), _pair(dilation)
    stride = kernel if stride is None or stride == [] else _pair(stride)
    size = (x.shape[2], x.shape[3])
    if dilation != (1, 1):
        what, index = F.max_pool2d(x, kernel, stride, padding, dilation, ceil_mode, return_indices=True)
        span = ((kernel[0] - 1) * dilation[0] + 1, (kernel[1] - 1) * dilation[1] + 1)
        return Pooled(what, _where_of_index(index, span, stride, padding, size[1]), Frame(span, stride, padding, size))
    if exchange:
        what, where = switch_pool2d(x, kernel, stride, padding, ceil_mode)
    else:
        what = F.max_pool2d(x, kernel, stride, padding, 1, ceil_mode)
        with torch.no_grad():
            where = switch_pool2d(x.detach(), kernel, stride, padding, ceil_mode)[1]
    return Pooled(what, where, Frame(kernel, stride, padding, size))


def _where_of_index(
    index: Tensor, span: tuple[int, int], stride: tuple[int, int], padding: tuple[int, int], width: int
) -> Tensor:
    """Row-major position in a window of ``span``, uint8, of torch's index into a flat image ``width`` wide."""
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
    """Average pooling at stride 1; a window that hung over the edge in ceil mode sees the last row again."""
    kernel, padding = _pair(kernel_size), _pair(padding)
    stride = kernel if stride is None or stride == [] else _pair(stride)
    if ceil_mode:
        over = []
        for full, k, s, p in zip(x.shape[2:], kernel, stride, padding, strict=False):
            n = -((full + 2 * p - k) // -s) + 1
            n -= (n - 1) * s >= full + p
            over.append(max(0, (n - 1) * s + k - 2 * p - full))
        x = F.pad(x, (0, over[1], 0, over[0]), mode="replicate")
    return F.avg_pool2d(x, kernel, 1, padding, False, count_include_pad, divisor_override)


def tap(x: Tensor, size: tuple[int, int] | None, stride: tuple[int, int]) -> Pooled:
    """Pools a map beside the backbone's own step, to the size that the step gave it.

    Args:
        x: (B, C, H, W), about to be reduced.
        size: (h, w) behind the step; None for the smallest that covers the map.
        stride: of the step.
    """
    full = (x.shape[2], x.shape[3])
    if size is not None:  # rows and columns that the step drops, and those that its padding adds
        kept = tuple(
            n * s if n * s < side else max(side, (n - 1) * s + 1)
            for side, n, s in zip(full, size, stride, strict=False)
        )
        x = fit(x, (kept[0], kept[1]), "replicate")
    what, where = switch_pool2d(x, stride, stride, 0, True)
    return Pooled(what, where, Frame(stride, stride, (0, 0), (x.shape[2], x.shape[3])))


def fit(x: Tensor, size: tuple[int, int], mode: str = "constant") -> Tensor:
    """Crops or pads (B, C, H, W) evenly on all sides to (B, C, *size)."""
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
