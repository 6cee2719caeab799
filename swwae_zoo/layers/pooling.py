"""What-where pooling and its inverse: hard switches, soft switches, and the upsampling ablation. Torch only.

Shapes, here and below:
    B batch, C channels, H W image, h w pooled map, kh kw window, sh sw stride, ph pw padding.
    x, unpooled   (B, C, H, W)
    what          (B, C, h, w)      the pooled value, in x's dtype
    where, hard   (B, C, h, w)      uint8, row-major position of the maximum inside its own window
    where, soft   (B, C, 2, h, w)   x then y, each from -1 (first column or row of the window) to 1 (last)

A hard `where` is all that pooling and unpooling keep for their backward passes: one byte per pooled value. How it is
done stands in `kernels/`: in plain torch (`reference.py`), and faster where it can be.
"""

import torch
import torch.fx
import torch.nn.functional as F
from torch import Tensor, nn

from swwae_zoo.kernels.operators import put, switch_pool
from swwae_zoo.kernels.windows import Window, accumulator, channels_last, memory_format, size_of

MAX_POSITIONS = 256  # what one uint8 can tell apart: a 16x16 window


def switch_pool2d(
    x: Tensor,
    kernel_size: int | tuple[int, int],
    stride: int | tuple[int, int] | None = None,
    padding: int | tuple[int, int] = 0,
    ceil_mode: bool = False,
) -> tuple[Tensor, Tensor]:
    """Max pooling that also tells where in its window each maximum stood.

    Args:
        x: (B, C, H, W), floating point.
        kernel_size: window, or (height, width); at most 256 positions.
        stride: step between windows; the window itself when None.
        padding: at most half the window; a padded position is never chosen.
        ceil_mode: keep a last window that hangs over the edge.

    Returns:
        what (B, C, h, w), bit for bit `max_pool2d`'s, and where (B, C, h, w), uint8, which has no gradient.
        The first of equal maxima in row-major order wins; a NaN beats every number, the last NaN the others.

    Raises:
        ValueError: not four dimensions, not floating point, window or padding out of range, image under a window.
    """
    window = _window(kernel_size, stride, padding)
    _check_image(x, "x")
    if not x.is_floating_point():
        raise ValueError(f"x: got {x.dtype}, expected a floating-point dtype; convert it, for instance x.float()")
    if not torch.compiler.is_compiling():
        for full, k, p in zip(x.shape[-2:], window.kernel, window.padding, strict=True):
            if full < 1 or (full + 2 * p < k and not ceil_mode):
                raise ValueError(
                    f"x: got {tuple(x.shape)}, smaller than one window {window.kernel} with padding {window.padding}; "
                    "pool with a smaller kernel_size, or feed larger images"
                )
    return switch_pool(x, window, bool(ceil_mode))


def switch_unpool2d(
    what: Tensor,
    where: Tensor,
    kernel_size: int | tuple[int, int],
    stride: int | tuple[int, int] | None = None,
    padding: int | tuple[int, int] = 0,
    output_size: tuple[int, int] | None = None,
) -> Tensor:
    """Put each what back at its where, zeros elsewhere; deterministic.

    Where windows overlap and several chose one pixel, the pixel is the mean of the values sent to it.

    Args:
        what: (B, C, h, w).
        where: (B, C, h, w), uint8, from `switch_pool2d` with the same window. Positions beyond the window are refused
            on a CPU. Elsewhere, and under torch.func or in an exported program, a check would have to wait for the
            device: there, values with such a where are left out.
        kernel_size, stride, padding: as given to `switch_pool2d`.
        output_size: (H, W), any size that pools to (h, w), in floor or ceil mode;
            (h - 1) * stride - 2 * padding + kernel when None.

    Returns:
        (B, C, H, W), in what's dtype, channels-last if what or where is.

    Raises:
        ValueError: wrong shapes or dtypes, a where beyond the window, or an output_size that does not pool to (h, w).
    """
    window = _window(kernel_size, stride, padding)
    _check_image(what, "what")
    if where.dtype != torch.uint8:
        raise ValueError(f"where: got {where.dtype}, expected torch.uint8; pass the where of switch_pool2d unchanged")
    _check_image(where, "where")
    _check_where(what, where, tuple(what.shape))
    size = _output_size(output_size, size_of(what), window, ceil=True)
    return put(what, where, window, size)


