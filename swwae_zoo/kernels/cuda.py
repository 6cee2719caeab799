"""The Triton kernels of the hard pools, for CUDA (and, under TRITON_INTERPRET=1, for tests on a CPU).

Every output element is one lane: it finds its place from its index in memory order, so that stores are whole lines in
either layout and loads follow the tensors' strides; nothing is copied into another layout first.
"""

from __future__ import annotations

import functools
import os
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from swwae_zoo.kernels.checks import check_pick, check_pool, check_put
from swwae_zoo.kernels.windows import size_of

if TYPE_CHECKING:
    import triton
    import triton.language as tl
else:
    try:
        import triton
        import triton.language as tl
    except ImportError:  # torch for a CPU alone comes without it
        triton = None

__all__ = ["available", "pick", "pool", "put"]

_BLOCK = 1024


@functools.cache
def available(dtype: torch.dtype) -> bool:
    """Whether there are kernels for `dtype`."""
    wanted = os.environ.get("SWWAE_KERNELS", "auto") != "off"
    return wanted and triton is not None and dtype in (torch.float32, torch.float64, torch.bfloat16, torch.float16)


def pool(x: Tensor, window, pooled: tuple[int, int], last: bool) -> tuple[Tensor, Tensor]:
    """What and where, (B, C, *pooled), of x (B, C, H, W), in channels-last if `last`."""
    check_pool(x, window, pooled)
    what = _empty(x, pooled, last, x.dtype)
    where = _empty(x, pooled, last, torch.uint8)
    _launch(_pool_kernel, what, (x, what, where), x.shape, what.shape, window, last, False, x.stride())
    return what, where


def put(values: Tensor, where: Tensor, window, size: tuple[int, int], mean: bool, last: bool) -> Tensor:
    """(B, C, h, w) -> (B, C, *size): see `reference.put`."""
    check_put(values, where, window, size)
    where = where.contiguous(memory_format=_layout(last))
    out = _empty(values, size, last, values.dtype)
    _launch(_put_kernel, out, (values, where, out), out.shape, where.shape, window, last, mean, values.stride())
    return out


def pick(image: Tensor, where: Tensor, window, mean: bool, last: bool) -> Tensor:
    """(B, C, H, W) -> (B, C, h, w): see `reference.pick`."""
    check_pick(image, where, window)
    where = where.contiguous(memory_format=_layout(last))
    out = _empty(image, size_of(where), last, image.dtype)
    _launch(_pick_kernel, out, (image, where, out), image.shape, where.shape, window, last, mean, image.stride())
    return out


def _layout(last: bool) -> torch.memory_format:
    return torch.channels_last if last else torch.contiguous_format


def _empty(like: Tensor, size: tuple[int, int], last: bool, dtype: torch.dtype) -> Tensor:
    return torch.empty((*like.shape[:2], *size), dtype=dtype, device=like.device, memory_format=_layout(last))


def _launch(kernel, out, tensors, image_shape, pooled_shape, window, last, mean, strides) -> None:
    count = out.numel()
    if count == 0:
        return
    (kh, kw), (sh, sw), (ph, pw) = window
    large = max(image_shape.numel(), tensors[0].numel()) >= 2**31
    with torch.cuda.device_of(out):
        kernel[(triton.cdiv(count, _BLOCK),)](
            *tensors, count, image_shape[1], *image_shape[2:], *pooled_shape[2:], *strides,
            kh, kw, sh, sw, ph, pw, last=last, mean=mean, large=large, BLOCK=_BLOCK,
        )  # fmt: skip


