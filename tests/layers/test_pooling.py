"""Pools against hand-computed maps, torch's own pools, and plain loops; then what torch asks of an operator."""

import copy
import itertools
import pickle
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd import gradcheck, gradgradcheck

from swwae_zoo.kernels import reference
from swwae_zoo.kernels.windows import Window
from swwae_zoo.layers.pooling import (
    SoftPool2d,
    SoftUnpool2d,
    SwitchPool2d,
    SwitchUnpool2d,
    UpsampleUnpool2d,
    soft_pool2d,
    soft_unpool2d,
    switch_pool2d,
    switch_unpool2d,
    upsample_unpool2d,
)

FORMATS = [torch.contiguous_format, torch.channels_last]
NAN, INF = float("nan"), float("inf")
GRID = torch.tensor([[[[1.0, 5.0, 2.0, 2.0], [3.0, 4.0, 2.0, 2.0], [-1.0, -2.0, 0.0, 7.0], [-3.0, -0.5, 9.0, 8.0]]]])


@pytest.fixture(autouse=True)
def deterministic():
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(before)


def torch_unpool(*args, **kwargs):
    torch.use_deterministic_algorithms(False)  # torch's own refuses otherwise
    out = F.max_unpool2d(*args, **kwargs)
    torch.use_deterministic_algorithms(True)
    return out


def image(*shape, dtype=torch.float32, seed=0, format=torch.contiguous_format):
    x = torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
    return x.to(dtype).to(memory_format=format)


# ---- hard switches


def test_hand_computed_switches():
    what, where = switch_pool2d(GRID, 2)
    assert what.tolist() == [[[[5, 2], [-0.5, 9]]]]
    assert where.tolist() == [[[[1, 0], [3, 2]]]]  # the first of four equal maxima
    assert where.dtype == torch.uint8 and not where.requires_grad
    out = switch_unpool2d(what, where, 2)
    assert out.tolist() == [[[[0, 5, 2, 0], [0, 0, 0, 0], [0, 0, 0, 0], [0, -0.5, 9, 0]]]]


def test_hand_computed_mean_where_windows_overlap():
    x = torch.tensor([[[[0.0, 9.0, 0.0, 1.0, 2.0]]]])
    what, where = switch_pool2d(x, (1, 3), (1, 1))
    assert what.tolist() == [[[[9, 9, 2]]]] and where.tolist() == [[[[1, 0, 2]]]]
    out = switch_unpool2d(torch.tensor([[[[4.0, 8.0, 5.0]]]]), where, (1, 3), (1, 1))
    assert out.tolist() == [[[[0, 6, 0, 0, 5]]]]


def test_stride_beyond_the_kernel_leaves_zeros():
    out = switch_unpool2d(torch.ones(1, 1, 2, 2), torch.zeros(1, 1, 2, 2, dtype=torch.uint8), 1, 3, output_size=(6, 5))
    assert out.sum() == 4 and out[0, 0, ::3, ::3].sum() == 4 and out.shape == (1, 1, 6, 5)


