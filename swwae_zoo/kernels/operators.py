"""The hard pools as torch operators, with gradients: the one place that chooses a kernel.

    swwae_zoo::switch_pool   x -> what, where           its gradient puts what's gradient at the where
    swwae_zoo::put           values, where -> image     its gradient picks
    swwae_zoo::pick          image, where -> values     its gradient puts

`where` is all that is ever saved. As operators of their own they are one node to `torch.compile`, which can neither
break a graph in them nor look inside. There are no checks here: `pooling.py` has made them.
"""

import torch
from torch import Tensor
from torch.library import custom_op

from swwae_zoo.kernels import cuda, native, reference
from swwae_zoo.windows import Window, channels_last, memory_format


def switch_pool(x: Tensor, window: Window, ceil_mode: bool) -> tuple[Tensor, Tensor]:
    """Max pooling: what and where, (B, C, h, w) each."""
    if torch.compiler.is_exporting():  # a program that loads without this package holds torch's own operators alone
        what, where = reference.pool(x, window, ceil_mode)
        return what, where
    return _switch_pool(x, *window, ceil_mode)


def put(values: Tensor, where: Tensor, window: Window, size: tuple[int, int]) -> Tensor:
    """(B, C, h, w) -> (B, C, H, W): each value at its where, the mean where several meet, zeros elsewhere."""
    if torch.compiler.is_exporting():
        return reference.put(values, where, window, size, window.overlaps)
    return _put(values, where, *window, size, window.overlaps)


# --- the operators ------------------------------------------------------------------------------------


@custom_op("swwae_zoo::switch_pool", mutates_args=())
def _switch_pool(
    x: Tensor, kernel: list[int], stride: list[int], padding: list[int], ceil_mode: bool
) -> tuple[Tensor, Tensor]:
    window, last = _window(kernel, stride, padding), channels_last(x)
    kernels = _kernels(x)
    if kernels is None:
        what, where = reference.pool(x, window, ceil_mode)
        return what.contiguous(memory_format=memory_format(last)), where.contiguous(memory_format=memory_format(last))
    return kernels.pool(x, window, window.pooled(tuple(x.shape[-2:]), ceil_mode), last)


@custom_op("swwae_zoo::put", mutates_args=())
def _put(
    values: Tensor, where: Tensor, kernel: list[int], stride: list[int], padding: list[int], size: list[int], mean: bool
) -> Tensor:
    window, size = _window(kernel, stride, padding), (size[0], size[1])
    kernels = _kernels(values)
    if kernels is None:
        return reference.put(values, where, window, size, mean)
    return kernels.put(values, where, window, size, mean, _either_last(values, where))


@custom_op("swwae_zoo::pick", mutates_args=())
def _pick(
    image: Tensor, where: Tensor, kernel: list[int], stride: list[int], padding: list[int], mean: bool
) -> Tensor:
    window, last = _window(kernel, stride, padding), _either_last(image, where)
    kernels = _kernels(image)
    if kernels is None:
        return reference.pick(image, where, window, mean).contiguous(memory_format=memory_format(last))
    return kernels.pick(image, where, window, mean, last)


def _kernels(t: Tensor):
    """The module with kernels for t's device and dtype; None where plain torch has to do."""
    module = {"cpu": native, "cuda": cuda}.get(t.device.type)
    return module if module is not None and module.available(t.dtype) else None


def _window(kernel: list[int], stride: list[int], padding: list[int]) -> Window:
    return Window((kernel[0], kernel[1]), (stride[0], stride[1]), (padding[0], padding[1]))


def _either_last(a: Tensor, b: Tensor) -> bool:
    return channels_last(a) or channels_last(b)


# --- their shapes, for compilers ----------------------------------------------------------------------


@_switch_pool.register_fake
def _(x, kernel, stride, padding, ceil_mode):
    size = _window(kernel, stride, padding).pooled(tuple(x.shape[-2:]), ceil_mode)
    shape, layout = (*x.shape[:2], *size), memory_format(channels_last(x))
    what = torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=layout)
    return what, torch.empty_like(what, dtype=torch.uint8)


@_put.register_fake
def _(values, where, kernel, stride, padding, size, mean):
    layout = memory_format(_either_last(values, where))
    return torch.empty((*values.shape[:2], *size), dtype=values.dtype, device=values.device, memory_format=layout)


@_pick.register_fake
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
    return _put(grad_what, where, *ctx.window, ctx.size, False), None, None, None, None


def _keep_put(ctx, inputs, output) -> None:
    _, where, *ctx.window, _, ctx.mean = inputs
    ctx.save_for_backward(where)


def _put_backward(ctx, grad: Tensor):
    (where,) = ctx.saved_tensors
    return _pick(grad, where, *ctx.window, ctx.mean), *[None] * 6


def _keep_pick(ctx, inputs, output) -> None:
    image, where, *ctx.window, ctx.mean = inputs
    ctx.size = list(image.shape[-2:])
    ctx.save_for_backward(where)


def _pick_backward(ctx, grad: Tensor):
    (where,) = ctx.saved_tensors
    return _put(grad, where, *ctx.window, ctx.size, ctx.mean), *[None] * 5


_switch_pool.register_autograd(_pool_backward, setup_context=_keep_pool)
_put.register_autograd(_put_backward, setup_context=_keep_put)
_pick.register_autograd(_pick_backward, setup_context=_keep_pick)