def soft_pool2d(x: Tensor, kernel_size: int | tuple[int, int], beta: float) -> tuple[Tensor, Tensor]:
    """Soft pooling, eq. (3) and (4): what = sum w z and where = sum w (x, y), with w = softmax(beta z) in each window.

    Windows do not overlap; rows and columns that don't fill one are dropped. Weights are computed in float32 or better.

    Args:
        x: (B, C, H, W), floating point and finite.
        kernel_size: window, or (height, width).
        beta: sharpness, 0 (mean pooling) or more; max pooling in the limit.

    Returns:
        what (B, C, h, w) and where (B, C, 2, h, w) in [-1, 1], x before y; 0 along a side of length 1.
        Both carry gradients.

    Raises:
        ValueError: not four dimensions, not floating point, window out of range, image under a window, beta negative
            or not finite.
    """
    window = _window(kernel_size)
    beta = _beta(beta)
    _check_image(x, "x")
    if not x.is_floating_point():
        raise ValueError(f"x: got {x.dtype}, expected a floating-point dtype; convert it, for instance x.float()")
    kh, kw = window.kernel
    if not torch.compiler.is_compiling() and (x.shape[2] < kh or x.shape[3] < kw):
        raise ValueError(
            f"x: got {tuple(x.shape)}, smaller than one window {window.kernel}; "
            "pool with a smaller kernel_size, or feed larger images"
        )
    last = channels_last(x)
    # Window first, (kh, kw, B, C, h, w) or (kh, kw, B, h, w, C): all that follows runs over long contiguous rows.
    z = x.unfold(2, kh, kh).unfold(3, kw, kw).permute(4, 5, 0, *((2, 3, 1) if last else (1, 2, 3)))
    z = z.contiguous().to(accumulator(x.dtype))
    weights = ((z - z.detach().amax((0, 1))) * beta).flatten(0, 1).softmax(0).unflatten(0, (kh, kw))
    what = (weights * z).sum((0, 1))
    across = (weights.sum(0) * _side(kw, z)).sum(0)
    down = (weights.sum(1) * _side(kh, z)).sum(0)
    what, across, down = (t.permute(0, 3, 1, 2) if last else t for t in (what, across, down))
    where = torch.stack((across, down), 2).clamp(-1, 1)  # rounding could step over the edge
    return what.to(x.dtype), where.to(x.dtype)


def soft_unpool2d(
    what: Tensor, where: Tensor, kernel_size: int | tuple[int, int], output_size: tuple[int, int] | None = None
) -> Tensor:
    """Spread each what bilinearly over the four pixels around its where; they sum to the what.

    Args:
        what: (B, C, h, w).
        where: (B, C, 2, h, w), x before y, from -1 to 1 over the window.
        kernel_size: as given to `soft_pool2d`.
        output_size: (H, W), any size that pools to (h, w); the rest is zeros. (h * kh, w * kw) when None.

    Returns:
        (B, C, H, W), in what's dtype. Gradients reach what and where.

    Raises:
        ValueError: wrong shapes or dtypes, or an output_size that does not pool to (h, w).
    """
    window = _window(kernel_size)
    kh, kw = window.kernel
    _check_image(what, "what")
    if where.dim() != 5 or where.shape[2] != 2 or not where.is_floating_point():
        raise ValueError(
            f"where: got {where.dtype} {tuple(where.shape)}, expected floating point (B, C, 2, h, w); "
            "pass the where of soft_pool2d"
        )
    b, c, h, w = what.shape
    _check_where(what, where, (b, c, 2, h, w))
    size = _output_size(output_size, (h, w), window, ceil=False)
    last = channels_last(what)
    place = where.to(accumulator(where.dtype)).add(1).div(2)
    values, across, down = (t.permute(0, 2, 3, 1) if last else t for t in (what, *place.unbind(2)))
    near_x = _hat(across * (kw - 1), kw)  # (kw, B, C, h, w), or with C last
    near_y = _hat(down * (kh - 1), kh)
    return _assemble((values * near_y[:, None] * near_x).to(what.dtype), size, last)


def upsample_unpool2d(
    what: Tensor, kernel_size: int | tuple[int, int], output_size: tuple[int, int] | None = None
) -> Tensor:
    """Copy each what to every position of its window: the paper's ablation, unpooling without the where.

    Args:
        what: (B, C, h, w).
        kernel_size: window, or (height, width), not overlapping.
        output_size: (H, W), any size that pools to (h, w), in floor mode (the rest is zeros) or ceil mode (the last
            window is cut); (h * kh, w * kw) when None.

    Returns:
        (B, C, H, W), in what's dtype.

    Raises:
        ValueError: not four dimensions, window out of range, or an output_size that does not pool to (h, w).
    """
    window = _window(kernel_size)
    kh, kw = window.kernel
    _check_image(what, "what")
    size = _output_size(output_size, size_of(what), window, ceil=True)
    last = channels_last(what)
    copies = (what.permute(0, 2, 3, 1) if last else what).expand(kh, kw, -1, -1, -1, -1)
    return _assemble(copies, size, last)


