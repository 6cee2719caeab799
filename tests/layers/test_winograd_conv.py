"""Winograd's 3x3 convolution against the plain one."""

import pytest
import torch
import torch.nn.functional as F
from instruction_sets import LIBRARIES

from swwae_zoo.kernels import native
from swwae_zoo.layers import winograd_conv as winograd
from swwae_zoo.layers.winograd_conv import Conv3x3

pytestmark = pytest.mark.skipif(not LIBRARIES, reason="installed without a C compiler")


@pytest.fixture(params=LIBRARIES or ["none"])
def instruction_set(request, monkeypatch):
    """Each set of kernels in turn, in place of the one that was chosen for this processor."""
    monkeypatch.setattr(native, "_library", lambda: LIBRARIES[request.param])
    return request.param


NAN, INF = float("nan"), float("inf")


def layer(in_chs=128, out_chs=144, size=(7, 10), batch=8, bias=True):
    torch.manual_seed(0)
    conv = Conv3x3(in_chs, out_chs, bias=bias).to(memory_format=torch.channels_last)
    x = torch.randn(batch, in_chs, *size).contiguous(memory_format=torch.channels_last).requires_grad_()
    return conv, x


def gradients(y, grad, x, conv):
    return torch.autograd.grad(y, [x, *conv.parameters()], grad)


def error(got, expected):
    return ((got.double() - expected).norm() / expected.norm()).item()


def uses(y):
    return "Winograd" in type(y.grad_fn).__name__


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("size", [(8, 8), (7, 10), (1, 30)])
@pytest.mark.parametrize("parts", [False, True])
def test_float32_is_as_exact_as_the_plain_one(monkeypatch, size, bias, parts, instruction_set):
    monkeypatch.setattr(winograd, "POINTS_BYTES", 16 * 144 * 4 * 37 if parts else 2**23)
    conv, x = layer(size=size, bias=bias, batch=9)
    y = conv(x)
    assert uses(y) and y.is_contiguous(memory_format=torch.channels_last)
    grad = torch.randn(y.shape)
    exact = [t.detach().double().requires_grad_() for t in (x, *conv.parameters())]
    expected = F.conv2d(*exact, padding=1) if bias else F.conv2d(exact[0], exact[1], padding=1)
    assert error(y, expected) < 1e-6
    plain = torch.autograd.grad(expected, exact, grad.double())
    for mine, right in zip(gradients(y, grad, x, conv), plain, strict=True):
        assert mine.dtype == torch.float32 and error(mine, right) < 2e-6


def test_bfloat16_under_autocast(instruction_set):
    conv, x = layer(size=(8, 8))
    with torch.autocast("cpu", torch.bfloat16):
        y = conv(x)
        assert uses(y) and y.dtype == torch.bfloat16
        with torch.no_grad():
            plain = conv(x)
    grad = torch.randn(y.shape).bfloat16()
    exact = [t.detach().bfloat16().double().requires_grad_() for t in (x, *conv.parameters())]
    expected = F.conv2d(*exact, padding=1)
    assert error(plain, expected) < 0.003 and error(y, expected) < 0.007
    for mine, right in zip(
        gradients(y, grad, x, conv), torch.autograd.grad(expected, exact, grad.double()), strict=True
    ):
        assert mine.dtype == torch.float32 and error(mine, right) < 0.007


def test_where_it_is_used():
    conv, x = layer(size=(8, 8))
    assert uses(conv(x)) and uses(conv(x.detach()))
    assert not uses(conv(x[:1]))  # too few tiles
    assert not uses(conv(x.detach().contiguous().requires_grad_()))  # NCHW
    with torch.no_grad():
        assert torch.equal(
            conv(x), F.conv2d(x, conv.weight, conv.bias, padding=1)
        )  # without gradients the plain one, bit for bit
    narrow, image = layer(3, 64, (16, 16))
    assert not uses(narrow(image))
    double, wide = layer(size=(8, 8))
    assert not uses(double.double()(wide.double()))


def test_frozen_weights_and_images_without_gradients():
    conv, x = layer(size=(8, 8))
    conv.weight.requires_grad_(False)
    y = conv(x)
    assert uses(y)
    expected = F.conv2d(x, conv.weight, conv.bias, padding=1)
    for mine, right in zip(
        torch.autograd.grad(y.sum(), [x, conv.bias]), torch.autograd.grad(expected.sum(), [x, conv.bias]), strict=True
    ):
        torch.testing.assert_close(mine, right, rtol=1e-4, atol=1e-4)


def test_second_derivatives():
    conv, x = layer(64, 64, (8, 8))
    slopes = []
    for y in (conv(x), F.conv2d(x, conv.weight, conv.bias, padding=1)):
        (slope,) = torch.autograd.grad(y.square().sum(), x, create_graph=True)
        slopes.append(torch.autograd.grad(slope.square().sum(), [x, conv.weight]))
    for mine, right in zip(*slopes, strict=True):
        torch.testing.assert_close(mine, right, rtol=1e-4, atol=1e-2)


