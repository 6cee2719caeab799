"""A "same" convolution to very few channels: the decoder's last one, with as many as the image."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["NarrowConv2d"]


class NarrowConv2d(nn.Conv2d):
    """`nn.Conv2d` with padding k // 2 and stride 1, faster on a CPU for a single output channel.

    CPU convolutions vectorise over the output channels, so a single one leaves most lanes idle.  There the product with
    each of the k*k taps is computed first, as a 1x1 convolution to k*k channels, and then summed at the shifted
    positions: the same sum in another order, in half the time for (64)5c -> 1 in float32.  Three channels gain nothing,
    and half precision would round every product, so these and other devices use the plain convolution.

    Args:
        in_channels, out_channels, kernel_size: as for `nn.Conv2d`; kernel_size is odd.
    """

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: int, bias: bool = True, device=None, dtype=None
    ):
        super().__init__(
            in_channels, out_channels, kernel_size, padding=kernel_size // 2, bias=bias, device=device, dtype=dtype
        )

    @torch.jit.unused  # as all of the decoder
    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) -> (B, out_channels, H, W)."""
        if (
            self.out_channels > 1
            or x.device.type != "cpu"
            or x.dtype != torch.float32
            or torch.is_autocast_enabled("cpu")
        ):
            return super().forward(x)
        k = self.kernel_size[0]
        taps = self.weight.flip(2, 3).permute(0, 2, 3, 1).reshape(k * k, self.in_channels, 1, 1)
        out = F.fold(F.conv2d(x, taps).flatten(2), x.shape[-2:], k, padding=k // 2)
        return out if self.bias is None else out + self.bias[:, None, None]
