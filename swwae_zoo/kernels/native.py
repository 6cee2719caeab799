"""The CPU kernels of `windows.c` and `winograd.c`, called on tensors. Every function checks its arguments.
`narrow.py` and `squares.py` call those of the other C files.

The libraries are built when the package is installed and chosen by `library.py`; where there is none, `available` is
False and the pools and convolutions run in plain torch.
"""

from __future__ import annotations

import ctypes
import functools
import warnings
from typing import Any

import torch
from torch import Tensor

from swwae_zoo.kernels.checks import check_pick, check_pool, check_put
from swwae_zoo.kernels.library import load
from swwae_zoo.kernels.reference import is_transformed
from swwae_zoo.kernels.windows import Window, memory_format, size_of

__all__ = [
    "available",
    "collect",
    "collect_weight",
    "function",
    "pick",
    "pool",
    "put",
    "spread",
    "spread_weight",
    "trains",
]

CHANNELS = 16  # the functions of winograd.c take a multiple of so many at once
_SUFFIXES = {torch.float32: "float32", torch.float64: "float64", torch.bfloat16: "bfloat16", torch.float16: "float16"}
_SMALL = 1 << 15  # elements of the larger side that one thread handles sooner than two can be woken


class _Shape(ctypes.Structure):
    """`Shape` of windows.c."""

    _fields_ = [
        (name, ctypes.c_int64)
        for name in ["B", "C", "H", "W", "h", "w", "kh", "kw", "sh", "sw", "ph", "pw", "last", "mean", "threads"]
    ] + [("row", ctypes.c_int64 * 256), ("column", ctypes.c_int64 * 256)]


def available(dtype: torch.dtype) -> bool:
    """Whether there are kernels for `dtype`."""
    library = _library()
    return library is not None and dtype in _SUFFIXES and hasattr(library, f"pool_{_SUFFIXES[dtype]}")


def trains(x: Tensor, dtype: torch.dtype) -> bool:
    """Whether gradients of x's results are being recorded, eagerly, on a CPU, and there are kernels for ``dtype``.

    Modules of a trained net use kernels then alone: outputs, exports, compiled and traced nets stay torch's to the bit.
    """
    if torch.compiler.is_compiling() or torch.jit.is_tracing() or is_transformed():  # pyright: ignore[reportPrivateImportUsage]
        return False  # first of all: a compiler can't look into the rest
    return type(x) is Tensor and x.device.type == "cpu" and torch.is_grad_enabled() and available(dtype)


# --- pools --------------------------------------------------------------------------------------------


def pool(x: Tensor, window: Window, pooled: tuple[int, int], last: bool) -> tuple[Tensor, Tensor]:
    """What and where, (B, C, *pooled), of x (B, C, H, W), in channels-last if `last`."""
    check_pool(x, window, pooled)
    x = _laid_out(x, last)
    what = _empty(x, pooled, last, x.dtype)
    where = _empty(x, pooled, last, torch.uint8)
    _call("pool", (x, what, where), x.shape[-2:], pooled, x, window, last, False)
    return what, where


def put(values: Tensor, where: Tensor, window: Window, size: tuple[int, int], mean: bool, last: bool) -> Tensor:
    """(B, C, h, w) -> (B, C, *size): see `reference.put`."""
    check_put(values, where, window, size)
    values, where = _laid_out(values, last), _laid_out(where, last)
    out = _empty(values, size, last, values.dtype)
    _call("put", (values, where, out), size, where.shape[-2:], out, window, last, mean)
    return out


def pick(image: Tensor, where: Tensor, window: Window, mean: bool, last: bool) -> Tensor:
    """(B, C, H, W) -> (B, C, h, w): see `reference.pick`."""
    check_pick(image, where, window)
    image, where = _laid_out(image, last), _laid_out(where, last)
    out = _empty(image, size_of(where), last, image.dtype)
    _call("pick", (image, where, out), image.shape[-2:], where.shape[-2:], image, window, last, mean)
    return out


def _laid_out(t: Tensor, last: bool) -> Tensor:
    return t.contiguous(memory_format=memory_format(last))


def _empty(like: Tensor, size: tuple[int, int], last: bool, dtype: torch.dtype) -> Tensor:
    return torch.empty((*like.shape[:2], *size), dtype=dtype, device=like.device, memory_format=memory_format(last))


def _call(name, tensors, size, pooled, large, window, last, mean) -> None:
    dtype, device = tensors[0].dtype, tensors[0].device
    if device.type != "cpu" or not available(dtype):
        raise ValueError(
            f"{name}: got {dtype} on {device}, for which there are no CPU kernels; use swwae_zoo.layers.pooling"
        )
    threads = torch.get_num_threads() if large.numel() > _SMALL else 1
    sizes = (*large.shape[:2], *size, *pooled, *window.kernel, *window.stride, *window.padding)
    shape = _Shape(*sizes, last, mean, threads, *_positions(window.kernel))
    function = getattr(_library(), f"{name}_{_SUFFIXES[dtype]}")
    function(*(ctypes.c_void_p(t.data_ptr()) for t in tensors), ctypes.byref(shape))


