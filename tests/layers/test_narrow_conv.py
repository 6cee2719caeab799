"""The decoder's last convolution against torch's own."""

import pytest
import torch
import torch.nn.functional as F
from instruction_sets import LIBRARIES
from torch import nn

from swwae_zoo.kernels import narrow, native
from swwae_zoo.layers.narrow_conv import NarrowConv2d


@pytest.fixture(params=LIBRARIES or ["none"])
def instruction_set(request, monkeypatch):
    """Each set of kernels in turn, in place of the one that was chosen for this processor."""
    if not LIBRARIES:
        pytest.skip("installed without a C compiler")
    monkeypatch.setattr(native, "_library", lambda: LIBRARIES[request.param])


def layer(channels=64, kernel_size=5, size=(9, 13), batch=3, out=1, bias=True):
    torch.manual_seed(0)
    conv = NarrowConv2d(channels, out, kernel_size, bias=bias)
    return conv, torch.randn(batch, channels, *size).contiguous(memory_format=torch.channels_last).requires_grad_()


def uses(y):
    return "Narrow" in type(y.grad_fn).__name__


def error(got, expected):
    return ((got.double() - expected).norm() / expected.norm()).item()


def errors(y, grad, inputs, dtype):
    """Of the result and of each gradient, against float64."""
    exact = [t.detach().to(dtype if t is inputs[0] else t.dtype).double().requires_grad_() for t in inputs]
    expected = F.conv2d(*exact, padding=inputs[1].shape[2] // 2)
    mine, right = torch.autograd.grad(y, inputs, grad), torch.autograd.grad(expected, exact, grad.double())
    return [error(y, expected), *(error(a, b) for a, b in zip(mine, right, strict=True))]


@pytest.mark.parametrize("kernel_size", [1, 3, 5, 7])
@pytest.mark.parametrize("size", [(9, 13), (1, 4), (3, 1), (2, 40)])
def test_float32(kernel_size, size, instruction_set):
    conv, x = layer(kernel_size=kernel_size, size=size)
    y = conv(x)
    assert uses(y) and y.shape == (3, 1, *size)
    assert max(errors(y, torch.randn(y.shape), [x, *conv.parameters()], torch.float32)) < 2e-6


@pytest.mark.parametrize(("channels", "bias"), [(32, True), (96, False)])
def test_bfloat16_is_rounded_once(channels, bias, instruction_set):
    conv, x = layer(channels, bias=bias)
    with torch.autocast("cpu", torch.bfloat16):
        y = conv(x)
    assert uses(y) and y.dtype == torch.bfloat16
    of_y, of_x, of_weight, *_ = errors(y, torch.randn(y.shape).bfloat16(), [x, *conv.parameters()], torch.bfloat16)
    assert max(of_y, of_x) < 2.5e-3 and of_weight < 1e-5


def test_many_threads_share_the_images(instruction_set):
    conv, x = layer(batch=5)
    grad, before = torch.randn(5, 1, 9, 13), torch.get_num_threads()
    slopes = []
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            slopes.append(torch.autograd.grad(conv(x), [x, *conv.parameters()], grad))
    finally:
        torch.set_num_threads(before)
    for one, several in zip(*slopes, strict=True):
        torch.testing.assert_close(one, several, rtol=1e-4, atol=1e-4)


@pytest.mark.skipif(not LIBRARIES, reason="installed without a C compiler")
def test_where_it_is_used():
    conv, x = layer()
    assert uses(conv(x)) and uses(conv(x.detach()))
    with torch.no_grad():  # without gradients the plain one, bit for bit
        assert torch.equal(conv(x), F.conv2d(x, conv.weight, conv.bias, padding=2))
    assert not uses(conv(x.detach().contiguous().requires_grad_()))  # NCHW
    for changed in ({"channels": 40}, {"out": 3}, {"size": (1, 1025)}, {"batch": 0}, {"kernel_size": 9}):
        conv, x = layer(**changed)
        assert not uses(conv(x)), changed


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("format", [torch.contiguous_format, torch.channels_last])
def test_other_numbers_of_channels_are_torchs_own(channels, format):
    conv, _ = layer(7, out=channels)
    x = torch.randn(2, 7, 9, 6).to(memory_format=format)
    assert torch.equal(conv(x), F.conv2d(x, conv.weight, conv.bias, padding=2))


def test_second_derivatives():
    conv, x = layer(32, 3)
    slopes = []
    for y in (conv(x), nn.Conv2d.forward(conv, x)):
        (slope,) = torch.autograd.grad(y.square().sum(), x, create_graph=True)
        slopes.append(torch.autograd.grad(slope.square().sum(), [x, conv.weight]))
    for mine, right in zip(*slopes, strict=True):
        torch.testing.assert_close(mine, right, rtol=1e-4, atol=1e-3)


@pytest.mark.skipif(not LIBRARIES, reason="installed without a C compiler")
def test_wrong_arguments_are_told_and_not_read():
    weight, x = torch.randn(1, 32, 3, 3), torch.randn(2, 32, 4, 5).contiguous(memory_format=torch.channels_last)
    grad = torch.randn(2, 1, 4, 5)
    for call in (
        lambda: narrow.convolve(x.contiguous(), weight, None),
        lambda: narrow.convolve(x.half(), weight, None),
        lambda: narrow.convolve(x[:, :16], weight, None),
        lambda: narrow.weight_gradient(x, grad[:1], weight),
        lambda: narrow.weight_gradient(x, grad.bfloat16(), weight),
        lambda: narrow.input_gradient(torch.randn(2, 3, 4, 5), weight),
    ):
        with pytest.raises(ValueError, match=r"^narrow\w*: got "):
            call()
