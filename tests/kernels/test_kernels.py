"""The faster kernels of the hard pools against plain torch: the CPU's, and Triton's in its interpreter."""

import os
import subprocess
import sys

import pytest
import torch

from swwae_zoo.kernels import cuda, native, reference
from swwae_zoo.kernels.windows import Window
from swwae_zoo.layers.pooling import switch_pool2d, switch_unpool2d

FORMATS = [torch.contiguous_format, torch.channels_last]
DTYPES = [torch.float32, torch.bfloat16, torch.float16, torch.float64]
NAN, INF = float("nan"), float("inf")
# kernel, stride, padding, ceil mode, image
GEOMETRIES = [
    (2, 2, 0, False, (8, 8)), (2, 2, 0, False, (9, 71)), (2, 2, 0, True, (7, 9)), (2, 2, 1, False, (8, 7)),
    (3, 3, 0, False, (9, 10)), (4, 4, 0, False, (13, 8)), ((2, 3), (2, 3), 0, False, (6, 11)), (2, 3, 0, False, (8, 10)),
    (16, 16, 0, False, (17, 33)), (3, 2, 1, False, (9, 10)), (3, 2, 1, True, (8, 33)), (3, 1, 1, False, (5, 4)),
    (2, 2, 0, False, (7, 16)), (2, 2, 0, True, (7, 32)), (2, 2, 0, False, (6, 32)),  # rows of one vector
    (2, 1, 0, False, (5, 6)), (5, 2, 2, False, (11, 9)), ((3, 2), (2, 2), (1, 0), False, (8, 6)),
]  # fmt: skip
INTERPRETED = [GEOMETRIES[i] for i in (0, 2, 5, 7, 10, 11, 16)]  # a few, most in one layout: the interpreter is slow


def window_of(kernel, stride, padding):
    return Window(*(v if isinstance(v, tuple) else (v, v) for v in (kernel, stride, padding)))


def images(size, dtype, format, batches=((2, 5), (1, 70), (3, 1), (0, 3))):
    """Maps with ties, both zeros, infinities and NaNs, of each (B, C)."""
    generator = torch.Generator().manual_seed(0)
    for shape in [(*batch, *size) for batch in batches]:
        plain = torch.randn(shape, generator=generator)
        tied = torch.randint(-1, 2, shape, generator=generator) * torch.tensor(0.5).copysign(plain)
        wild = torch.tensor([NAN, -NAN, INF, -INF, -INF, -INF, 0.0, -0.0, 1.0, -1.0])
        wild = wild[torch.randint(10, shape, generator=generator)]
        for x in (plain, tied, wild):
            yield x.to(dtype).to(memory_format=format)


def same(a, b):
    assert a.dtype == b.dtype and a.shape == b.shape
    torch.testing.assert_close(a, b, rtol=0, atol=0, equal_nan=True)
    finite = ~a.isnan() if a.is_floating_point() else slice(None)
    assert torch.equal(a[finite].signbit(), b[finite].signbit())  # of zeros too


def check(kernels, kernel, stride, padding, ceil, size, dtype, format, **options):
    window, last = window_of(kernel, stride, padding), format == torch.channels_last
    for x in images(size, dtype, format, **options):
        what, where = reference.pool(x, window, ceil)
        assert window.pooled(size, ceil) == where.shape[-2:]
        mine, at = kernels.pool(x, window, where.shape[-2:], last)
        same(mine, what)
        same(at, where)
        assert mine.is_contiguous(memory_format=format) and at.is_contiguous(memory_format=format)
        values = torch.randn(where.shape, generator=torch.Generator().manual_seed(1)).to(dtype).to(memory_format=format)
        for mean in (False, True):
            out = kernels.put(values, where, window, size, mean, last)
            expected = reference.put(values, where, window, size, mean)
            assert out.is_contiguous(memory_format=format)
            if window.overlaps and kernels is cuda and dtype == torch.bfloat16:  # the interpreter rounds in a way of its own
                torch.testing.assert_close(out, expected)
            else:
                torch.testing.assert_close(out, expected, rtol=0, atol=0)
            picked = kernels.pick(x, where, window, mean and window.overlaps, last)
            if mean and kernels is cuda and dtype == torch.bfloat16:
                torch.testing.assert_close(picked, reference.pick(x, where, window, mean), equal_nan=True)
            else:
                same(picked, reference.pick(x, where, window, mean))
            assert picked.is_contiguous(memory_format=format)