class SwitchPool2d(nn.Module):
    """Module form of `switch_pool2d`: x -> (what, where)."""

    def __init__(
        self,
        kernel_size: int | tuple[int, int],
        stride: int | tuple[int, int] | None = None,
        padding: int | tuple[int, int] = 0,
        ceil_mode: bool = False,
    ) -> None:
        super().__init__()
        self.kernel_size, self.stride, self.padding = _window(kernel_size, stride, padding)
        self.ceil_mode = ceil_mode

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return switch_pool2d(x, self.kernel_size, self.stride, self.padding, self.ceil_mode)

    def extra_repr(self) -> str:
        return _repr(self, "kernel_size", "stride", "padding", "ceil_mode")


class SwitchUnpool2d(nn.Module):
    """Module form of `switch_unpool2d`: (what, where) -> unpooled."""

    def __init__(
        self,
        kernel_size: int | tuple[int, int],
        stride: int | tuple[int, int] | None = None,
        padding: int | tuple[int, int] = 0,
    ) -> None:
        super().__init__()
        self.kernel_size, self.stride, self.padding = _window(kernel_size, stride, padding)

    def forward(self, what: Tensor, where: Tensor, output_size: tuple[int, int] | None = None) -> Tensor:
        return switch_unpool2d(what, where, self.kernel_size, self.stride, self.padding, output_size)

    def extra_repr(self) -> str:
        return _repr(self, "kernel_size", "stride", "padding")


class SoftPool2d(nn.Module):
    """Module form of `soft_pool2d`: x -> (what, where)."""

    def __init__(self, kernel_size: int | tuple[int, int], beta: float) -> None:
        super().__init__()
        self.kernel_size, self.beta = _window(kernel_size).kernel, _beta(beta)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return soft_pool2d(x, self.kernel_size, self.beta)

    def extra_repr(self) -> str:
        return _repr(self, "kernel_size", "beta")


class SoftUnpool2d(nn.Module):
    """Module form of `soft_unpool2d`: (what, where) -> unpooled."""

    def __init__(self, kernel_size: int | tuple[int, int]) -> None:
        super().__init__()
        self.kernel_size = _window(kernel_size).kernel

    def forward(self, what: Tensor, where: Tensor, output_size: tuple[int, int] | None = None) -> Tensor:
        return soft_unpool2d(what, where, self.kernel_size, output_size)

    def extra_repr(self) -> str:
        return _repr(self, "kernel_size")


class UpsampleUnpool2d(nn.Module):
    """Module form of `upsample_unpool2d`: what -> unpooled."""

    def __init__(self, kernel_size: int | tuple[int, int]) -> None:
        super().__init__()
        self.kernel_size = _window(kernel_size).kernel

    def forward(self, what: Tensor, output_size: tuple[int, int] | None = None) -> Tensor:
        return upsample_unpool2d(what, self.kernel_size, output_size)

    def extra_repr(self) -> str:
        return _repr(self, "kernel_size")


# Checks of shapes can't run on a symbolic tracer's stand-ins: in a traced graph each of these is one node.
for _name in ("switch_pool2d", "switch_unpool2d", "soft_pool2d", "soft_unpool2d", "upsample_unpool2d"):
    torch.fx.wrap(_name)


def _repr(module: nn.Module, *names: str) -> str:
    return ", ".join(f"{name}={getattr(module, name)}" for name in names)


def _assemble(parts: Tensor, size: tuple[int, int], last: bool) -> Tensor:
    """(kh, kw, B, C, h, w), or (kh, kw, B, h, w, C) if `last`, -> (B, C, H, W); at the bottom and right, what is over
    is cut and what is missing is zeros."""
    if last:
        image = parts.permute(2, 3, 0, 4, 1, 5).flatten(3, 4).flatten(1, 2).permute(0, 3, 1, 2)
    else:
        image = parts.permute(2, 3, 4, 0, 5, 1).flatten(4, 5).flatten(2, 3)
    (H, W), (height, width) = size, image.shape[-2:]
    if torch.compiler.is_compiling() or (height, width) != (H, W):  # no guard on symbolic sizes while compiling
        image = F.pad(image, (0, W - width, 0, H - height))
    return image.contiguous(memory_format=memory_format(last))