@pytest.mark.parametrize("place", ["x", "weight", "bias", "overflow"])
@pytest.mark.parametrize("autocast", [False, True])
def test_an_infinite_or_nan_result_is_the_plain_ones(place, autocast, instruction_set):
    """Winograd's differences would turn an infinity to NaN, and spread both over their tiles."""
    conv, x = layer(size=(7, 10))
    with torch.no_grad():
        if place == "x":
            x[0, 0, 0, 0], x[1, 0, 4, 4], x[2, 5, 3, 9] = NAN, INF, -INF
        elif place == "overflow":
            x[0, :, 3, 3] = 3e38
            conv.weight[0] = 100.0
        else:
            getattr(conv, place)[7] = INF  # a filter, or a bias
    grad = torch.randn(8, 144, 7, 10).contiguous(memory_format=torch.channels_last)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        y, plain = conv(x), F.conv2d(x, conv.weight, conv.bias, padding=1)
    assert uses(y) and not y.isfinite().all() and y.dtype == plain.dtype
    torch.testing.assert_close(y, plain, rtol=0, atol=0, equal_nan=True)
    mine, expected = gradients(y, grad.to(y.dtype), x, conv), gradients(plain, grad.to(y.dtype), x, conv)
    for got, right in zip(mine, expected, strict=True):
        finite = right.isfinite()
        torch.testing.assert_close(got[~finite], right[~finite], rtol=0, atol=0, equal_nan=True)
        assert not finite.any() or error(got[finite], right[finite]) < (0.01 if autocast else 1e-5)


@pytest.mark.parametrize("value", [INF, -INF, NAN])
def test_an_infinite_or_nan_gradient_is_the_plain_ones(value, instruction_set):
    conv, x = layer(size=(7, 10))
    y, plain = conv(x), F.conv2d(x, conv.weight, conv.bias, padding=1)
    grad = torch.randn(y.shape).contiguous(memory_format=torch.channels_last)
    grad[3, 20, 6, 9] = value
    for got, right in zip(gradients(y, grad, x, conv), gradients(plain, grad, x, conv), strict=True):
        assert not right.isfinite().all()
        torch.testing.assert_close(got, right, rtol=1e-4, atol=1e-4, equal_nan=True)


def test_two_threads_give_the_same():
    conv, x = layer(size=(8, 8))
    threads, results = torch.get_num_threads(), []
    for count in (1, 2):
        torch.set_num_threads(count)
        try:
            results.append(conv(x))
        finally:
            torch.set_num_threads(threads)
    torch.testing.assert_close(*results)


def test_arguments_that_do_not_agree_are_refused():
    """The functions of winograd.c called by hand: nothing is read or written outside a tensor."""
    last = torch.channels_last
    image, points = torch.zeros(2, 32, 5, 7).contiguous(memory_format=last), torch.zeros(16, 24, 32)
    native.spread(image, points, 0, border=True)
    weight, filters = torch.zeros(48, 32, 3, 3).contiguous(memory_format=last), torch.zeros(16, 48, 32)
    native.spread_weight(weight, filters, turned=False)
    for wrong in (
        torch.zeros(16, 24, 48),
        torch.zeros(15, 24, 32),
        torch.zeros(16, 24, 32).bfloat16(),
        torch.zeros(24, 32),
        torch.zeros(16, 25, 32),
        torch.zeros(16, 32, 24).transpose(1, 2),
        torch.zeros(16, 24, 32, device="meta"),
    ):
        for border in (True, False):
            with pytest.raises(ValueError, match="got"):
                native.spread(image, wrong, 0, border)
        with pytest.raises(ValueError, match="got"):
            native.collect(wrong, None, image, 0)
    for first in (-1, 1, 2**62):
        with pytest.raises(ValueError, match="tiles: got"):
            native.spread(image, points, first, border=True)
    for wrong in (image.contiguous(), image[:, :16], image.double(), image[0]):
        with pytest.raises(ValueError, match="got"):
            native.collect(points, None, wrong, 0)
    for bias in (torch.zeros(31), torch.zeros(32).double(), torch.zeros(64)[::2], torch.zeros(1, 32)):
        with pytest.raises(ValueError, match="bias: got"):
            native.collect(points, bias, image, 0)
    with pytest.raises(ValueError, match="multiple of 16"):
        native.spread(torch.zeros(2, 24, 5, 7).contiguous(memory_format=last), torch.zeros(16, 24, 24), 0, border=True)
    for w, p in (
        (weight, filters[:, :47]),
        (weight.contiguous(), filters),
        (weight[:, :, :2], filters),
        (weight[0], filters),
        (weight.double(), filters.double()),
        (weight, filters.double()),
        (weight, filters.half()),
    ):
        with pytest.raises(ValueError, match="got"):
            native.spread_weight(w, p, turned=True)
        with pytest.raises(ValueError, match="got"):
            native.collect_weight(p, w)
