"""The CPU kernels of `windows.c` and `winograd.c`, built by the system's C compiler when they are first needed.

The library is kept in the user's cache folder, under a name made of the source, the compiler's flags and the processor, so
it is built once per machine. Without a compiler there are no kernels, and the pools run in plain torch.

Environment:
    SWWAE_KERNELS   "off": never use them; "require": fail if they can't be built.
    CC              the compiler, else cc, gcc or clang.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import warnings
from importlib.resources import files
from pathlib import Path

import torch
from torch import Tensor

__all__ = ["available", "pick", "pool", "put", "winograd"]

_SOURCES = ("windows.c", "typed.h", "lanes.h", "winograd.c")
_FLAGS = ("-O3", "-march=native", "-fno-trapping-math", "-fno-strict-aliasing", "-std=gnu11", "-fPIC")
_SUFFIXES = {torch.float32: "float32", torch.float64: "float64", torch.bfloat16: "bfloat16", torch.float16: "float16"}
_SMALL = 1 << 15  # elements of the larger side that one thread handles sooner than two can be woken


class _Shape(ctypes.Structure):
    """`Shape` of windows.c."""

    _fields_ = [
        (name, ctypes.c_int64)
        for name in "B C H W h w kh kw sh sw ph pw last mean threads".split()
    ] + [("row", ctypes.c_int64 * 256), ("column", ctypes.c_int64 * 256)]  # fmt: skip


def available(dtype: torch.dtype) -> bool:
    """Whether there are kernels for `dtype`; the first call builds them."""
    library = _library()
    return library is not None and dtype in _SUFFIXES and hasattr(library, f"pool_{_SUFFIXES[dtype]}")


def winograd(name: str, tensors: tuple[Tensor | None, ...], chs: int, size: tuple[int, int], first: int, count: int, half: bool) -> None:
    """One of `winograd.c`'s functions, over contiguous tensors: see there."""
    tiles = (ctypes.c_int64 * 7)(chs, *size, first, count, half, torch.get_num_threads())
    getattr(_library(), name)(*(ctypes.c_void_p(t if t is None else t.data_ptr()) for t in tensors), ctypes.byref(tiles))


def pool(x: Tensor, window, pooled: tuple[int, int], last: bool) -> tuple[Tensor, Tensor]:
    """What and where, (B, C, *pooled), of x (B, C, H, W), in channels-last if `last`."""
    x = _laid_out(x, last)
    what = _empty(x, pooled, last, x.dtype)
    where = _empty(x, pooled, last, torch.uint8)
    _call("pool", x.dtype, (x, what, where), x.shape[-2:], pooled, x, window, last, False)
    return what, where


def put(values: Tensor, where: Tensor, window, size: tuple[int, int], mean: bool, last: bool) -> Tensor:
    """(B, C, h, w) -> (B, C, *size): see `windows.put`."""
    values, where = _laid_out(values, last), _laid_out(where, last)
    out = _empty(values, size, last, values.dtype)
    _call("put", values.dtype, (values, where, out), size, where.shape[-2:], out, window, last, mean)
    return out


def pick(image: Tensor, where: Tensor, window, mean: bool, last: bool) -> Tensor:
    """(B, C, H, W) -> (B, C, h, w): see `windows.pick`."""
    image, where = _laid_out(image, last), _laid_out(where, last)
    out = _empty(image, where.shape[-2:], last, image.dtype)
    _call("pick", image.dtype, (image, where, out), image.shape[-2:], where.shape[-2:], image, window, last, mean)
    return out


def _laid_out(t: Tensor, last: bool) -> Tensor:
    return t.contiguous(memory_format=torch.channels_last if last else torch.contiguous_format)


def _empty(like: Tensor, size: tuple[int, int], last: bool, dtype: torch.dtype) -> Tensor:
    layout = torch.channels_last if last else torch.contiguous_format
    return torch.empty((*like.shape[:2], *size), dtype=dtype, device=like.device, memory_format=layout)


