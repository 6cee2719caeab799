"""A SWWAE training step in plain PyTorch: the baseline of the benchmarks.

The same layers, losses and numbers of parameters as ours, with torch's own pools (`max_pool2d(return_indices=True)`,
`max_unpool2d`) and a ReLU right after each convolution. Of this package it uses only the notation's parser.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from swwae_zoo.models._notation import parse
from swwae_zoo.models._stages import stages_from_notation

__all__ = ["PlainSWWAE"]


def conv(in_chs: int, out_chs: int, kernel_size: int, batch_norm: bool, relu: bool = True) -> nn.Sequential:
    layers: list[nn.Module] = [nn.Conv2d(in_chs, out_chs, kernel_size, padding=kernel_size // 2, bias=not batch_norm)]
    if batch_norm:
        layers.append(nn.BatchNorm2d(out_chs))
    if relu:
        layers.append(nn.ReLU(inplace=True))
    return nn.Sequential(*layers)


class PlainSWWAE(nn.Module):
    """One of the paper's nets; `forward` returns the loss of eq. (1).

    Args:
        notation: as for `SWWAE`; a pool ends every stage.
        in_chans, img_size: channels and side of the images.
        batch_norm: batch norm after every convolution but the last.
    """

    def __init__(self, notation: str, in_chans: int, img_size: int, batch_norm: bool):
        super().__init__()
        parse(notation)
        stages, linears = stages_from_notation(notation, in_chans)
        self.encoder, self.decoder = nn.ModuleList(), nn.ModuleList()
        for stage in stages:
            self.encoder.append(nn.Sequential(*(conv(*fact, batch_norm) for fact in stage.convs)))
        for m, stage in enumerate(stages):
            layers = [
                conv(
                    fact.out_chs,
                    fact.in_chs,
                    fact.kernel_size,
                    batch_norm and not (m == i == 0),
                    relu=not (m == i == 0),
                )
                for i, fact in reversed(list(enumerate(stage.convs)))
            ]
            self.decoder.append(nn.Sequential(*layers))
        self.windows = [stage.pool_size or 1 for stage in stages]
        size, features = img_size, stages[-1].convs[-1].out_chs
        for window in self.windows:
            size //= window
        widths = [features * size * size, *linears]
        self.head = nn.Sequential(nn.Flatten())
        for i, (fan_in, fan_out) in enumerate(zip(widths, widths[1:], strict=False)):
            if i > 0:
                self.head.append(nn.ReLU(inplace=True))
            self.head.append(nn.Linear(fan_in, fan_out))

    def classify(self, image: Tensor) -> Tensor:
        """Images (B, C, H, W) -> logits (B, num_classes); the decoder stays unused."""
        x = image
        for stage, window in zip(self.encoder, self.windows, strict=True):
            x = F.max_pool2d(stage(x), window)
        return self.head(x)

    def forward(self, image: Tensor, target: Tensor) -> Tensor:
        """Images (B, C, H, W) and classes (B,) -> NLL + L2rec + sum of L2M."""
        x, whats, indices, sizes = image, [], [], []
        for stage, window in zip(self.encoder, self.windows, strict=False):
            x = stage(x)
            sizes.append(x.shape[-2:])
            x, index = F.max_pool2d(x, window, return_indices=True)
            whats.append(x)
            indices.append(index)
        loss = F.cross_entropy(self.head(x), target)
        for m in reversed(range(len(self.decoder))):
            if m < len(self.decoder) - 1:
                loss = loss + F.mse_loss(x, whats[m])
            x = F.max_unpool2d(x, indices[m], [self.windows[m]] * 2, output_size=sizes[m])
            x = self.decoder[m](x)
        return loss + F.mse_loss(x, image)
