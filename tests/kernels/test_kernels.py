"""The faster kernels of the hard pools against plain torch: the CPU's, and Triton's in its interpreter."""

import os
import subprocess
import sys

import pytest
import torch
from instruction_sets import LIBRARIES

from swwae_zoo.kernels import cuda, native, reference
from swwae_zoo.kernels.windows import Window
from swwae_zoo.layers.pooling import switch_pool2d, switch_unpool2d

FORMATS = [torch.contiguous_format, torch.channels_last]
DTYPES = [torch.float32, torch.bfloat16, torch.float16, torch.float64]
NAN, INF = float("nan"), float("inf")
# kernel, stride, padding, ceil mode, image
GEOMETRIES = [
    (2, 2, 0, False, (8, 8)), (2, 2, 0, False, (9, 71)), (2, 2, 0, True, (7, 9)), (2, 2, 1, False, (8, 7)),
    (3, 3, 0, False, (9, 10)), (4, 4, 0, False, (13, 8)), ((2, 3), (2, 3), 0, False, (6, 11)),
    (2, 3, 0, False, (8, 10)),
    (16, 16, 0, False, (17, 33)), (3, 2, 1, False, (9, 10)), (3, 2, 1, True, (8, 33)), (3, 1, 1, False, (5, 4)),
    (2, 2, 0, False, (7, 16)), (2, 2, 0, True, (7, 32)), (2, 2, 0, False, (6, 32)),  # rows of one vector
    (2, 1, 0, False, (5, 6)), (5, 2, 2, False, (11, 9)), ((3, 2), (2, 2), (1, 0), False, (8, 6)),
]  # fmt: skip
INTERPRETED = [GEOMETRIES[i] for i in (0, 2, 5, 7, 10, 11, 16)]  # a few, most in one layout: the interpreter is slow


needs_kernels = pytest.mark.skipif(not LIBRARIES, reason="installed without a C compiler")


@pytest.fixture(params=LIBRARIES or [pytest.param("none", marks=needs_kernels)])
def instruction_set(request, monkeypatch):
    """Each set of kernels in turn, in place of the one that was chosen for this processor."""
    monkeypatch.setattr(native, "_library", lambda: LIBRARIES[request.param])
    return request.param


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
            if (
                window.overlaps and kernels is cuda and dtype == torch.bfloat16
            ):  # the interpreter rounds in a way of its own
                torch.testing.assert_close(out, expected)
            else:
                torch.testing.assert_close(out, expected, rtol=0, atol=0)
            picked = kernels.pick(x, where, window, mean and window.overlaps, last)
            if mean and kernels is cuda and dtype == torch.bfloat16:
                torch.testing.assert_close(picked, reference.pick(x, where, window, mean), equal_nan=True)
            else:
                same(picked, reference.pick(x, where, window, mean))
            assert picked.is_contiguous(memory_format=format)


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kernel, stride, padding, ceil, size", GEOMETRIES)
def test_cpu_kernels_equal_plain_torch(kernel, stride, padding, ceil, size, dtype, format, instruction_set):
    if not native.available(dtype):
        pytest.skip(f"this compiler has no {dtype}")
    check(native, kernel, stride, padding, ceil, size, dtype, format)


@pytest.mark.parametrize("format", FORMATS)
def test_an_image_too_large_for_the_cache(format, instruction_set):
    """8 MiB: written past the cache where the processor can."""
    window, x = (
        window_of(2, 2, 0),
        torch.randn(2, 64, 128, 128, generator=torch.Generator().manual_seed(0)).to(memory_format=format),
    )
    what, where = reference.pool(x, window, False)
    out = native.put(what, where, window, (128, 128), False, format == torch.channels_last)
    assert torch.equal(out, reference.put(what, where, window, (128, 128), False))


@pytest.mark.parametrize("dtype", DTYPES)
def test_two_threads_give_the_same(dtype, instruction_set):
    if not native.available(dtype):
        pytest.skip(f"this compiler has no {dtype}")
    threads, shape, window = torch.get_num_threads(), (3, 65, 40, 40), window_of(3, 2, 1)
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(dtype)
    results = []
    for count in (1, 2):
        torch.set_num_threads(count)
        try:
            what, where = native.pool(x, window, (20, 20), False)
            results.append(
                (
                    what,
                    where,
                    native.put(what, where, window, (40, 40), True, False),
                    native.pick(x, where, window, True, False),
                )
            )
        finally:
            torch.set_num_threads(threads)
    for one, two in zip(*results, strict=True):
        assert torch.equal(one, two)


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("kernel, stride, padding, ceil, size", GEOMETRIES)
def test_a_where_of_no_pool_harms_nothing(kernel, stride, padding, ceil, size, format, instruction_set):
    """A switch comes from whoever calls: a position outside its window must not become an address outside the image."""
    window, last = window_of(kernel, stride, padding), format == torch.channels_last
    shape = (2, 5, *window.pooled(size, ceil))
    where = torch.randint(256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0)).to(
        memory_format=format
    )
    ones = torch.ones(2, 5, *size).to(memory_format=format)
    picked = native.pick(ones, where, window, False, last)
    put = native.put(torch.ones(shape).to(memory_format=format), where, window, size, False, last)
    assert set(picked.unique().tolist()) <= {0.0, 1.0}
    assert put.sum() == picked.sum()  # what is put is what can be picked