def _side(n: int, like: Tensor) -> Tensor:
    """Coordinates of a window's n rows or columns, (n, 1, 1, 1, 1): -1 to 1, or 0 for a single one."""
    edge = 1 if n > 1 else 0
    return torch.linspace(-edge, edge, n, dtype=like.dtype, device=like.device)[:, None, None, None, None]


def _hat(place: Tensor, n: int) -> Tensor:
    """Share of each of n pixels in a value at `place`, in pixels: 1 at the pixel, 0 from the next one on."""
    pixel = torch.arange(n, device=place.device)[:, None, None, None, None]
    return (1 - (place - pixel).abs()).relu()


def _window(
    kernel_size: int | tuple[int, int], stride: int | tuple[int, int] | None = None, padding: int | tuple[int, int] = 0
) -> Window:
    kernel = _pair("kernel_size", kernel_size, 1)
    if kernel[0] * kernel[1] > MAX_POSITIONS:
        raise ValueError(
            f"kernel_size: got {kernel}, {kernel[0] * kernel[1]} positions, expected at most {MAX_POSITIONS} (16x16), "
            "what a uint8 where can hold; pool twice with smaller windows"
        )
    window = Window(kernel, kernel if stride is None else _pair("stride", stride, 1), _pair("padding", padding, 0))
    if any(2 * p > k for p, k in zip(window.padding, kernel, strict=True)):
        raise ValueError(f"padding: got {window.padding}, expected at most half of kernel_size {kernel}; pad x instead")
    return window


def _pair(name: str, value, low: int) -> tuple[int, int]:
    pair = tuple(value) if isinstance(value, (tuple, list)) else (value, value)
    if len(pair) != 2 or any(isinstance(v, bool) or not isinstance(v, int) or v < low for v in pair):
        raise ValueError(
            f"{name}: got {value!r}, expected an integer of at least {low}, or a pair (height, width) of them"
        )
    return pair


def _beta(beta: float) -> float:
    if isinstance(beta, bool) or not isinstance(beta, (int, float)) or not 0 <= beta < float("inf"):
        raise ValueError(f"beta: got {beta!r}, expected a finite number of at least 0; the paper uses 100")
    return float(beta)


def _check_image(t: Tensor, name: str) -> None:
    if not isinstance(t, Tensor) or t.dim() != 4:
        got = tuple(t.shape) if isinstance(t, Tensor) else type(t).__name__
        raise ValueError(f"{name}: got {got}, expected a tensor of four dimensions (batch, channels, height, width)")


def _check_where(what: Tensor, where: Tensor, expected: tuple[int, ...]) -> None:
    # Sizes may be symbols while compiling: there, torch's own shape errors have to do.
    if not torch.compiler.is_compiling() and tuple(where.shape) != expected:
        raise ValueError(
            f"where: got {tuple(where.shape)}, expected {expected} for a what of {tuple(what.shape)}; "
            "pass the what and where of one pool"
        )


def _output_size(size, pooled: tuple[int, int], window: Window, ceil: bool) -> tuple[int, int]:
    """`size` or the default, once it is sure to pool to `pooled` in floor mode (or, with `ceil`, ceil mode)."""
    smallest = tuple((n - 1) * s - 2 * p + k for k, s, p, n in zip(*window, pooled, strict=True))
    if size is None:
        size = smallest
    size = tuple(size)
    if len(size) != 2:
        raise ValueError(f"output_size: got {size}, expected (height, width); pass x.shape[-2:]")
    if not torch.compiler.is_compiling():
        for full, n, (k, s, p) in zip(size, pooled, zip(*window, strict=True), strict=True):
            # ceil mode: the last window hangs over but starts inside the image or the padding before it
            low = (n - 1) * s - p + 1 if ceil else (n - 1) * s - 2 * p + k
            low = max(1, low, (n - 2) * s + k - 2 * p + 1)
            if not low <= full <= (n - 1) * s - 2 * p + k + s - 1:
                raise ValueError(
                    f"output_size: got {size}, which does not pool to {pooled} with kernel {window.kernel}, stride "
                    f"{window.stride} and padding {window.padding}; pass x.shape[-2:] of the x that was pooled, or None"
                )
    return size