GEOMETRIES = list(itertools.product((2, (2, 3), 5, 16), (None, 1, 3), (0, 1), (False, True), ((17, 18),)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("format", FORMATS)
def test_equals_torch(dtype, format):
    for k, s, p, ceil_mode, (H, W) in GEOMETRIES:
        x = image(2, 3, H, W, dtype=dtype, format=format)
        x[1, 0] = x[1, 0].round()  # ties
        x[1, 1] = -INF
        x[0, 0, 3, 3] = x[0, 0, 4, 4] = NAN
        x[0, 1, 2] = INF
        what, where = switch_pool2d(x, k, s, p, ceil_mode)
        expected, index = F.max_pool2d(x, k, s, p, ceil_mode=ceil_mode, return_indices=True)
        torch.testing.assert_close(what, expected, rtol=0, atol=0, equal_nan=True)
        assert what.is_contiguous(memory_format=format) and where.is_contiguous(memory_format=format)
        # row-major position in the window, from torch's position in the image
        (kh, kw), (sh, sw) = windows_of(k), windows_of(s or k)
        h, w = where.shape[-2:]
        row = index // W - (torch.arange(h) * sh - p)[:, None]
        column = index % W - (torch.arange(w) * sw - p)
        assert torch.equal(where.long(), row * kw + column)
        values = image(2, 3, h, w, dtype=dtype, seed=1, format=format)
        out = switch_unpool2d(values, where, k, s, p, (H, W))
        assert out.dtype == dtype and out.is_contiguous(memory_format=format)
        if sh >= kh and sw >= kw:
            assert torch.equal(out, torch_unpool(values, index, k, s, p, output_size=(H, W)))
        else:
            torch.testing.assert_close(out, mean_by_torch(values, index, (H, W)))


def windows_of(k):
    return k if isinstance(k, tuple) else (k, k)


def mean_by_torch(values, index, size):
    flat, index = values.double().flatten(2), index.flatten(2)
    empty = flat.new_zeros(*flat.shape[:2], size[0] * size[1])
    total, count = empty.scatter_add(2, index, flat), empty.scatter_add(2, index, torch.ones_like(flat))
    return (total / count.clamp(min=1)).unflatten(2, size).to(values.dtype)


@pytest.mark.parametrize("kernel, stride, padding", [(2, 2, 0), (3, 2, 1), (1, 2, 0), (2, 1, 0), (5, 5, 2)])
def test_unpooling_by_lookup_equals_the_scatter(kernel, stride, padding):
    """There are two ways to unpool: one for CPUs, one for compilers and GPUs."""
    for format in FORMATS:
        what, where = switch_pool2d(image(2, 3, 9, 10, dtype=torch.float64, format=format), kernel, stride, padding)
        window = Window((kernel, kernel), (stride, stride), (padding, padding))
        by_lookup = reference._put_by_pixel(what, where, window, (9, 10))
        torch.testing.assert_close(by_lookup, reference._put(what, where, window, (9, 10)))
        assert by_lookup.is_contiguous(memory_format=format)


def test_switch_gradients_equal_torch():
    x = image(2, 3, 9, 10, dtype=torch.float64).requires_grad_()
    g = image(2, 3, 5, 5, dtype=torch.float64, seed=1)
    (mine,) = torch.autograd.grad(switch_pool2d(x, 3, 2, 1)[0], x, g)
    (theirs,) = torch.autograd.grad(F.max_pool2d(x, 3, 2, 1), x, g)
    torch.testing.assert_close(mine, theirs)


@pytest.mark.parametrize("args", [(2,), (3, 2, 1), (3, 2, 1, True), ((2, 3),), (1, 2)])
def test_switch_gradcheck(args):
    def there_and_back(x):
        what, where = switch_pool2d(x, *args)
        return what, switch_unpool2d(what * what, where, *args[:3], output_size=(5, 6))

    x = image(1, 1, 5, 6, dtype=torch.float64).requires_grad_()
    assert gradcheck(there_and_back, x) and gradgradcheck(there_and_back, x)


def test_pool_of_unpooled_is_what_it_was():
    x = image(2, 3, 12, 12).abs()
    what, where = switch_pool2d(x, 3)
    again, same = switch_pool2d(switch_unpool2d(what, where, 3), 3)
    assert torch.equal(again, what) and torch.equal(same, where)


def test_one_byte_a_value_is_saved_for_backward():
    saved = []
    x = image(2, 3, 8, 8).requires_grad_()
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        what, where = switch_pool2d(x, 2)
        assert [t.nbytes for t in saved] == [what.numel()]
        switch_unpool2d(what, where, 2)
    assert [t.nbytes for t in saved] == [what.numel()] * 2


def test_every_size_that_pools_to_it_is_accepted_and_no_other():
    def sizes_that_pool_to(n, k, s, p):
        return {
            size
            for size in range(1, 30)
            for ceil in (False, True)
            if (size + 2 * p >= k or ceil) and F.max_pool2d(torch.zeros(1, 1, size, 40), k, s, p, 1, ceil).shape[2] == n
        }

    for k, s, p in [(2, 2, 0), (3, 2, 1), (2, 3, 1), (3, 3, 0), (4, 1, 2), (1, 2, 0), (5, 2, 2)]:
        for n in (2, 3, 5):
            what, expected = torch.zeros(1, 1, n, n), sizes_that_pool_to(n, k, s, p)
            for size in range(1, 30):
                try:
                    out = switch_unpool2d(what, what.byte(), k, s, p, (size, max(expected)))
                except ValueError:
                    assert size not in expected, (k, s, p, n, size)
                else:
                    assert size in expected and out.shape[2] == size, (k, s, p, n, size)


def test_a_whole_image_window_keeps_channels_last():
    x = image(2, 3, 16, 16, format=torch.channels_last)
    what, where = switch_pool2d(x, 16)
    assert switch_unpool2d(what, where, 16).is_contiguous(memory_format=torch.channels_last)
    assert int(where.max()) > 127
    assert upsample_unpool2d(what, 16).is_contiguous(memory_format=torch.channels_last)


# ---- soft switches and upsampling


def test_soft_pool_by_plain_loops():
    x, beta = image(2, 2, 7, 6, dtype=torch.float64), 3.0
    for kh, kw in [(2, 2), (3, 2), (1, 3), (7, 1)]:
        what, where = soft_pool2d(x, (kh, kw), beta)
        assert what.shape == (2, 2, 7 // kh, 6 // kw) and where.shape == (2, 2, 2, 7 // kh, 6 // kw)
        for b, c, i, j in itertools.product(*map(range, what.shape)):
            z = x[b, c, i * kh : (i + 1) * kh, j * kw : (j + 1) * kw]
            w = (beta * z).flatten().softmax(0).view(kh, kw)
            px = sum(w[r, q] * (2 * q / (kw - 1) - 1 if kw > 1 else 0) for r in range(kh) for q in range(kw))
            py = sum(w[r, q] * (2 * r / (kh - 1) - 1 if kh > 1 else 0) for r in range(kh) for q in range(kw))
            torch.testing.assert_close(what[b, c, i, j], (w * z).sum())
            torch.testing.assert_close(where[b, c, :, i, j], torch.tensor([px, py], dtype=torch.float64))


def test_soft_limits():
    x = image(2, 3, 8, 8)
    what, where = soft_pool2d(x, 4, 1e6)
    hard, switch = switch_pool2d(x, 4)
    torch.testing.assert_close(what, hard)
    torch.testing.assert_close(where, torch.stack((switch % 4, switch // 4), 2) / 1.5 - 1)
    torch.testing.assert_close(soft_unpool2d(what, where, 4), switch_unpool2d(hard, switch, 4), atol=1e-5, rtol=1e-5)
    what, where = soft_pool2d(x, 4, 0)
    torch.testing.assert_close(what, F.avg_pool2d(x, 4))
    torch.testing.assert_close(where, torch.zeros_like(where), atol=1e-6, rtol=0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("format", FORMATS)
def test_soft_pool_at_large_beta_is_finite(dtype, format):
    x = (image(2, 3, 8, 8) * 1e4).to(dtype).to(memory_format=format).requires_grad_()
    what, where = soft_pool2d(x, 4, 1000.0)
    out = soft_unpool2d(what, where, 4)
    (grad,) = torch.autograd.grad(out.float().sum() + where.float().sum(), x)
    assert what.dtype == where.dtype == out.dtype == dtype and where.abs().max() <= 1
    assert all(t.isfinite().all() for t in (what, where, out, grad))
    assert what.is_contiguous(memory_format=format) and out.is_contiguous(memory_format=format)


def test_soft_pool_tells_close_large_values_apart():
    x = 1000 + image(2, 3, 8, 8) / 1000  # in float32, 1000 * x alone would be off by 0.03
    for mine, exact in zip(soft_pool2d(x, 4, 1000.0), soft_pool2d(x.double(), 4, 1000.0), strict=True):
        torch.testing.assert_close(mine.double(), exact, atol=1e-5, rtol=1e-6)


def test_soft_pool_of_half_precision_is_rounded_once():
    x = image(2, 3, 16, 16, dtype=torch.bfloat16)
    for mine, exact in zip(soft_pool2d(x, 16, 2.0), soft_pool2d(x.double(), 16, 2.0), strict=True):
        torch.testing.assert_close(mine.double(), exact, rtol=2**-8, atol=1e-6)


def test_soft_where_never_leaves_its_window():
    x = image(8, 64, 16, 16)
    x[..., :-1] -= 100  # all of the weight in the last column, where it sums to 1 but for rounding
    _, where = soft_pool2d(x, 16, 5.0)
    assert where[:, :, 0].max() == 1 and where.abs().max() == 1


def test_soft_unpool_hand_computed():
    what, where = torch.tensor([[[[8.0]]]]), torch.tensor([-0.5, 0.0]).view(1, 1, 2, 1, 1)
    # x: a quarter of the way from column 0 to column 1; y: half way between the rows
    assert soft_unpool2d(what, where, 2).tolist() == [[[[3, 1], [3, 1]]]]
    assert soft_unpool2d(what, where, 2, (3, 2)).tolist() == [[[[3, 1], [3, 1], [0, 0]]]]


def test_soft_unpool_spreads_all_of_it():
    what, where = soft_pool2d(image(2, 3, 11, 13), (3, 4), 2.0)
    out = soft_unpool2d(what, where, (3, 4), (11, 13))
    torch.testing.assert_close(F.avg_pool2d(out, (3, 4)) * 12, what)
    assert out[:, :, 9:].abs().max() == 0 and out[..., 12:].abs().max() == 0


def test_soft_gradcheck():
    def there_and_back(x):
        what, where = soft_pool2d(x, (3, 2), 2.0)
        return what, where, soft_unpool2d(what, where, (3, 2), (4, 5))

    x = image(1, 2, 4, 5, dtype=torch.float64)
    assert gradcheck(there_and_back, x.requires_grad_())
    what, where = image(1, 2, 2, 2, dtype=torch.float64), image(1, 2, 2, 2, 2, dtype=torch.float64).tanh()
    assert gradcheck(lambda a, b: soft_unpool2d(a, b, 3), (what.requires_grad_(), where.requires_grad_()))


def test_upsample():
    what = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]], dtype=torch.float64, requires_grad=True)
    doubled = [[1, 1, 2, 2], [1, 1, 2, 2], [3, 3, 4, 4], [3, 3, 4, 4]]
    assert upsample_unpool2d(what, 2).tolist() == [[doubled]]
    assert upsample_unpool2d(what, 2, (5, 3)).tolist() == [[[row[:3] for row in doubled] + [[0, 0, 0]]]]
    assert gradcheck(lambda t: upsample_unpool2d(t, (2, 3), (5, 6)), what)


# ---- what torch asks of an operator


class Net(nn.Module):
    """A convolution, a pool, and every unpooling that goes with it."""

    def __init__(self, pool, unpool, upsample=None):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.pool, self.unpool, self.upsample = pool, unpool, upsample

    def forward(self, x):
        y = self.conv(x)
        what, where = self.pool(y)
        out = self.unpool(what * 2, where, y.shape[-2:])
        return out if self.upsample is None else out + self.upsample(what, y.shape[-2:])


NETS = {
    "switch": lambda: Net(SwitchPool2d(2), SwitchUnpool2d(2), UpsampleUnpool2d(2)),
    "switch16": lambda: Net(SwitchPool2d(16), SwitchUnpool2d(16)),
    "overlap": lambda: Net(SwitchPool2d(3, 2, 1), SwitchUnpool2d(3, 2, 1)),
    "soft": lambda: Net(SoftPool2d((2, 3), 4.0), SoftUnpool2d((2, 3))),
}


def step(net, f, x):
    net.zero_grad()
    out = f(x)
    (out * out).mean().backward()
    return out.detach(), *(p.grad.clone() for p in net.parameters())


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("name", NETS)
def test_compiles_in_one_graph(name, format):
    torch.compiler.reset()
    net, x = NETS[name]().to(memory_format=format), image(2, 3, 33, 34, format=format)
    eager, compiled = step(net, net, x), step(net, torch.compile(net, fullgraph=True, backend="aot_eager"), x)
    torch.testing.assert_close(compiled, eager)
    assert compiled[0].is_contiguous(memory_format=format)


def test_compiles_with_inductor():
    torch.compiler.reset()
    net, x = NETS["switch"](), image(2, 3, 33, 34)
    torch.testing.assert_close(step(net, torch.compile(net, fullgraph=True), x), step(net, net, x))


@pytest.mark.parametrize("name, strict", [*((name, False) for name in NETS), ("switch", True), ("soft", True)])
def test_exports_with_dynamic_shapes(name, strict):
    net = NETS[name]().eval()
    any_size = {0: torch.export.Dim.DYNAMIC, 2: torch.export.Dim.DYNAMIC, 3: torch.export.Dim.DYNAMIC}
    program = torch.export.export(net, (image(2, 3, 33, 34),), strict=strict, dynamic_shapes=(any_size,)).module()
    # Torch 2.11's max_pool2d itself exports only sizes that leave the example's remainder; 2.14's exports any.
    other = (5, 3, 48, 57) if torch.__version__ >= (2, 14) else (5, 3, 49, 66)
    for shape in [(2, 3, 33, 34), other]:
        torch.testing.assert_close(program(image(*shape)), net(image(*shape)))


@pytest.mark.parametrize("name", NETS)
def test_traces_symbolically(name):
    net = NETS[name]()
    x = image(2, 3, 17, 18)
    assert torch.equal(torch.fx.symbolic_trace(net)(x), net(x))


@pytest.mark.parametrize("name", NETS)
def test_autocast_threads_copies(name):
    net, x = NETS[name](), image(2, 3, 17, 18)
    with torch.autocast("cpu", torch.bfloat16):
        assert net(x).dtype == torch.bfloat16
    expected = net(x)
    assert torch.equal(copy.deepcopy(net)(x), expected)
    for part in (net.pool, net.unpool):
        assert repr(pickle.loads(pickle.dumps(part))) == repr(part)
    with ThreadPoolExecutor(2) as threads:
        assert all(torch.equal(out, expected) for out in threads.map(net, [x] * 8))


def test_functional_gradient():
    net, x = NETS["overlap"](), image(2, 3, 17, 18)
    by_func = torch.func.grad(lambda x: net(x).square().sum())(x)
    y = x.clone().requires_grad_()
    net(y).square().sum().backward()
    torch.testing.assert_close(by_func, y.grad)


@pytest.mark.parametrize("batch", [0, 1])
@pytest.mark.parametrize("name", NETS)
def test_small_batches_meta_and_fake(name, batch):
    net, shape = NETS[name](), (batch, 3, 17, 18)
    out = net(torch.zeros(shape))
    assert out.shape == (batch, 4, 17, 18)
    out.sum().backward()
    assert copy.deepcopy(net).to("meta")(torch.zeros(shape, device="meta")).shape == out.shape
    with FakeTensorMode(allow_non_fake_inputs=True):
        assert net(torch.zeros(shape)).shape == out.shape


def test_repr():
    geometry = "kernel_size=(3, 3), stride=(2, 2), padding=(1, 1)"
    assert repr(SwitchPool2d(3, 2, 1)) == f"SwitchPool2d({geometry}, ceil_mode=False)"
    assert repr(SwitchUnpool2d((2, 3))) == "SwitchUnpool2d(kernel_size=(2, 3), stride=(2, 3), padding=(0, 0))"
    assert repr(SoftPool2d(2, 100)) == "SoftPool2d(kernel_size=(2, 2), beta=100.0)"
    assert repr(SoftUnpool2d(2)) == "SoftUnpool2d(kernel_size=(2, 2))"
    assert repr(UpsampleUnpool2d(2)) == "UpsampleUnpool2d(kernel_size=(2, 2))"


X, WHERE, SOFT = torch.zeros(1, 2, 4, 4), torch.zeros(1, 2, 4, 4, dtype=torch.uint8), torch.zeros(1, 2, 2, 4, 4)


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: switch_pool2d(X[0], 2), r"x: got \(2, 4, 4\), expected a tensor of four dimensions"),
        (lambda: switch_pool2d(WHERE, 2), "x: got torch.uint8, expected a floating-point"),
        (lambda: switch_pool2d(X, 0), "kernel_size: got 0"),
        (lambda: switch_pool2d(X, 2.0), "kernel_size: got 2.0"),
        (lambda: switch_pool2d(X, True), "kernel_size: got True"),
        (lambda: switch_pool2d(X, (2, 2, 2)), "kernel_size: got"),
        (lambda: switch_pool2d(X, 17), "289 positions, expected at most 256"),
        (lambda: switch_pool2d(X, 2, 0), "stride: got 0"),
        (lambda: switch_pool2d(X, 3, 2, 2), r"padding: got \(2, 2\), expected at most half"),
        (lambda: switch_pool2d(X, 3, 2, -1), "padding: got -1"),
        (lambda: switch_pool2d(X, 5), "smaller than one window"),
        (lambda: switch_unpool2d(X[0], WHERE, 2), "what: got"),
        (lambda: switch_unpool2d(X, WHERE.long(), 2), "where: got torch.int64, expected torch.uint8"),
        (lambda: switch_unpool2d(X, WHERE[:, :1], 2), r"where: got \(1, 1, 4, 4\), expected \(1, 2, 4, 4\)"),
        (lambda: switch_unpool2d(X, WHERE, 2, output_size=(8, 10)), r"output_size: got \(8, 10\), which does not"),
        (lambda: switch_unpool2d(X, WHERE, 2, output_size=(1, 2, 8, 8)), r"pass x.shape\[-2:\]"),
        (lambda: soft_pool2d(X[0], 2, 1.0), "x: got"),
        (lambda: soft_pool2d(X.long(), 2, 1.0), "x: got torch.int64"),
        (lambda: soft_pool2d(X, 5, 1.0), "smaller than one window"),
        (lambda: soft_pool2d(X, 2, -1.0), "beta: got -1.0"),
        (lambda: soft_pool2d(X, 2, NAN), "beta: got nan"),
        (lambda: SoftPool2d(2, INF), "beta: got inf"),
        (lambda: soft_unpool2d(X, X, 2), "where: got torch.float32"),
        (lambda: soft_unpool2d(X, SOFT[:, :1], 2), "where: got"),
        (lambda: soft_unpool2d(X, SOFT, 2, (7, 8)), "output_size: got"),
        (lambda: upsample_unpool2d(X, 2, (6, 8)), "output_size: got"),
        (lambda: upsample_unpool2d(X, 300), "kernel_size: got"),
        (lambda: SwitchUnpool2d(2, padding=2), "padding: got"),
    ],
)
def test_errors(call, message):
    with pytest.raises(ValueError, match=message):
        call()