def test_non_contiguous_images():
    x = torch.randn(2, 6, 12, 14, generator=torch.Generator().manual_seed(0))
    for view in (
        x[:, ::2],
        x[:, :, ::2, 1:],
        x.permute(0, 1, 3, 2),
        x.to(memory_format=torch.channels_last)[:, :, 2:, 3:],
    ):
        what, where = switch_pool2d(view, 2)
        expected, same_where = switch_pool2d(view.contiguous(), 2)
        assert torch.equal(what, expected) and torch.equal(where, same_where)
        gradient = torch.randn(what.shape)
        for values in (gradient, gradient.permute(0, 1, 3, 2).contiguous().permute(0, 1, 3, 2)):
            assert torch.equal(
                switch_unpool2d(values, where, 2, output_size=view.shape[-2:]),
                switch_unpool2d(gradient, where.contiguous(), 2, output_size=view.shape[-2:]),
            )


def run_python(code, **environment):
    run = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, **environment}, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
    return run.stdout


COUNT_THREADS = """
from swwae_zoo.layers.pooling import switch_pool2d
torch.set_num_threads(2)
x, counts = torch.empty(8, 64, 64, 64), []
for work in (lambda: None, lambda: switch_pool2d(x, 2), lambda: x.mul_(2)):
    work()
    counts.append(len(os.listdir("/proc/self/task")))
print(*counts)
"""


@needs_kernels
@pytest.mark.skipif(not os.path.isdir("/proc/self/task"), reason="counts threads in /proc")
@pytest.mark.skipif("OpenMP" not in torch.__config__.parallel_info(), reason="torch has other threads")
def test_threads_are_torchs(child, tmp_path):
    """Without torch's OpenMP runtime the kernels would use one thread; with one of their own, twice as many."""
    process = child(COUNT_THREADS)
    process.join()
    assert process.exitcode == 0, (tmp_path / "stderr").read_text()
    before, with_pool, with_torch = map(int, (tmp_path / "stdout").read_text().split())
    assert with_pool > before and with_torch == with_pool


# --- wrong arguments: a ValueError on every path, and no access outside a tensor ---------------------


@pytest.fixture(params=["chosen", "off"])
def path(request, monkeypatch):
    """The kernels that were chosen, and plain torch."""
    if request.param == "off":
        monkeypatch.setattr(native, "_library", lambda: None)
    return request.param


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_where_beyond_the_window_is_refused(path, dtype, format):
    what = torch.ones(2, 3, 4, 4, dtype=dtype).to(memory_format=format)
    where = torch.zeros(2, 3, 4, 4, dtype=torch.uint8).to(memory_format=format)
    where[1, 2, 3, 3] = 3
    assert switch_unpool2d(what, where, 2).sum() == 96
    where[1, 2, 3, 3] = 8  # the last position of a 3x3 window
    assert switch_unpool2d(what, where, 3).sum() == 96
    for kernel, end in ((2, 3), ((2, 4), 7)):
        with pytest.raises(ValueError, match=rf"where: got position 8, expected 0 to {end}.*kernel_size"):
            switch_unpool2d(what, where, kernel)
        with pytest.raises(ValueError, match="where: got position 8"):
            switch_unpool2d(what.clone().requires_grad_(), where, kernel)
    empty = torch.zeros(0, 3, 4, 4)
    assert switch_unpool2d(empty, empty.to(torch.uint8), 2).shape == (0, 3, 8, 8)


def test_a_where_beyond_the_window_is_refused_when_compiled():
    operators = torch.ops.swwae_zoo
    what, where = torch.ones(1, 2, 4, 4), torch.full((1, 2, 4, 4), 4, dtype=torch.uint8)
    with pytest.raises(ValueError, match="where: got position 4, expected 0 to 3"):
        operators.put(what, where, [2, 2], [2, 2], [0, 0], [8, 8], False)
    with pytest.raises(ValueError, match="where: got position 4, expected 0 to 3"):
        operators.pick(torch.ones(1, 2, 8, 8), where, [2, 2], [2, 2], [0, 0], False)


