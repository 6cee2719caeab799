"""Records one forward pass of a backbone: each operation, its shapes, and which operations its inputs come from.

Nothing is put on a module: a `TorchFunctionMode` sees every torch function called while it is entered.  Tensors are
fake, so a probe costs no arithmetic.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import logging
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.overrides import TorchFunctionMode, resolve_name
from torch.utils._pytree import tree_leaves

__all__ = ["Call", "Layout", "Op", "Probe", "is_counted", "is_timm", "probe", "run_backbone"]

BATCH = 2  # of a probe; not 1, so that attention windows, which are moved into the batch, differ from the map


class Call(NamedTuple):
    """One call of a run: the torch function, and which of that function's calls it is, counted from 0."""

    func: Any
    turn: int

    def __reduce__(self) -> Any:
        """By the function's name: some of torch's functions can't be pickled, `max_pool2d` among them."""
        name = resolve_name(self.func)
        return (Call, tuple(self)) if name is None else (_named_call, (name, self.turn))


def _named_call(name: str, turn: int) -> Call:
    return Call(functools.reduce(getattr, name.split(".")[1:], torch), turn)


class Layout(NamedTuple):
    """How a tensor stores a feature map: the dimensions of its rows and columns, and (H, W)."""

    dims: tuple[int, ...]  # (2, 3) channels first, (1, 2) channels last, one dimension for a sequence of H * W
    size: tuple[int, int]

    @property
    def area(self) -> int:
        return self.size[0] * self.size[1]

    @property
    def is_map(self) -> bool:
        return self.dims in ((2, 3), (1, 2))


class Op(NamedTuple):
    """One operation.

    inputs: indices of the operations that its input tensors come from; -1 is the image, None a weight.
    args, kwargs: with None in place of tensors.
    """

    index: int
    call: Call
    name: str
    inputs: tuple[int | None, ...]
    in_shapes: tuple[tuple[int, ...], ...]
    out_shape: tuple[int, ...]
    layout: Layout | None
    args: tuple[Any, ...]
    kwargs: dict[str, Any]


class Probe(NamedTuple):
    """One recorded forward pass.

    ops: in the order of execution.
    output: index of the operation whose output the features are.
    output_shape: of the features.
    output_kind: type of the features, such as "Tensor" or "dict".
    modules: name of a module -> index of the operation whose output is the module's output (or input).
    turns: number of calls of each function, see `is_counted`.
    """

    ops: list[Op]
    output: int | None
    output_shape: tuple[int, ...] | None
    output_kind: str
    modules: dict[str, int]
    img_size: tuple[int, int]
    turns: dict[Any, int]


CHANNELS_FIRST = {  # functions of (B, C, H, W), whose output is one too if it has four dimensions
    torch.conv2d,
    torch.conv_transpose2d,
    torch.batch_norm,
    torch.group_norm,
    torch.instance_norm,
    torch.pixel_unshuffle,
    torch.pixel_shuffle,
    nn.functional.batch_norm,
    nn.functional.group_norm,
    nn.functional.instance_norm,
    nn.functional.max_pool2d,
    nn.functional.max_pool2d_with_indices,
    torch.max_pool2d,
    nn.functional.avg_pool2d,
    nn.functional.lp_pool2d,
    nn.functional.adaptive_avg_pool2d,
    nn.functional.adaptive_max_pool2d,
    nn.functional.interpolate,
    nn.functional.pixel_unshuffle,
    nn.functional.pixel_shuffle,
}
CHANNELS_LAST = {nn.functional.linear, nn.functional.layer_norm, nn.functional.rms_norm, torch.layer_norm}
MOVES = {"permute", "transpose", "movedim", "moveaxis", "swapaxes", "swapdims"}
RESHAPES = {"reshape", "view", "flatten", "unflatten", "contiguous", "_unsafe_view"}


