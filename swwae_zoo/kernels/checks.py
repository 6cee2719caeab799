"""Checks of the operators' arguments, made before any kernel reads or writes memory.

Every failure is a ValueError. Sizes and windows are checked once each: the answers are kept.
"""

import functools

import torch
from torch import Tensor

from swwae_zoo.kernels.windows import Window

__all__ = ["check_pick", "check_pool", "check_positions", "check_put", "check_window"]

MAX_POSITIONS = 256  # what a uint8 can tell apart


def check_pool(x: Tensor, window: Window, pooled: tuple[int, int]) -> None:
    """x (B, C, H, W) -> what and where (B, C, *pooled)."""
    _check_map(x, "x")
    _check_sizes(window, (x.shape[2], x.shape[3]), pooled)


def check_put(values: Tensor, where: Tensor, window: Window, size: tuple[int, int]) -> None:
    """values and where (B, C, h, w) -> (B, C, *size)."""
    _check_map(values, "values")
    _check_where(where, values)
    if where.shape != values.shape:
        raise ValueError(f"where: got {tuple(where.shape)}, expected {tuple(values.shape)}, the shape of values")
    _check_sizes(window, size, (where.shape[2], where.shape[3]))


def check_pick(image: Tensor, where: Tensor, window: Window) -> None:
    """image (B, C, H, W), where (B, C, h, w) -> (B, C, h, w)."""
    _check_map(image, "image")
    _check_where(where, image)
    if where.shape[:2] != image.shape[:2]:
        raise ValueError(
            f"where: got {tuple(where.shape)}, expected {tuple(image.shape[:2])} images and channels as in image"
        )
    _check_sizes(window, (image.shape[2], image.shape[3]), (where.shape[2], where.shape[3]))


def check_positions(where: Tensor, window: Window) -> None:
    """Every where lies inside the window. On a CPU only: other devices would have to be waited for.

    A where that is none, of another dtype say, is left to `check_put` and `check_pick`.
    """
    if where.device.type != "cpu" or where.dtype != torch.uint8 or where.layout != torch.strided:
        return
    if torch.jit.is_tracing() or where.numel() == 0:  # pyright: ignore[reportPrivateImportUsage]
        return
    count, largest = window.kernel[0] * window.kernel[1], where.amax().item()
    if largest >= count:
        raise ValueError(
            f"where: got position {largest}, expected 0 to {count - 1}, those of a window of {window.kernel}; "
            "unpool with the kernel_size that the where was pooled with"
        )


def _check_map(t: Tensor, name: str) -> None:
    if t.dim() != 4 or t.layout != torch.strided or not t.is_floating_point():
        raise ValueError(
            f"{name}: got {t.dtype} {tuple(t.shape)}, {t.layout}, expected a dense floating-point tensor (B, C, H, W)"
        )


def _check_where(where: Tensor, like: Tensor) -> None:
    if where.dim() != 4 or where.layout != torch.strided or where.dtype != torch.uint8 or where.device != like.device:
        raise ValueError(
            f"where: got {where.dtype} {tuple(where.shape)}, {where.layout}, on {where.device}, expected a dense "
            f"torch.uint8 tensor (B, C, h, w) on {like.device}; pass the where of switch_pool2d unchanged"
        )


@functools.lru_cache(maxsize=4096)
def check_window(window: Window) -> None:
    """Kernel, stride and padding are those of a pool whose every position a uint8 can name."""
    _check_pairs("window", *window)
    (kh, kw), (sh, sw), (ph, pw) = window
    if min(kh, kw, sh, sw) < 1 or kh * kw > MAX_POSITIONS or min(ph, pw) < 0 or 2 * ph > kh or 2 * pw > kw:
        raise ValueError(
            f"window: got kernel {(kh, kw)}, stride {(sh, sw)}, padding {(ph, pw)}, expected kernel and stride of at "
            f"least 1, at most {MAX_POSITIONS} positions and a padding of at most half of the kernel"
        )


@functools.lru_cache(maxsize=4096)
def _check_sizes(window: Window, size: tuple[int, int], pooled: tuple[int, int]) -> None:
    """An image of `size` pools to `pooled`: every window has a pixel of the image."""
    check_window(window)
    _check_pairs("sizes", size, pooled)
    floor, ceil = (window.pooled(size, ceil_mode) for ceil_mode in (False, True))
    if min(*size, *pooled) < 1 or any(n not in sides for n, *sides in zip(pooled, floor, ceil, strict=True)):
        raise ValueError(
            f"sizes: got an image of {tuple(size)} and a pooled map of {tuple(pooled)}, expected a map of {floor}, or "
            f"of {ceil} in ceil mode, for kernel {window.kernel}, stride {window.stride} and padding {window.padding}; "
            "pass the size of the image that was pooled"
        )


def _check_pairs(name: str, *pairs: tuple[int, int]) -> None:
    if any(len(pair) != 2 or any(type(n) is not int for n in pair) for pair in pairs):
        raise ValueError(f"{name}: got {pairs}, expected pairs of integers, (height, width)")