@pytest.mark.skipif(not native.available(torch.float32), reason="no C compiler")
@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kernel, stride, padding, ceil, size", GEOMETRIES)
def test_cpu_kernels_equal_plain_torch(kernel, stride, padding, ceil, size, dtype, format):
    if not native.available(dtype):
        pytest.skip(f"this compiler has no {dtype}")
    check(native, kernel, stride, padding, ceil, size, dtype, format)


@pytest.mark.skipif(not native.available(torch.float32), reason="no C compiler")
@pytest.mark.parametrize("format", FORMATS)
def test_an_image_too_large_for_the_cache(format):
    """8 MiB: written past the cache where the processor can."""
    window, x = window_of(2, 2, 0), torch.randn(2, 64, 128, 128, generator=torch.Generator().manual_seed(0)).to(memory_format=format)
    what, where = reference.pool(x, window, False)
    out = native.put(what, where, window, (128, 128), False, format == torch.channels_last)
    assert torch.equal(out, reference.put(what, where, window, (128, 128), False))


@pytest.mark.skipif(not native.available(torch.float32), reason="no C compiler")
@pytest.mark.parametrize("dtype", DTYPES)
def test_two_threads_give_the_same(dtype):
    if not native.available(dtype):
        pytest.skip(f"this compiler has no {dtype}")
    threads, shape, window = torch.get_num_threads(), (4, 64, 40, 40), window_of(3, 2, 1)
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(dtype)
    results = []
    for count in (1, 2):
        torch.set_num_threads(count)
        try:
            what, where = native.pool(x, window, (20, 20), False)
            results.append((what, where, native.put(what, where, window, (40, 40), True, False), native.pick(x, where, window, True, False)))
        finally:
            torch.set_num_threads(threads)
    for one, two in zip(*results, strict=True):
        assert torch.equal(one, two)


@pytest.mark.skipif(not native.available(torch.float32), reason="no C compiler")
@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("kernel, stride, padding, ceil, size", GEOMETRIES)
def test_a_where_of_no_pool_harms_nothing(kernel, stride, padding, ceil, size, format):
    """A switch comes from whoever calls: a position outside its window must not become an address outside the image."""
    window, last = window_of(kernel, stride, padding), format == torch.channels_last
    shape = (2, 5, *window.pooled(size, ceil))
    where = torch.randint(256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0)).to(memory_format=format)
    ones = torch.ones(2, 5, *size).to(memory_format=format)
    picked = native.pick(ones, where, window, False, last)
    put = native.put(torch.ones(shape).to(memory_format=format), where, window, size, False, last)
    assert set(picked.unique().tolist()) <= {0.0, 1.0}
    assert put.sum() == picked.sum()  # what is put is what can be picked


def test_non_contiguous_images():
    x = torch.randn(2, 6, 12, 14, generator=torch.Generator().manual_seed(0))
    for view in (x[:, ::2], x[:, :, ::2, 1:], x.permute(0, 1, 3, 2), x.to(memory_format=torch.channels_last)[:, :, 2:, 3:]):
        what, where = switch_pool2d(view, 2)
        expected, same_where = switch_pool2d(view.contiguous(), 2)
        assert torch.equal(what, expected) and torch.equal(where, same_where)
        gradient = torch.randn(what.shape)
        for values in (gradient, gradient.permute(0, 1, 3, 2).contiguous().permute(0, 1, 3, 2)):
            assert torch.equal(switch_unpool2d(values, where, 2, output_size=view.shape[-2:]),
                               switch_unpool2d(gradient, where.contiguous(), 2, output_size=view.shape[-2:]))


