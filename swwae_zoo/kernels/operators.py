"""The hard pools with their gradients, and the one place that chooses a kernel.

    switch_pool   x -> what, where           its gradient puts what's gradient at the where
    put           values, where -> image     its gradient picks
    pick          image, where -> values     its gradient puts

`where` is all that is ever saved. Each exists twice. Run eagerly it is an autograd Function, which costs some 20
microseconds a call. To a compiler, and to tensors that only pretend (fake ones), it is an operator of torch's library,
`swwae_zoo::...`: one node, which can neither break a graph nor be looked into, but costs ten times as much when run
eagerly. Both raise a ValueError for sizes that don't agree and, on a CPU, for a where beyond its window (`checks.py`).
"""

import torch
from torch import Tensor
from torch.autograd import Function
from torch.library import custom_op

from swwae_zoo.kernels import cuda, native, reference
from swwae_zoo.kernels.checks import check_pick, check_pool, check_positions, check_put, check_window
from swwae_zoo.kernels.windows import Window, channels_last, memory_format, size_of


def switch_pool(x: Tensor, window: Window, ceil_mode: bool) -> tuple[Tensor, Tensor]:
    """Max pooling: what and where, (B, C, h, w) each."""
    if _wants_plain_torch():
        return reference.pool(x, window, ceil_mode)
    if _pretends(x):
        return _switch_pool_op(x, *window, ceil_mode)
    return _SwitchPool.apply(x, window, ceil_mode)


def put(values: Tensor, where: Tensor, window: Window, size: tuple[int, int]) -> Tensor:
    """(B, C, h, w) -> (B, C, H, W): each value at its where, the mean where several meet, zeros elsewhere."""
    if _wants_plain_torch():
        return reference.put(values, where, window, size, window.overlaps)
    if _pretends(values):
        return _put_op(values, where, *window, size, window.overlaps)
    check_positions(where, window)  # here and in the operators alone: backward passes use switches that were checked
    return _Put.apply(values, where, window, size, window.overlaps)


def _wants_plain_torch() -> bool:
    """An exported program must load without this package; torch.func can't look into operators that aren't torch's."""
    return torch.compiler.is_exporting() or reference.is_transformed()


def _pretends(t: Tensor) -> bool:
    """Whether t stands for a tensor while a graph is made of it."""
    return torch.compiler.is_compiling() or (type(t) is not Tensor and type(t) is not torch.nn.Parameter)


# --- what is done, whoever asks -----------------------------------------------------------------------


def _pool(x: Tensor, window: Window, ceil_mode: bool) -> tuple[Tensor, Tensor]:
    last, kernels = channels_last(x), _kernels(x)
    if kernels is None:
        check_pool(x, window, window.pooled(size_of(x), ceil_mode))
        what, where = reference.pool(x, window, ceil_mode)
        return what.contiguous(memory_format=memory_format(last)), where.contiguous(memory_format=memory_format(last))
    return kernels.pool(x, window, window.pooled(size_of(x), ceil_mode), last)


def _put(values: Tensor, where: Tensor, window: Window, size: tuple[int, int], mean: bool) -> Tensor:
    kernels = _kernels(values)
    if kernels is None:
        check_put(values, where, window, size)
        return reference.put(values, where, window, size, mean)
    return kernels.put(values, where, window, size, mean, _either_last(values, where))


def _pick(image: Tensor, where: Tensor, window: Window, mean: bool) -> Tensor:
    last, kernels = _either_last(image, where), _kernels(image)
    if kernels is None:
        check_pick(image, where, window)
        return reference.pick(image, where, window, mean).contiguous(memory_format=memory_format(last))
    return kernels.pick(image, where, window, mean, last)


def _kernels(t: Tensor):
    """The module with kernels for t's device and dtype; None where plain torch has to do."""
    module = _MODULES.get(t.device.type)
    return module if module is not None and module.available(t.dtype) else None


_MODULES = {"cpu": native, "cuda": cuda}


def _window(kernel: list[int], stride: list[int], padding: list[int]) -> Window:
    window = Window(_pair("kernel", kernel), _pair("stride", stride), _pair("padding", padding))
    check_window(window)
    return window


def _pair(name: str, sizes: list[int]) -> tuple[int, int]:
    if len(sizes) != 2:
        raise ValueError(f"{name}: got {list(sizes)}, expected [height, width]")
    return sizes[0], sizes[1]


def _either_last(a: Tensor, b: Tensor) -> bool:
    return channels_last(a) or channels_last(b)


# --- eagerly ------------------------------------------------------------------------------------------


# `forward` takes the context itself: torch binds the arguments of a `setup_context` anew in each call, which costs more
# than all the rest.


