"""The three operations of hard switches in plain torch: what every faster kernel must equal, and where none can run.

Shapes are those of `pooling.py`; besides:
    where     (B, C, h, w)   uint8, row-major position inside each window
    canvas    the image with its padding and whatever the last windows hang over by
    m, n      how many windows a pixel can lie in, vertically and horizontally: 1 unless windows overlap

`put` sends every value to its position and `pick` reads the value there. Each is the other's transpose.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from swwae_zoo.kernels.windows import Window, accumulator, channels_last, memory_format, size_of


def pool(x: Tensor, window: Window, ceil_mode: bool) -> tuple[Tensor, Tensor]:
    """What and where of x (B, C, H, W)."""
    what, index = F.max_pool2d(x, *window, ceil_mode=ceil_mode, return_indices=True)
    return what, _where_of_index(index, window, size_of(x))


def put(values: Tensor, where: Tensor, window: Window, size: tuple[int, int], mean: bool) -> Tensor:
    """(B, C, h, w) -> (B, C, *size): values at their positions; where several meet, their sum or their mean."""
    if not window.overlaps:
        return _put(values, where, window, size)
    out = _put(values.to(accumulator(values.dtype)), where, window, size)
    return (out / _count(out, where, window) if mean else out).to(values.dtype)


def pick(image: Tensor, where: Tensor, window: Window, mean: bool) -> Tensor:
    """(B, C, H, W) -> (B, C, h, w): the value at each position, over the number of windows that chose it for a mean."""
    if not (mean and window.overlaps):
        return _pick(image, where, window)
    share = image.to(accumulator(image.dtype))
    return _pick(share / _count(share, where, window), where, window).to(image.dtype)


def is_transformed() -> bool:
    """Whether torch.func is at work (grad, vmap, ...)."""
    return torch._C._are_functorch_transforms_active()


def _count(like: Tensor, where: Tensor, window: Window) -> Tensor:
    """How many windows chose each pixel, at least 1: (B, C, H, W), as `like`."""
    return _put(like.new_ones(()).expand(where.shape), where, window, size_of(like)).clamp(min=1)


def _put(values: Tensor, where: Tensor, window: Window, size: tuple[int, int]) -> Tensor:
    # Measured: a scatter is 2 to 10 times faster than the other way on a CPU. On a GPU it is slow when it has to
    # be deterministic, and a compiler can't fuse it.
    if torch.compiler.is_compiling() or is_transformed() or values.device.type != "cpu":
        return _put_by_pixel(values, where, window, size)
    last = channels_last(where) or channels_last(values)
    height, width = window.canvas(size, size_of(where))
    dtype, index, values = values.dtype, _canvas_index(where, window, width, last), _flat(values, last)
    if values.element_size() == 2 and not window.overlaps:
        values = values.view(torch.int16)  # the same bits: a scatter of bfloat16 takes ten times as long
    b, c = where.shape[:2]
    if last:
        canvas, dim = values.new_zeros(b, height * width, c), 1
    else:
        canvas, dim = values.new_zeros(b, c, height * width), 2
    canvas = canvas.scatter_add_(dim, index, values) if window.overlaps else canvas.scatter_(dim, index, values)
    canvas = canvas.view(dtype).unflatten(dim, (height, width))
    canvas = canvas.permute(0, 3, 1, 2) if last else canvas
    (ph, pw), (H, W) = window.padding, size
    return canvas[:, :, ph : ph + H, pw : pw + W].contiguous(memory_format=memory_format(last))


def _put_by_pixel(values: Tensor, where: Tensor, window: Window, size: tuple[int, int]) -> Tensor:
    """`_put` without a scatter: every pixel looks at the one or few windows that it lies in, (m, n) of them."""
    lookups = []
    for k, s, p, full, n in zip(*window, size, where.shape[-2:], strict=True):
        pixel = torch.arange(full, device=where.device) + p
        line = pixel // s - torch.arange(-(-k // s), device=where.device)[:, None]  # (m, H), then (n, W)
        place = pixel - line * s
        inside = (line >= 0) & (line < n) & (place < k)
        lookups.append((line.clamp(min=0).clamp(max=n - 1), place, inside))
    (rows, row_place, row_inside), (columns, column_place, column_inside) = lookups
    position = row_place[:, :, None, None] * window.kernel[1] + column_place  # (m, H, n, W)
    position = torch.where(row_inside[:, :, None, None] & column_inside, position, -1).to(torch.int16)
    hit = where[:, :, rows][..., columns] == position
    found = torch.where(hit, values[:, :, rows][..., columns], 0)  # (B, C, m, H, n, W)
    out = found.sum((2, 4)) if window.overlaps else found.squeeze(4).squeeze(2)
    return out.contiguous(memory_format=memory_format(channels_last(where) or channels_last(values)))


def _pick(image: Tensor, where: Tensor, window: Window) -> Tensor:
    last = channels_last(where) or channels_last(image)
    (ph, pw), (H, W) = window.padding, image.shape[-2:]
    height, width = window.canvas((H, W), size_of(where))
    if torch.compiler.is_compiling() or (height, width) != (H, W):
        image = F.pad(image, (pw, width - pw - W, ph, height - ph - H))
    index = _canvas_index(where, window, width, last)
    out = _flat(image, last).gather(1 if last else 2, index)
    if last:
        return out.unflatten(1, where.shape[-2:]).permute(0, 3, 1, 2)
    return out.unflatten(2, where.shape[-2:])


def _canvas_index(where: Tensor, window: Window, width: int, last: bool) -> Tensor:
    """Position in the flat canvas, int64: (B, h * w, C) if `last`, else (B, C, h * w)."""
    kw, (sh, sw) = window.kernel[1], window.stride
    rows, columns = (torch.arange(n, device=where.device) for n in where.shape[-2:])
    corner = ((rows * (sh * width))[:, None] + columns * sw).flatten()
    where = _flat(where, last)
    if torch.compiler.is_compiling():
        row = where.to(torch.int64) // kw
        index = row * (width - kw) + where
    else:  # a table is three times faster than a division, and refuses a position outside the window
        rows, columns = (torch.arange(k, device=where.device) for k in window.kernel)
        table = ((rows * width)[:, None] + columns).flatten()
        index = table.index_select(0, where.reshape(-1).int()).view(where.shape)
    return index.add_(corner[:, None] if last else corner)


def _where_of_index(index: Tensor, window: Window, size: tuple[int, int]) -> Tensor:
    """Position inside each window, uint8, of torch's index into the flat image of `size`."""
    (_, kw), (sh, sw), (ph, pw) = window
    H, W = size
    rows, columns = (torch.arange(n, device=index.device) for n in index.shape[-2:])
    corner = ((rows * sh - ph) * kw)[:, None] + (columns * sw - pw)
    if torch.compiler.is_compiling():
        return (index + index // W * (kw - W) - corner).to(torch.uint8)
    # Three times faster: every pixel's row * kw + column from a table, less the corner's, both modulo 256, which
    # is exact since the difference is from 0 to 255.
    last = channels_last(index)
    rows, columns = (torch.arange(n, device=index.device) for n in size)
    table = ((rows * kw)[:, None] + columns).flatten().bitwise_and_(255).to(torch.uint8)
    flat = index.permute(0, 2, 3, 1) if last else index
    where = table.index_select(0, flat.reshape(-1)).view(flat.shape)
    where = where.permute(0, 3, 1, 2) if last else where
    return where.sub_(corner.bitwise_and_(255).to(torch.uint8))


def _flat(t: Tensor, last: bool) -> Tensor:
    return t.permute(0, 2, 3, 1).flatten(1, 2) if last else t.flatten(2)