@functools.cache
def _positions(kernel: tuple[int, int]):
    """Row and column of each position, as the arrays that `_Shape` takes."""
    count, width = kernel[0] * kernel[1], kernel[1]
    array = ctypes.c_int64 * 256
    return array(*(i // width for i in range(count))), array(*(i % width for i in range(count)))


# --- Winograd's convolution ---------------------------------------------------------------------------

# Images are (B, C, H, W) in channels-last, points (16, tiles, C) or, of weights, (16, C_out, C_in), contiguous.


def spread(image: Tensor, points: Tensor, first: int, border: bool) -> None:
    """Transforms tiles of an image to points, from tile `first` on: those of an input with their `border`."""
    _check_tiles(image, points, first)
    _transform("spread_input" if border else "spread_gradient", (image, points), image.shape, first, points)


def collect(points: Tensor, bias: Tensor | None, image: Tensor, first: int) -> bool:
    """Transforms points back to their tiles of the image and adds the bias (C,). Returns whether all are finite."""
    _check_tiles(image, points, first)
    if bias is not None:
        _check("bias", bias, (image.shape[1],), torch.float32, bias.is_contiguous())
    return bool(_transform("collect", (points, bias, image), image.shape, first, points))


def spread_weight(weight: Tensor, points: Tensor, turned: bool) -> None:
    """Transforms weights (C_out, C_in, 3, 3) in channels-last, turned by 180 degrees if `turned`, to points."""
    _check_weight(weight, points, points.dtype)
    _transform("spread_weight", (weight, points), weight.shape, turned, points)


def collect_weight(points: Tensor, weight: Tensor) -> bool:
    """Transforms a gradient's points back to the weights'. Returns whether all are finite."""
    _check_weight(weight, points, torch.float32)
    return bool(_transform("collect_weight", (points, weight), weight.shape, 0, points))


def _transform(name: str, tensors: tuple[Tensor | None, ...], shape: torch.Size, first: int, points: Tensor) -> int:
    half = points.dtype == torch.bfloat16
    tiles = (ctypes.c_int64 * 7)(*shape[1:], first, points.shape[1], half, torch.get_num_threads())
    pointers = (ctypes.c_void_p(t if t is None else t.data_ptr()) for t in tensors)
    return function(name)(*pointers, ctypes.byref(tiles))


def _check_tiles(image: Tensor, points: Tensor, first: int) -> None:
    if image.dim() != 4 or points.dim() != 3:
        raise ValueError(f"image, points: got {image.dim()} and {points.dim()} dimensions, expected 4 and 3")
    b, c, height, width = image.shape
    count, total = points.shape[1], b * -(-height // 2) * -(-width // 2)
    _check("image", image, (b, c, height, width), points.dtype, image.is_contiguous(memory_format=torch.channels_last))
    _check("points", points, (16, count, c), points.dtype, points.is_contiguous())
    _check_channels(c, points.dtype)
    if not 0 <= first <= first + count <= total:
        raise ValueError(f"tiles: got {first} to {first + count}, expected some of the image's 0 to {total}")


def _check_weight(weight: Tensor, points: Tensor, precision: torch.dtype) -> None:
    if weight.dim() != 4:
        raise ValueError(f"weight: got {weight.dim()} dimensions, expected 4")
    out_chs, in_chs = weight.shape[:2]
    last = weight.is_contiguous(memory_format=torch.channels_last)
    _check("weight", weight, (out_chs, in_chs, 3, 3), torch.float32, last)
    _check("points", points, (16, out_chs, in_chs), precision, points.is_contiguous())
    _check_channels(in_chs, precision)


def _check_channels(chs: int, dtype: torch.dtype) -> None:
    if chs % CHANNELS or dtype not in (torch.float32, torch.bfloat16):
        raise ValueError(f"got {chs} channels of {dtype}, expected a multiple of {CHANNELS} of float32 or bfloat16")


def _check(name: str, t: Tensor, shape: tuple[int, ...], dtype: torch.dtype, laid_out: bool) -> None:
    if tuple(t.shape) != shape or t.dtype != dtype or t.device.type != "cpu" or not laid_out:
        raise ValueError(
            f"{name}: got {t.dtype} {tuple(t.shape)} with strides {t.stride()} on {t.device}, expected {dtype} {shape} "
            "on the CPU, images and weights in channels-last, everything else contiguous"
        )


# --- the library --------------------------------------------------------------------------------------


def function(name: str) -> Any:
    """A function of the C files by its name.

    Raises:
        ValueError: there are no kernels.
    """
    library = _library()
    if library is None:
        raise ValueError(f"{name}: there are no CPU kernels; use torch's own functions")
    return getattr(library, name)


@functools.cache
def _library() -> ctypes.CDLL | None:
    """The kernels, on torch's threads; None, once with a warning, where there are none."""
    found = load()
    if found.library is None:
        if found.reason:
            message = f"the pools run in plain torch, which is slower: {found.reason} (SWWAE_KERNELS=off: no warning)"
            warnings.warn(message, stacklevel=2)
        return None
    return on_torchs_threads(found.library)


def on_torchs_threads(library: ctypes.CDLL) -> ctypes.CDLL:
    """Hands a library the OpenMP runtime that torch has loaded. Without one it works in the caller's thread alone."""
    try:
        process = ctypes.CDLL(None)
        entries = process.GOMP_parallel, process.omp_get_thread_num, process.omp_get_num_threads
    except (AttributeError, OSError, TypeError):  # torch built without OpenMP, or a system where it can't be looked up
        return library
    library.use_openmp(*(ctypes.cast(entry, ctypes.c_void_p) for entry in entries))
    return library