if triton is not None:

    @triton.jit
    def _place(index, C, height, width, last: tl.constexpr):
        """(b, c, row, column) of an element from its index in memory order."""
        if last:
            c = index % C
            column = index // C % width
            row = index // (C * width) % height
            b = index // (C * width * height)
        else:
            column = index % width
            row = index // width % height
            c = index // (width * height) % C
            b = index // (width * height * C)
        return b, c, row, column

    @triton.jit
    def _index(b, c, row, column, C, height, width, last: tl.constexpr):
        """The inverse of `_place`."""
        if last:
            return ((b * height + row) * width + column) * C + c
        return ((b * C + c) * height + row) * width + column

    @triton.jit
    def _lanes(count, large: tl.constexpr, BLOCK: tl.constexpr):
        program = tl.program_id(0)
        if large:
            program = program.to(tl.int64)
        index = program * BLOCK + tl.arange(0, BLOCK)
        return index, index < count

    @triton.jit
    def _pool_kernel(
        x, what, where, count, C, H, W, h, w, xb, xc, xh, xw,
        kh: tl.constexpr, kw: tl.constexpr, sh: tl.constexpr, sw: tl.constexpr, ph: tl.constexpr, pw: tl.constexpr,
        last: tl.constexpr, mean: tl.constexpr, large: tl.constexpr, BLOCK: tl.constexpr,
    ):  # fmt: skip
        index, alive = _lanes(count, large, BLOCK)
        b, c, oh, ow = _place(index, C, h, w, last)
        top, left = oh * sh - ph, ow * sw - pw
        start = x + b * xb + c * xc
        # The first position inside the image stands in for a window of nothing but -inf.
        r, s = tl.maximum(-top, 0), tl.maximum(-left, 0)
        at = r * kw + s
        wide = tl.float64 if x.dtype.element_ty == tl.float64 else tl.float32
        m = tl.load(start + (top + r) * xh + (left + s) * xw, mask=alive, other=0.0).to(wide)
        for i in range(kh):
            for j in range(kw):
                y, z = top + i, left + j
                inside = alive & (y >= 0) & (y < H) & (z >= 0) & (z < W)
                v = tl.load(start + y * xh + z * xw, mask=inside, other=float("-inf")).to(wide)
                beats = inside & ((v > m) | (v != v))
                m = tl.where(beats, v, m)
                at = tl.where(beats, i * kw + j, at)
        tl.store(what + index, m.to(what.dtype.element_ty), mask=alive)
        tl.store(where + index, at.to(tl.uint8), mask=alive)

    @triton.jit
    def _put_kernel(
        values, where, out, count, C, H, W, h, w, vb, vc, vh, vw,
        kh: tl.constexpr, kw: tl.constexpr, sh: tl.constexpr, sw: tl.constexpr, ph: tl.constexpr, pw: tl.constexpr,
        last: tl.constexpr, mean: tl.constexpr, large: tl.constexpr, BLOCK: tl.constexpr,
    ):  # fmt: skip
        index, alive = _lanes(count, large, BLOCK)
        b, c, y, x = _place(index, C, H, W, last)
        wide = tl.float64 if values.dtype.element_ty == tl.float64 else tl.float32
        total = tl.zeros((BLOCK,), wide)
        chosen = tl.zeros((BLOCK,), tl.int32)
        # Windows that the pixel lies in, in order, up to the last that starts at or before it.
        for i in range(1 - (kh + sh - 1) // sh, 1):
            for j in range(1 - (kw + sw - 1) // sw, 1):
                oh, ow = (y + ph) // sh + i, (x + pw) // sw + j
                row, column = y + ph - oh * sh, x + pw - ow * sw
                inside = alive & (oh >= 0) & (oh < h) & (ow >= 0) & (ow < w) & (row < kh) & (column < kw)
                at = tl.load(where + _index(b, c, oh, ow, C, h, w, last), mask=inside, other=0)
                hit = inside & (at == row * kw + column)
                value = tl.load(values + b * vb + c * vc + oh * vh + ow * vw, mask=hit, other=0.0)
                total += value.to(wide)
                chosen += hit.to(tl.int32)
        if mean:
            total = tl.where(chosen > 1, total / chosen.to(wide), total)
        tl.store(out + index, total.to(out.dtype.element_ty), mask=alive)

    @triton.jit
    def _pick_kernel(
        image, where, out, count, C, H, W, h, w, xb, xc, xh, xw,
        kh: tl.constexpr, kw: tl.constexpr, sh: tl.constexpr, sw: tl.constexpr, ph: tl.constexpr, pw: tl.constexpr,
        last: tl.constexpr, mean: tl.constexpr, large: tl.constexpr, BLOCK: tl.constexpr,
    ):  # fmt: skip
        index, alive = _lanes(count, large, BLOCK)
        b, c, oh, ow = _place(index, C, h, w, last)
        at = tl.load(where + index, mask=alive, other=0).to(tl.int32)
        y, x = oh * sh - ph + at // kw, ow * sw - pw + at % kw
        inside = alive & (at < kh * kw) & (y >= 0) & (y < H) & (x >= 0) & (x < W)
        value = tl.load(image + b * xb + c * xc + y * xh + x * xw, mask=inside, other=0.0)
        if mean:
            chosen = tl.zeros((BLOCK,), tl.int32)
            for i in range((kh + sh - 1) // sh):
                for j in range((kw + sw - 1) // sw):
                    row, column = (y + ph) // sh - i, (x + pw) // sw - j
                    here = inside & (row >= 0) & (row < h) & (column >= 0) & (column < w)
                    other = tl.load(where + _index(b, c, row, column, C, h, w, last), mask=here, other=0).to(tl.int32)
                    position = (y + ph - row * sh) * kw + x + pw - column * sw
                    fits = (y + ph - row * sh < kh) & (x + pw - column * sw < kw)
                    chosen += (here & fits & (other == position)).to(tl.int32)
            wide = tl.float64 if image.dtype.element_ty == tl.float64 else tl.float32
            value = (value.to(wide) / tl.maximum(chosen, 1).to(wide)).to(out.dtype.element_ty)
        tl.store(out + index, value, mask=alive)
