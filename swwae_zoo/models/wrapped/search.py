"""Finds the downsampling path of a probed backbone: its operations as a graph, searched back from the features."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from swwae_zoo.models.wrapped.probe import CHANNELS_FIRST, CHANNELS_LAST, Op, Probe
from swwae_zoo.models.wrapped.steps import Anchor, DownsamplingPath, DownsamplingStep, Event

__all__ = ["find_path"]

STEP = 1.5  # least ratio of the sides before and after a step; less is a convolution without padding
TOKENS = 0.35  # share of layers on tokens from which a net with a single step is a plain transformer or mixer,
MANY_TOKENS = 0.8  # and share of layers after the last map, whatever its steps are
SQUEEZES = {"mean", "sum", "amax", "max", "std", "var", "adaptive_avg_pool2d", "adaptive_max_pool2d", "logsumexp"}
RECTIFIERS = {"relu", "relu_", "relu6", "hardtanh", "hardtanh_", "clamp_min", "max_pool2d", "pad"}


def find_path(found: Probe) -> DownsamplingPath:
    """The downsampling steps of a probed backbone.

    Args:
        found: the probe; outputs of the modules it was given are preferred as the maps to capture.

    Raises:
        ValueError: the features come from no map, or nothing shrinks.
    """
    graph = _Graph(found)
    paths, errors = [], []
    for top in graph.tops:
        try:
            paths.append(graph.path(top))
        except ValueError as error:
            errors.append(error)
    if not paths:
        raise errors[0]
    return max(paths, key=lambda path: (len(path.steps), -sum(step.event.kind == "move" for step in path.steps)))


class _Graph:
    def __init__(self, found: Probe):
        self.found, self.ops = found, found.ops
        self.users: dict[int, list[int]] = {}
        for op in self.ops:
            for source in op.inputs:
                if source is not None:
                    self.users.setdefault(source, []).append(op.index)
        self.tops = self._find_tops()
        self.chains = self._chains()

    # --- sizes --------------------------------------------------------------------------------------

    def size(self, index: int) -> tuple[int, int] | None:
        if index == -1:
            return self.found.img_size
        layout = self.ops[index].layout
        return layout.size if layout is not None else None

    def is_map(self, index: int) -> bool:
        layout = self.ops[index].layout if index >= 0 else None
        return index == -1 or (layout is not None and layout.is_map)

    def channels(self, index: int) -> int:
        op = self.ops[index]
        return op.out_shape[3] if op.layout is not None and op.layout.dims == (1, 2) else op.out_shape[1]

    def _find_tops(self) -> list[int]:
        """The last maps before the features, latest first, all of the latest one's size.

        Raises:
            ValueError: there is none.
        """
        start = self.found.output
        if start is None:
            raise ValueError("the backbone's output is no tensor computed from the image")
        seen, queue, tops = set(), [start], []
        while queue:
            index = max(queue)
            queue.remove(index)
            if index in seen or index < 0:
                continue
            seen.add(index)
            size = self.size(index)
            if self.is_map(index) and size is not None and max(size) > 1:
                tops.append(self.unpadded(index))  # a map padded for the windows of an attention is the map
            else:
                queue += [i for i in self.ops[index].inputs if i is not None]
        self.weighted = [op for op in self.ops if op.name in ("conv2d", "linear") and op.index <= start]
        if not tops:
            raise self._only_tokens(self._on_tokens(-1))
        return [top for top in tops if self.size(top) == self.size(tops[0])]

    def _on_tokens(self, top: int, everywhere: bool = True) -> int:
        """How many layers output neither a map nor a vector, in the whole net or after the top map."""
        return sum(
            len(op.out_shape) > 2 and (op.index > top or everywhere and not self.is_map(op.index))
            for op in self.weighted
        )

    def _only_tokens(self, tokens: int) -> ValueError:
        shape = self.found.output_shape
        return ValueError(
            f"its features are {shape and tuple(shape[1:])}, and "
            + (
                f"{tokens} of its {len(self.weighted)} layers work on tokens rather than on maps (C, H, W)"
                if tokens
                else "they are computed from no map (C, H, W)"
            )
            + ": there are no feature maps to unpool to"
        )

    def _lowest_path(self) -> dict[int, float]:
        """For each operation the least area of the largest map on a path from it to the top (minimax)."""
        low: dict[int, float] = {}
        for index in range(self.top, -2, -1):
            size = self.size(index)
            is_pad = index >= 0 and self.ops[index].name == "pad"  # its margin is cropped again
            area = float(size[0] * size[1]) if size is not None and not is_pad else 0.0
            if index == self.top:
                low[index] = area
            else:
                ahead = min((low.get(user, math.inf) for user in self.users.get(index, ())), default=math.inf)
                low[index] = max(area, ahead)
        return low

    def is_main(self, index: int) -> bool:
        size = self.size(index)
        return size is not None and self.low.get(index, math.inf) <= 1.1 * size[0] * size[1]

    # --- depth --------------------------------------------------------------------------------------

    def _chains(self) -> dict[int, int]:
        """For each operation: spatial convolutions in a row up to it, since the last change of size (longest path)."""
        chains: dict[int, tuple[int, tuple[int, int] | None]] = {-1: (0, self.found.img_size)}
        for op in self.ops:
            size = self.size(op.index)
            longest = 0
            for source in op.inputs:
                if source is None:
                    continue
                count, before = chains.get(source, (0, None))
                if size is None or before is None or _same_level(before, size):
                    longest = max(longest, count)
            before = next((chains[s][1] for s in op.inputs if s is not None and s in chains), None)
            if op.name == "conv2d" and _conv_kernel(op) > 1 and _pair(_conv(op)["stride"]) == (1, 1):
                longest += 1
            chains[op.index] = (longest, size if size is not None else before)
        return {index: count for index, (count, _) in chains.items()}

    # --- steps --------------------------------------------------------------------------------------

    def events(self) -> list[Event]:
        found = []
        for op in self.ops[: self.top + 1]:
            if not self.is_map(op.index) or op.name in SQUEEZES or not self.is_main(op.index):
                continue
            event = self._event(op)
            if event is not None:
                found.append(event)
        return found

    def _event(self, op: Op) -> Event | None:
        out = self.size(op.index)
        assert out is not None
        for source in op.inputs[:1] if op.name in ("conv2d",) else op.inputs:
            if source is None:
                continue
            size = self.size(self.unpadded(source))
            if size is not None and self.is_map(source):
                if _steps_down(size, out):
                    return self._make(op, source, size, out, (op,))
            elif source >= 0:
                origin = self._origin(source)
                if origin is not None:
                    size = self.size(origin)
                    if (
                        size is not None
                        and self.is_map(origin)
                        and _steps_down(size, out)
                        and self._made_of(op, origin)
                    ):
                        return self._make(op, origin, size, out, self._entries(origin, op.index), moved=True)
        return None

    def _origin(self, index: int) -> int | None:
        """The last map that an operation of unknown layout was made from."""
        queue, seen = [index], set()
        while queue:
            at = max(queue)
            queue.remove(at)
            if at in seen:
                continue
            seen.add(at)
            if at == -1 or self.size(at) is not None:
                return at
            queue += [i for i in self.ops[at].inputs if i is not None]
        return None

    def _made_of(self, op: Op, origin: int) -> bool:
        """Whether `op` holds every value of the map, rearranged; a squeeze or an attention does not."""
        source = self.found.img_size if origin == -1 else self.size(origin)
        return source is not None and all(
            1 < round(a / b) <= 16 for a, b in zip(source, self.size(op.index) or (1, 1), strict=False)
        )

    def _entries(self, origin: int, end: int) -> tuple[Op, ...]:
        """Calls that take the map ``origin`` and lead to ``end`` through operations of unknown layout."""
        entries, queue, seen = set(), [end], set()
        while queue:
            at = queue.pop()
            if at in seen:
                continue
            seen.add(at)
            for source in self.ops[at].inputs:
                if source == origin:
                    entries.add(at)
                elif source is not None and source >= 0 and self.size(source) is None:
                    queue.append(source)
        return tuple(self.ops[i] for i in sorted(entries))

    def _make(
        self,
        op: Op,
        source: int,
        size: tuple[int, int],
        out: tuple[int, int],
        entry: tuple[Op, ...],
        moved: bool = False,
    ) -> Event | None:
        stride = tuple(max(1, round(a / b)) for a, b in zip(size, out, strict=False))
        kind = "move"
        if not moved and op.name == "conv2d":
            kind, stride = "conv", _pair(_conv(op)["stride"])
        elif not moved and op.name == "avg_pool2d":
            kind, stride = "avg", _pool_stride(op)
        elif not moved and op.name.startswith("max_pool2d"):
            kind, stride = "max", _pool_stride(op)
        if stride == (1, 1):
            return None
        in_chs = 0 if source == -1 else self.channels(source)
        layout = self.ops[source].layout if source >= 0 else None
        last = layout is not None and layout.dims == (1, 2)
        return Event(op, kind, source, entry, (stride[0], stride[1]), size, out, in_chs, self.channels(op.index), last)

    def path(self, top_index: int) -> DownsamplingPath:
        """The steps from the image to one of the last maps.

        Raises:
            ValueError: see `find_path`.
        """
        self.top, self.low = top_index, {}
        self.low = self._lowest_path()
        events, steps, size = self.events(), [], self.found.img_size
        top = self.size(self.top)
        assert top is not None
        while True:
            near = [
                e for e in events if _same_level(size, e.in_size) and e.out_size[0] * e.out_size[1] < size[0] * size[1]
            ]
            if not near:
                break
            area = max(e.out_size[0] * e.out_size[1] for e in near)
            group = tuple(e for e in near if e.out_size[0] * e.out_size[1] > 0.8 * area)
            chosen = self._choose(group)
            below = self.unpadded(chosen.source)
            steps.append((chosen, group, below))
            size = chosen.out_size
        behind = self._on_tokens(self.tops[0], everywhere=False)
        tokens, limit = (behind, MANY_TOKENS) if len(steps) > 1 else (self._on_tokens(self.tops[0]), TOKENS)
        if tokens > limit * len(self.weighted):
            raise self._only_tokens(tokens)
        if not steps:
            raise ValueError(
                f"its features have the image's own size, {top[0]}x{top[1]}: nothing shrinks, so there is no where to "
                "keep"
            )
        if any(
            max(a, b) > 2 * min(a, b) for a, b in zip(size, top, strict=False)
        ):  # the decoder inverts a last interpolation by another
            raise ValueError(
                f"its maps shrink from {size[0]}x{size[1]} to {top[0]}x{top[1]} in a way that is no convolution, pool "
                "or rearrangement"
            )
        sources = [self._below(chosen, below) for chosen, _, below in steps] + [self.top]
        made = tuple(
            DownsamplingStep(
                chosen,
                group,
                None if sources[m] == -1 else self.anchor(sources[m]),
                max(1, self.chains[sources[m + 1]]),
            )
            for m, (chosen, group, _) in enumerate(steps)
        )
        used = {id(e) for step in made for e in step.events}
        others = tuple(e for e in events if id(e) not in used)
        image_depth = self.chains[sources[0]] if sources[0] >= 0 else 0
        return DownsamplingPath(made, self.anchor(self.top), image_depth, others, self.found.img_size, behind)

    def _choose(self, group: tuple[Event, ...]) -> Event:
        widest = max(e.in_chs for e in group)
        pools = [e for e in group if e.kind == "max" and 2 * e.in_chs >= widest]
        return pools[0] if pools else next(e for e in group if e.in_chs == widest)

    def unpadded(self, index: int) -> int:
        while index >= 0 and self.ops[index].name == "pad" and self.ops[index].inputs[0] is not None:
            index = self.ops[index].inputs[0]  # type: ignore[assignment]
        return index

    def _below(self, event: Event, source: int) -> int:
        """The map to capture: a stage's output of the size that is about to shrink, else the step's own input."""
        if event.kind == "max" or source == -1:
            return source
        size = self.size(source)
        given = [i for i in self.found.modules.values() if i <= source or i < event.op.index]
        given = [i for i in given if i >= 0 and self.is_map(i) and self.size(i) == size and self.is_main(i)]
        return max(given, default=source)

    def anchor(self, index: int) -> Anchor:
        op = self.ops[index]
        assert op.layout is not None
        facts = (self.channels(index), op.layout.dims == (1, 2), op.layout.size, self._is_positive(index))
        if index == self.found.output and len(self.found.output_shape or ()) == 4:
            return Anchor(None, "out", *facts)
        # Norms, convolutions and pools are called as often in training as in evaluation; sums may not be.
        for user in self.users.get(index, ()):
            other = self.ops[user]
            if _is_steady(other) and other.inputs[0] == index:
                return Anchor(other.call, "in", *facts)
            if other.name == "permute" and other.layout is not None and other.layout.is_map:
                for behind in map(self.ops.__getitem__, self.users.get(user, ())):
                    if _is_steady(behind) and behind.inputs[0] == user:
                        return Anchor(behind.call, "in", facts[0], other.layout.dims == (1, 2), *facts[2:])
        return Anchor(op.call, "out", *facts)

    def _is_positive(self, index: int) -> bool:
        while index >= 0 and self.ops[index].name in ("pad", "max_pool2d"):
            index = self.ops[index].inputs[0] if self.ops[index].inputs[0] is not None else -1  # type: ignore[assignment]
        return index >= 0 and self.ops[index].name in RECTIFIERS


def _is_steady(op: Op) -> bool:
    return op.call.func in CHANNELS_FIRST or op.call.func in CHANNELS_LAST


def _same_level(above: tuple[int, int], below: tuple[int, int]) -> bool:
    """Whether a map is still of the level: not larger, and less than a step smaller."""
    return all(b <= a + 1 and STEP * b > a for a, b in zip(above, below, strict=False))


def _steps_down(size: tuple[int, int], out: tuple[int, int]) -> bool:
    return any(a >= STEP * b for a, b in zip(size, out, strict=False)) and all(
        a >= b for a, b in zip(size, out, strict=False)
    )


def _bind(op: Op, names: Sequence[str], defaults: dict[str, Any]) -> dict[str, Any]:
    return {**defaults, **dict(zip(names, op.args, strict=False)), **op.kwargs}


def _conv(op: Op) -> dict[str, Any]:
    return _bind(
        op, ("input", "weight", "bias", "stride", "padding", "dilation", "groups"), {"stride": 1, "padding": 0}
    )


def _conv_kernel(op: Op) -> int:
    return max(op.in_shapes[1][2:]) if len(op.in_shapes) > 1 and len(op.in_shapes[1]) == 4 else 1


def _pool_stride(op: Op) -> tuple[int, int]:
    bound = _bind(op, ("input", "kernel_size", "stride"), {"stride": None})
    return _pair(bound["stride"] or bound["kernel_size"])


def _pair(value: Any) -> tuple[int, int]:
    pair = tuple(value) if isinstance(value, (tuple, list)) else (value, value)
    return (pair[0], pair[-1])