# Each changes one of put's arguments, which agree: values and where (2, 16, 4, 4), 2x2 windows, an image of 8x8.
WRONG = {
    "another number of images": dict(values=torch.ones(1, 16, 4, 4)),
    "fewer channels": dict(values=torch.ones(2, 15, 4, 4)),
    "larger values": dict(values=torch.ones(2, 16, 5, 4)),
    "three dimensions": dict(values=torch.ones(16, 4, 4)),
    "integers": dict(values=torch.ones(2, 16, 4, 4, dtype=torch.int32)),
    "sparse": dict(values=torch.ones(2, 16, 4, 4).to_sparse()),
    "a smaller where": dict(where=torch.zeros(2, 16, 3, 4, dtype=torch.uint8)),
    "a where of int64": dict(where=torch.zeros(2, 16, 4, 4, dtype=torch.int64)),
    "a sparse where": dict(where=torch.ones(2, 16, 4, 4, dtype=torch.uint8).to_sparse()),
    "a where of bool": dict(where=torch.zeros(2, 16, 4, 4, dtype=torch.bool)),
    "an image that is too large": dict(size=(8, 10)),
    "an image that is too small": dict(size=(6, 8)),
    "an empty image": dict(size=(0, 8)),
    "a negative size": dict(size=(-8, 8)),
    "a huge size": dict(size=(2**40, 2**40)),
    "another stride": dict(stride=(3, 2)),
    "no stride": dict(stride=(0, 2)),
    "a negative stride": dict(stride=(-2, -2)),
    "too much padding": dict(padding=(2, 2), size=(4, 4)),
    "negative padding": dict(padding=(-1, -1), size=(10, 10)),
    "an empty window": dict(kernel=(0, 2)),
    "a window of 289": dict(kernel=(17, 17), stride=(17, 17), size=(68, 68)),
}


@pytest.mark.parametrize("wrong", WRONG.values(), ids=WRONG.keys())
def test_arguments_that_do_not_agree_are_refused(path, wrong):
    right = dict(values=torch.ones(2, 16, 4, 4), where=torch.zeros(2, 16, 4, 4, dtype=torch.uint8),
                 kernel=(2, 2), stride=(2, 2), padding=(0, 0), size=(8, 8))  # fmt: skip
    operators = torch.ops.swwae_zoo

    def run(values, where, kernel, stride, padding, size):
        sizes = [list(pair) for pair in (kernel, stride, padding)]
        window = Window(kernel, stride, padding)
        image = values.to_dense().new_ones(2, 16, *size) if max(size) < 100 and min(size) >= 0 else None
        calls = [lambda: operators.put(values, where, *sizes, list(size), False)]
        if image is not None and values.shape == right["values"].shape and not values.is_sparse:
            calls.append(lambda: operators.pick(image, where, *sizes, False))
        if path == "chosen" and LIBRARIES:
            calls.append(lambda: native.put(values, where, window, size, False, False))
            if image is not None:
                calls.append(lambda: native.pool(image, window, (where.shape[-2], where.shape[-1]), True))
        return calls

    for call in run(**right):
        call()
    refused = 0
    for call in run(**right | wrong):
        try:
            call()
        except ValueError as error:
            assert "got" in str(error) and "expected" in str(error)
            refused += 1
    assert refused  # pooling's arguments can be right where those of its inverse aren't


def test_lists_of_another_length_are_refused():
    values, where = torch.ones(1, 1, 4, 4), torch.zeros(1, 1, 4, 4, dtype=torch.uint8)
    for sizes in (([2], [2, 2], [0, 0], [8, 8]), ([2, 2], [2, 2, 2], [0, 0], [8, 8]), ([2, 2], [2, 2], [], [8, 8]),
                  ([2, 2], [2, 2], [0, 0], [8])):  # fmt: skip
        with pytest.raises(ValueError, match=r"expected \[height, width\]"):
            torch.ops.swwae_zoo.put(values, where, *sizes, False)
    for window in (([2, 2], [0, 0], [0, 0]), ([5, 5], [5, 5], [0, 0]), ([2, 2], [2, 2], [2, 2])):
        with pytest.raises(ValueError, match="got"):
            torch.ops.swwae_zoo.switch_pool(values, *window, False)


@needs_kernels
def test_tensors_of_another_device_are_refused():
    values, where = torch.ones(1, 1, 4, 4, device="meta"), torch.zeros(1, 1, 4, 4, dtype=torch.uint8)
    window = window_of(2, 2, 0)
    for switches in (where, where.to("meta")):
        with pytest.raises(ValueError, match="meta"):
            native.put(values, switches, window, (8, 8), False, False)
    with pytest.raises(ValueError, match="on meta, for which there are no CPU kernels"):
        native.pool(values, window, (2, 2), False)
    if hasattr(torch, "float8_e5m2"):
        with pytest.raises(ValueError, match="no CPU kernels"):
            native.pool(torch.ones(1, 1, 4, 4).to(torch.float8_e5m2), window, (2, 2), False)


CHECK_TRITON = """
import sys; sys.path[:0] = [{tests!r}, {tests!r} + "/.."]
import torch, test_kernels as t
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
