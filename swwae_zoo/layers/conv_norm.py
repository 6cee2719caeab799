"""A "same" convolution with optional batch norm: the unit of encoder and decoder stages."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

from torch import Tensor, nn

from swwae_zoo.layers.narrow_conv import NarrowConv2d
from swwae_zoo.layers.winograd_conv import Conv3x3

__all__ = ["ConvFact", "ConvNorm", "are_plain"]


class ConvFact(NamedTuple):
    """One "same" convolution: channels in, channels out, odd kernel size."""

    in_chs: int
    out_chs: int
    kernel_size: int


class ConvNorm(nn.Module):
    """ "Same" convolution, then batch norm if asked for: (B, in_chs, H, W) -> (B, out_chs, H, W).

    No activation: the caller places the ReLU, which is cheaper after a max pool than before it.
    """

    def __init__(self, fact: ConvFact, batch_norm: bool, is_output: bool = False, device=None, dtype=None):
        super().__init__()
        dd: dict[str, Any] = {"device": device, "dtype": dtype}
        in_chs, out_chs, kernel_size = fact
        if is_output:
            self.conv = NarrowConv2d(in_chs, out_chs, kernel_size, **dd)
        elif kernel_size == 3:  # a bias before batch norm would be subtracted again
            self.conv = Conv3x3(in_chs, out_chs, bias=not batch_norm, **dd)
        else:
            self.conv = nn.Conv2d(in_chs, out_chs, kernel_size, padding=kernel_size // 2, bias=not batch_norm, **dd)
        self.norm = nn.BatchNorm2d(out_chs, **dd) if batch_norm else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(x))


def are_plain(convs: Iterable[nn.Module]) -> bool:
    """Whether a stage may run the parts of these modules itself, which saves activations.

    Not if one was replaced (an adapter, say) or has hooks: then each is called, once and with the whole batch.
    """
    return all(
        type(conv) is ConvNorm and not any(_is_hooked(module) for module in (conv, conv.conv, conv.norm))
        for conv in convs
    )


def _is_hooked(module: nn.Module) -> bool:
    return bool(
        module._forward_hooks or module._forward_pre_hooks or module._backward_hooks or module._backward_pre_hooks
    )