class _Recorder(TorchFunctionMode):
    """Records every call that computes a tensor from the image."""

    def __init__(self, image: Tensor):
        super().__init__()
        self.ops: list[Op] = []
        self.alive: list[Tensor] = [image]  # a freed tensor's id could be another's
        self.made: dict[int, int] = {id(image): -1}
        self.stored: dict[int, int] = {image.untyped_storage()._cdata: -1}
        self.layouts: dict[int, Layout | None] = {-1: Layout((2, 3), (image.shape[2], image.shape[3]))}
        self.shapes: dict[int, tuple[int, ...]] = {-1: tuple(image.shape)}
        self.turns: dict[Any, int] = {}

    def maker(self, tensor: Tensor) -> int | None:
        known = self.made.get(id(tensor))
        if known is None and not isinstance(tensor, nn.Parameter):  # a custom autograd function returns a new object
            known = self.stored.get(tensor.untyped_storage()._cdata)
        return known

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        inputs = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        makers = tuple(self.maker(tensor) for tensor in inputs)
        shapes = tuple(tuple(tensor.shape) for tensor in inputs)
        result = func(*args, **kwargs)
        turn = self.turns.get(func, 0)
        self.turns[func] = turn + is_counted(args, kwargs)
        name = getattr(func, "__name__", str(func))
        outs = [leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]
        if name == "__setitem__":
            outs = [args[0]]
        if not outs or all(maker is None for maker in makers) or name in ("__get__", "numel", "size"):
            return result
        index = len(self.ops)
        out_shape = tuple(outs[0].shape)
        if func in CHANNELS_FIRST and makers[0] is not None and self.layouts[makers[0]] is None:
            self.settle(makers[0], shapes[0])
        layout = self.layout(func, name, args, kwargs, makers, shapes, out_shape)
        plain = tuple(None if isinstance(value, Tensor) else value for value in args)
        named = {key: None if isinstance(value, Tensor) else value for key, value in kwargs.items()}
        self.ops.append(Op(index, Call(func, turn), name, makers, shapes, out_shape, layout, plain, named))
        self.layouts[index], self.shapes[index] = layout, out_shape
        for out in outs:
            self.alive.append(out)
            self.made[id(out)] = self.stored[out.untyped_storage()._cdata] = index
        return result

    def is_level(self, height: int, width: int) -> bool:
        """Whether these are the image's sides divided by one integer: a map, and no table of an attention."""
        (full, wide) = self.shapes[-1][2:]
        return any(-(-full // r) == height and -(-wide // r) == width for r in range(1, 65))

    def settle(self, index: int, shape: tuple[int, ...]) -> None:
        """Sets the layout of a tensor that came from windows or tokens, once a convolution or a pool takes it."""
        if len(shape) == 4 and shape[0] == BATCH and shape == self.shapes[index]:
            self.layouts[index] = Layout((2, 3), (shape[2], shape[3]))
            self.ops[index] = self.ops[index]._replace(layout=self.layouts[index])

    def layout(
        self,
        func: Any,
        name: str,
        args: Any,
        kwargs: Any,
        makers: tuple[int | None, ...],
        shapes: tuple[tuple[int, ...], ...],
        out: tuple[int, ...],
    ) -> Layout | None:
        """Layout of the output: known from the function, or taken over from the input."""
        if not out or out[0] != BATCH:
            return None
        if func in CHANNELS_FIRST:
            return Layout((2, 3), out[2:]) if len(out) == 4 else None
        for maker, shape in zip(makers, shapes, strict=False):
            if maker is None or shape != self.shapes[maker]:
                continue
            layout = self.layouts[maker]
            if layout is None:
                continue
            if name in MOVES:
                return _moved(layout, name, args, len(shape))
            if name in RESHAPES and shape != out:
                return _reshaped(layout, shape, out)
            if name == "pad" and len(out) == 4 and layout.is_map:
                return Layout(layout.dims, (out[layout.dims[0]], out[layout.dims[1]]))
            if len(out) == len(shape) and all(out[dim] == shape[dim] for dim in layout.dims):
                return layout
            if name == "__getitem__" and len(out) == 4 and layout.is_map:  # every second row, say
                return Layout(layout.dims, (out[layout.dims[0]], out[layout.dims[1]]))
        if func in CHANNELS_LAST and len(out) == 4 and self.is_level(out[1], out[2]):
            return Layout((1, 2), (out[1], out[2]))
        return None


def _moved(layout: Layout, name: str, args: Any, ndim: int) -> Layout | None:
    dims = list(range(ndim))
    if name == "permute":
        order = args[1] if isinstance(args[1], (tuple, list)) else args[1:]
        dims = [d % ndim for d in order]
    elif name in ("transpose", "swapaxes", "swapdims"):
        a, b = args[1] % ndim, args[2] % ndim
        dims[a], dims[b] = dims[b], dims[a]
    else:
        return None
    now = tuple(dims.index(d) for d in layout.dims)
    return Layout(now, layout.size) if now in ((2, 3), (1, 2)) or len(now) == 1 else None


def _reshaped(layout: Layout, shape: tuple[int, ...], out: tuple[int, ...]) -> Layout | None:
    """A reshape keeps the order of the values, so the product of the dimensions before the rows stays the same."""
    before, ahead = math.prod(shape[: layout.dims[0]]), 1
    for dim, side in enumerate(out):
        if ahead == before and len(out) == 4 and dim in (1, 2) and out[dim : dim + 2] == layout.size:
            return Layout((dim, dim + 1), layout.size)
        if ahead == before and side == layout.area:
            return Layout((dim,), layout.size)
        ahead *= side
    return None


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silences torch's log of what fake tensors can't do; the same is raised as an error."""
    logger = logging.getLogger("torch._subclasses.fake_tensor")

    def nothing(_record: logging.LogRecord) -> bool:
        return False

    logger.addFilter(nothing)
    try:
        yield
    finally:
        logger.removeFilter(nothing)


def is_timm(backbone: nn.Module) -> bool:
    """Whether it has the two halves of timm's models."""
    return hasattr(backbone, "forward_features") and hasattr(backbone, "forward_head")


def run_backbone(backbone: Any, x: Tensor) -> Any:
    """Input of the head: timm's features, or the whole output of another module."""
    return backbone.forward_features(x) if is_timm(backbone) else backbone(x)


def is_counted(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bool:
    """Whether a call counts: those on scalars, vectors and tables may happen in one mode only, or once (caches)."""
    x = args[0] if args else kwargs.get("input")
    return not isinstance(x, Tensor) or x.ndim > 2


@contextlib.contextmanager
def _stand_in(module: nn.Module, fake: FakeTensorMode, training: bool) -> Iterator[nn.Module]:
    """A copy of the module with fake weights, so that nothing that a run writes reaches the real one.

    Where it can't be copied it is the module itself, in the mode that is asked for while this is open.
    """
    memo: dict[int, Any] = {}
    modes = {child: child.training for child in module.modules()}
    try:
        for tensor in (*module.parameters(), *module.buffers()):
            with fake:  # several times quicker than fake.from_tensor
                made = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device=tensor.device)
            memo[id(tensor)] = nn.Parameter(made, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else made
        module = copy.deepcopy(module, memo)
    except (RuntimeError, TypeError, NotImplementedError, AttributeError):
        pass
    try:
        yield module.train(training)
    finally:
        for child, mode in modes.items():
            child.training = mode


def probe(
    module: nn.Module, in_chans: int, img_size: tuple[int, int], names: Mapping[str, str], training: bool = False
) -> Probe:
    """Records one forward pass on images of ``img_size``; the module itself is left as it is.

    Args:
        names: modules whose outputs (value "out") or inputs (value "in") to locate among the operations.
        training: the mode of the run.

    Raises:
        ValueError: the backbone refuses images of this size, or needs more than images.
    """
    weight = next(module.parameters(), None)
    device, dtype = (torch.device("cpu"), torch.float32) if weight is None else (weight.device, weight.dtype)
    fake = FakeTensorMode(allow_non_fake_inputs=True)
    found: dict[str, int] = {}
    with _stand_in(module, fake, training) as module, torch.no_grad(), _quiet(), fake:
        image = torch.empty(BATCH, in_chans, *img_size, device=device, dtype=dtype)
        recorder = _Recorder(image)

        def note(name: str, hooked: str) -> Callable[..., None]:
            def hook(_module: nn.Module, inputs: Any, output: Any = None) -> None:
                leaves = [
                    leaf for leaf in tree_leaves(inputs if hooked == "in" else output) if isinstance(leaf, Tensor)
                ]
                maker = recorder.maker(leaves[0]) if leaves else None
                if maker is not None:
                    found[name] = maker

            return hook

        hooks = []
        for name, hooked in names.items():
            target = module.get_submodule(name)
            hooks.append(
                target.register_forward_pre_hook(note(name, hooked))
                if hooked == "in"
                else target.register_forward_hook(note(name, hooked))
            )
        try:
            with recorder:
                features = run_backbone(module, image)
        finally:
            for hook in hooks:
                hook.remove()
    leaves = [leaf for leaf in tree_leaves(features) if isinstance(leaf, Tensor)]
    last = leaves[-1] if leaves else None
    return Probe(
        recorder.ops,
        None if last is None else recorder.maker(last),
        None if last is None else tuple(last.shape),
        type(features).__name__ if not isinstance(features, Tensor) else "Tensor",
        found,
        img_size,
        recorder.turns,
    )
