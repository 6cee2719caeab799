"""Synchronised batch norm: statistics over the images of all processes, on GPUs and CPUs."""

from __future__ import annotations

import torch
import torch.distributed as dist
from timm.layers import convert_sync_batchnorm
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

__all__ = ["with_sync_batch_norm"]


def with_sync_batch_norm(model: nn.Module, device: torch.device, compiled: bool = False) -> nn.Module:
    """``model`` with synchronised batch norms; weights and their names stay.

    On CUDA it is torch's own, which does not support CPUs; there `SharedBatchNorm2d` does the same over gloo.

    Raises:
        ValueError: a batch norm that can't be converted on a CPU, or a step that is to be compiled in one graph.
    """
    if compiled:
        raise ValueError(
            "sync_bn and compile: got both, but one graph can't hold the all-reduce of statistics; leave one out"
        )
    if device.type == "cuda":
        return convert_sync_batchnorm(model)
    for module in model.modules():
        if type(module) is nn.BatchNorm2d:
            module.__class__ = SharedBatchNorm2d
        elif isinstance(module, _BatchNorm):
            raise ValueError(
                f"sync_bn: {type(module).__name__} is supported on GPUs only; on a CPU expected nn.BatchNorm2d alone"
            )
    return model


class _Sum(torch.autograd.Function):
    """The sum over processes; every process's loss depends on it, so the gradients are summed too."""

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        x = x.clone()
        dist.all_reduce(x)
        return x

    @staticmethod
    def backward(ctx, grad: Tensor) -> Tensor:
        grad = grad.contiguous().clone()
        dist.all_reduce(grad)
        return grad


class SharedBatchNorm2d(nn.BatchNorm2d):
    """`nn.BatchNorm2d` over the batches of all processes, which may differ in size.

    The mean is all-reduced first, then the squared deviations: sums of squares alone would lose digits.
    """

    def forward(self, input: Tensor) -> Tensor:
        if not self.training:
            return super().forward(input)
        x = input.float()
        own = torch.cat([x.sum((0, 2, 3)), x.new_tensor([x.numel() / x.shape[1]])])
        total = _Sum.apply(own)
        count = total[-1].detach()
        mean = total[:-1] / count
        centred = x - mean[:, None, None]
        var = _Sum.apply(centred.square().sum((0, 2, 3))) / count
        if self.track_running_stats:
            assert self.num_batches_tracked is not None and self.running_mean is not None
            assert self.running_var is not None
            with torch.no_grad():
                self.num_batches_tracked.add_(1)
                momentum = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
                self.running_mean.lerp_(mean, momentum)
                self.running_var.lerp_(var * count / (count - 1), momentum)
        y = centred * (var + self.eps).rsqrt()[:, None, None]
        if self.affine:
            y = y * self.weight[:, None, None] + self.bias[:, None, None]
        return y.to(input.dtype)