class _SwitchPool(Function):
    @staticmethod
    def forward(ctx, x, window, ceil_mode):
        what, where = _pool(x, window, ceil_mode)
        ctx.window, ctx.size = window, size_of(x)
        ctx.mark_non_differentiable(where)
        ctx.save_for_backward(where)
        return what, where

    @staticmethod
    def backward(ctx, *grad_outputs: Tensor):
        (grad_what, _), (where,) = grad_outputs, ctx.saved_tensors
        return _Put.apply(grad_what, where, ctx.window, ctx.size, False), None, None


class _Put(Function):
    @staticmethod
    def forward(ctx, values, where, window, size, mean):
        ctx.window, ctx.mean = window, mean
        ctx.save_for_backward(where)
        return _put(values, where, window, size, mean)

    @staticmethod
    def backward(ctx, *grad_outputs: Tensor):
        (grad,), (where,) = grad_outputs, ctx.saved_tensors
        return _Pick.apply(grad, where, ctx.window, ctx.mean), None, None, None, None


class _Pick(Function):
    @staticmethod
    def forward(ctx, image, where, window, mean):
        ctx.window, ctx.size, ctx.mean = window, size_of(image), mean
        ctx.save_for_backward(where)
        return _pick(image, where, window, mean)

    @staticmethod
    def backward(ctx, *grad_outputs: Tensor):
        (grad,), (where,) = grad_outputs, ctx.saved_tensors
        return _Put.apply(grad, where, ctx.window, ctx.size, ctx.mean), None, None, None


# --- as operators -------------------------------------------------------------------------------------


@custom_op("swwae_zoo::switch_pool", mutates_args=())
def _switch_pool_op(
    x: Tensor, kernel: list[int], stride: list[int], padding: list[int], ceil_mode: bool
) -> tuple[Tensor, Tensor]:
    return _pool(x, _window(kernel, stride, padding), ceil_mode)


@custom_op("swwae_zoo::put", mutates_args=())
def _put_op(
    values: Tensor, where: Tensor, kernel: list[int], stride: list[int], padding: list[int], size: list[int], mean: bool
) -> Tensor:
    window = _window(kernel, stride, padding)
    check_positions(where, window)
    return _put(values, where, window, _pair("size", size), mean)


@custom_op("swwae_zoo::pick", mutates_args=())
def _pick_op(
    image: Tensor, where: Tensor, kernel: list[int], stride: list[int], padding: list[int], mean: bool
) -> Tensor:
    window = _window(kernel, stride, padding)
    check_positions(where, window)
    return _pick(image, where, window, mean)


# --- their shapes, for compilers ----------------------------------------------------------------------


@_switch_pool_op.register_fake
def _(x, kernel, stride, padding, ceil_mode):
    size = _window(kernel, stride, padding).pooled(size_of(x), ceil_mode)
    shape, layout = (*x.shape[:2], *size), memory_format(channels_last(x))
    what = torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=layout)
    return what, torch.empty_like(what, dtype=torch.uint8)


@_put_op.register_fake
def _(values, where, kernel, stride, padding, size, mean):
    layout = memory_format(_either_last(values, where))
    return torch.empty((*values.shape[:2], *size), dtype=values.dtype, device=values.device, memory_format=layout)


@_pick_op.register_fake
def _(image, where, kernel, stride, padding, mean):
    layout = memory_format(_either_last(image, where))
    return torch.empty(where.shape, dtype=image.dtype, device=image.device, memory_format=layout)


# --- their gradients ----------------------------------------------------------------------------------


def _keep_pool(ctx, inputs, output) -> None:
    x, *ctx.window, _ = inputs
    ctx.size = list(x.shape[-2:])
    ctx.mark_non_differentiable(output[1])
    ctx.save_for_backward(output[1])


def _pool_backward(ctx, grad_what: Tensor, _):
    (where,) = ctx.saved_tensors
    return _put_op(grad_what, where, *ctx.window, ctx.size, False), None, None, None, None


def _keep_put(ctx, inputs, output) -> None:
    _, where, *ctx.window, _, ctx.mean = inputs
    ctx.save_for_backward(where)


def _put_backward(ctx, grad: Tensor):
    (where,) = ctx.saved_tensors
    return _pick_op(grad, where, *ctx.window, ctx.mean), *[None] * 6


def _keep_pick(ctx, inputs, output) -> None:
    image, where, *ctx.window, ctx.mean = inputs
    ctx.size = list(image.shape[-2:])
    ctx.save_for_backward(where)


def _pick_backward(ctx, grad: Tensor):
    (where,) = ctx.saved_tensors
    return _put_op(grad, where, *ctx.window, ctx.size, ctx.mean), *[None] * 5


_switch_pool_op.register_autograd(_pool_backward, setup_context=_keep_pool)
_put_op.register_autograd(_put_backward, setup_context=_keep_put)
_pick_op.register_autograd(_pick_backward, setup_context=_keep_pick)