def _call(name, dtype, tensors, size, pooled, large, window, last, mean) -> None:
    threads = torch.get_num_threads() if large.numel() > _SMALL else 1
    shape = _Shape(
        *large.shape[:2], *size, *pooled, *window.kernel, *window.stride, *window.padding, last, mean, threads, *_positions(window.kernel)
    )  # fmt: skip
    function = getattr(_library(), f"{name}_{_SUFFIXES[dtype]}")
    function(*(ctypes.c_void_p(t.data_ptr()) for t in tensors), ctypes.byref(shape))


@functools.cache
def _positions(kernel: tuple[int, int]):
    """Row and column of each position, as the arrays that `_Shape` takes."""
    count, width = kernel[0] * kernel[1], kernel[1]
    array = ctypes.c_int64 * 256
    return array(*(i // width for i in range(count))), array(*(i % width for i in range(count)))


@functools.cache
def _library() -> ctypes.CDLL | None:
    wish = os.environ.get("SWWAE_KERNELS", "auto")
    if wish not in ("auto", "off", "require"):
        raise ValueError(f"SWWAE_KERNELS: got {wish!r}, expected auto, off or require")
    if wish == "off":
        return None
    try:
        return _load()
    except (OSError, subprocess.SubprocessError) as error:
        reason = getattr(error, "stderr", None) or error
        if wish == "require":
            raise ValueError(f"SWWAE_KERNELS=require, but the CPU kernels can't be built: {reason}") from error
        warnings.warn(f"the CPU kernels can't be built, the pools run in plain torch: {reason}", stacklevel=2)
        return None


def _load() -> ctypes.CDLL:
    """The library, from the cache or built now."""
    sources = {name: files(__package__).joinpath(name).read_bytes() for name in _SOURCES}
    compiler = os.environ.get("CC") or next(filter(shutil.which, ("cc", "gcc", "clang")), None)
    if compiler is None:
        raise OSError("no C compiler found (CC, cc, gcc, clang)")
    told = repr((sorted(sources.items()), _FLAGS, compiler, torch.__version__, _processor()))
    name = f"windows-{hashlib.sha256(told.encode()).hexdigest()[:16]}.so"
    cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "swwae_zoo" / "kernels"
    try:
        cache.mkdir(parents=True, exist_ok=True, mode=0o700)
        return _open_or_build(cache / name, sources, compiler)
    except PermissionError:  # a home that can't be written: build for this process alone
        with tempfile.TemporaryDirectory(prefix="swwae_zoo-") as folder:
            return _open_or_build(Path(folder) / name, sources, compiler)


def _open_or_build(path: Path, sources: dict[str, bytes], compiler: str) -> ctypes.CDLL:
    if path.exists():
        try:
            return ctypes.CDLL(str(path))
        except OSError:
            pass  # half a file, or of another system: built anew below
    with tempfile.TemporaryDirectory(prefix="build-", dir=path.parent) as folder:
        for name, text in sources.items():
            (Path(folder) / name).write_bytes(text)
        built = Path(folder) / path.name
        for openmp in ((), ) if sys.platform == "darwin" else (("-fopenmp",), ()):
            run = functools.partial(subprocess.run, check=True, capture_output=True, text=True, cwd=folder, timeout=300)
            try:
                units = [name for name in sources if name.endswith(".c")]
                run([compiler, *_FLAGS, *openmp, "-c", *units])
                # Not linked with -fopenmp: torch has loaded an OpenMP already, and two would fight over the cores.
                run([compiler, "-shared", *(unit[:-1] + "o" for unit in units), "-o", built.name])
                library = ctypes.CDLL(str(built))
                break
            except (OSError, subprocess.SubprocessError):
                if not openmp:
                    raise
        os.replace(built, path)  # whole or not at all, whoever else builds it
        return library


def _processor() -> str:
    """What -march=native depends on."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return f"{platform.machine()} {platform.processor()}"
    return " ".join(line for line in dict.fromkeys(lines) if line.startswith(("flags", "Features", "model name")))
