"""Winograd's 3x3 convolution against the plain one."""
import pytest
import torch
import torch.nn.functional as F

from swwae_zoo.kernels import native
from swwae_zoo.layers import winograd_conv as winograd
from swwae_zoo.layers.winograd_conv import Conv3x3

pytestmark = pytest.mark.skipif(not native.available(torch.float32), reason="no C compiler")


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
def test_float32_is_as_exact_as_the_plain_one(monkeypatch, size, bias, parts):
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


def test_bfloat16_under_autocast():
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
    for mine, right in zip(gradients(y, grad, x, conv), torch.autograd.grad(expected, exact, grad.double()), strict=True):
        assert mine.dtype == torch.float32 and error(mine, right) < 0.007


def test_where_it_is_used():
    conv, x = layer(size=(8, 8))
    assert uses(conv(x)) and uses(conv(x.detach()))
    assert not uses(conv(x[:1]))  # too few tiles
    assert not uses(conv(x.detach().contiguous().requires_grad_()))  # NCHW
    with torch.no_grad():
        assert torch.equal(conv(x), F.conv2d(x, conv.weight, conv.bias, padding=1))  # without gradients the plain one, bit for bit
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
    for mine, right in zip(torch.autograd.grad(y.sum(), [x, conv.bias]), torch.autograd.grad(expected.sum(), [x, conv.bias]), strict=True):
        torch.testing.assert_close(mine, right, rtol=1e-4, atol=1e-4)


def test_second_derivatives():
    conv, x = layer(64, 64, (8, 8))
    slopes = []
    for y in (conv(x), F.conv2d(x, conv.weight, conv.bias, padding=1)):
        (slope,) = torch.autograd.grad(y.square().sum(), x, create_graph=True)
        slopes.append(torch.autograd.grad(slope.square().sum(), [x, conv.weight]))
    for mine, right in zip(*slopes, strict=True):
        torch.testing.assert_close(mine, right, rtol=1e-4, atol=1e-2)


def test_nan_and_infinity_do_not_hide():
    conv, x = layer(size=(8, 8))
    with torch.no_grad():
        x[0, 0, 0, 0] = float("nan")
        x[1, 0, 4, 4] = float("inf")
    for enabled in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            y = conv(x)
        assert uses(y) and not y[0].isfinite().all() and not y[1].isfinite().all() and y[2:].isfinite().all()


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