def run_python(code, **environment):
    run = subprocess.run([sys.executable, "-c", code], env={**os.environ, **environment}, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    return run.stdout


@pytest.mark.skipif(not native.available(torch.float32), reason="no C compiler")
def test_built_once_and_again_when_the_file_is_broken(tmp_path):
    library, compiler = tmp_path / "answer.so", os.environ.get("CC", "cc")
    sources = {"windows.c": b'#include "typed.h"\nint answer(void) { return ANSWER; }', "typed.h": b"#define ANSWER 42"}
    for _ in range(2):
        assert native._open_or_build(library, sources, compiler).answer() == 42
        assert [path.name for path in tmp_path.iterdir()] == ["answer.so"]
    built = library.stat().st_ino
    native._open_or_build(library, {}, "/no/compiler")
    assert library.stat().st_ino == built
    broken = tmp_path / "broken.so"
    broken.write_bytes(b"half a file")
    assert native._open_or_build(broken, sources, compiler).answer() == 42
    with pytest.raises(subprocess.CalledProcessError):
        native._open_or_build(tmp_path / "new.so", {"windows.c": b"no C", "typed.h": b""}, compiler)
    assert not (tmp_path / "new.so").exists()


def test_without_a_compiler_the_pools_run_in_plain_torch(tmp_path, monkeypatch):
    monkeypatch.setattr(native, "_library", native._library.__wrapped__)  # what was found once is not kept here
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("CC", "/no/compiler")
    eye = torch.eye(4)[None, None]

    def there_and_back():
        return switch_unpool2d(*switch_pool2d(eye, 2), 2)

    monkeypatch.setenv("SWWAE_KERNELS", "off")
    assert not native.available(torch.float32) and there_and_back().sum() == 2
    monkeypatch.setenv("SWWAE_KERNELS", "auto")
    with pytest.warns(UserWarning, match="the pools run in plain torch"):
        assert there_and_back().sum() == 2
    monkeypatch.setenv("SWWAE_KERNELS", "require")
    with pytest.raises(ValueError, match="SWWAE_KERNELS=require"):
        switch_pool2d(eye, 2)


CHECK_TRITON = """
import sys; sys.path.insert(0, {tests!r})
import torch, test_pooling_kernels as t
from swwae_zoo.kernels import cuda
kinds = list(zip((torch.float32, torch.bfloat16), t.FORMATS))
for i, (kernel, stride, padding, ceil, size) in enumerate(t.INTERPRETED):
    for dtype, format in kinds if i in (0, 4) else kinds[i % 2 :][:1]:
        t.check(cuda, kernel, stride, padding, ceil, size, dtype, format, batches=((2, 3),))
print("equal")
"""


@pytest.mark.skipif(not cuda.available(torch.float32), reason="no Triton")
def test_triton_kernels_equal_plain_torch():
    code = CHECK_TRITON.format(tests=os.path.dirname(__file__))
    assert run_python(code, TRITON_INTERPRET="1").endswith("equal\n")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("kernel, stride, padding, ceil, size", GEOMETRIES)
def test_cuda_equals_cpu(kernel, stride, padding, ceil, size):
    window = window_of(kernel, stride, padding)
    for dtype in DTYPES:
        for format in FORMATS:
            for x in images(size, dtype, format):
                y = x.cuda().requires_grad_()
                what, where = switch_pool2d(y, kernel, stride, padding, ceil)
                expected, at = reference.pool(x, window, ceil)
                same(what.detach().cpu(), expected)
                same(where.cpu(), at)
                out = switch_unpool2d(what, where, kernel, stride, padding, size)
                out.sum().backward()
                if x.isfinite().all():
                    torch.testing.assert_close(out.cpu(), reference.put(expected, at, window, size, window.overlaps))
