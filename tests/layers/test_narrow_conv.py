"""The decoder's last convolution against torch's own."""

import pytest
import torch
from torch import nn

from swwae_zoo.layers.narrow_conv import NarrowConv2d


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("kernel_size", [1, 3, 5])
@pytest.mark.parametrize("format", [torch.contiguous_format, torch.channels_last])
def test_equals_torch(channels, kernel_size, format):
    torch.manual_seed(0)
    narrow = NarrowConv2d(7, channels, kernel_size)
    plain = nn.Conv2d(7, channels, kernel_size, padding=kernel_size // 2)
    plain.load_state_dict(narrow.state_dict())
    x = torch.randn(2, 7, 9, 6).to(memory_format=format)
    mine, theirs = x.clone().requires_grad_(), x.clone().requires_grad_()
    weights = torch.randn(2, channels, 9, 6)
    for net, image in ((narrow, mine), (plain, theirs)):
        (net(image) * weights).sum().backward()
    torch.testing.assert_close(narrow(x), plain(x))
    torch.testing.assert_close(mine.grad, theirs.grad)
    for a, b in zip(narrow.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad)


def test_half_precision_keeps_torchs_own_sum():
    torch.manual_seed(0)
    narrow, x = NarrowConv2d(4, 1, 3), torch.randn(1, 4, 5, 5)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(narrow(x), nn.functional.conv2d(x, narrow.weight, narrow.bias, padding=1))
