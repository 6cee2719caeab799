"""The losses of a Stacked What-Where Auto-Encoder: pure functions of tensors.

Equation (1) of the paper (arXiv:1506.02351) and its second half, eq. (2):

    L      = lambda_nll * L_NLL + lambda_rec * L_L2rec + sum_m lambda_middle[m] * L_L2M[m]      (1)
    L_L2rec = ||x - x~||^2        L_L2M[m] = ||what_m - what~_m||^2                              (2)

The lambdas alone choose how a net learns: lambda_rec = lambda_middle = 0 is supervised, lambda_nll = 0
is unsupervised, all three on is semi-supervised.  Squares are averaged over elements, not summed, so
that one lambda means the same at every image size and width.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import Function

__all__ = ["Lambdas", "l1_penalty", "middle_losses", "nll_loss", "reconstruction_loss", "total_loss"]


@dataclass(frozen=True)
class Lambdas:
    """Weights of the terms of eq. (1), each >= 0.

    Args:
        nll: weight of the classification loss on labelled images.
        rec: weight of the reconstruction loss at the input.
        middle: weight of the intermediate losses: one for all, or one per middle, shallow to deep.
        l1: weight of the L1 penalty on the whats, a rival regulariser in the paper's Table 4.

    Raises:
        ValueError: a weight is negative or not finite.
    """

    nll: float = 1.0
    rec: float = 1.0
    middle: float | tuple[float, ...] = 1.0
    l1: float = 0.0

    def __post_init__(self) -> None:
        if isinstance(self.middle, list):
            object.__setattr__(self, "middle", tuple(self.middle))
        middle = self.middle if isinstance(self.middle, tuple) else (self.middle,)
        for name, values in (("nll", (self.nll,)), ("rec", (self.rec,)), ("middle", middle), ("l1", (self.l1,))):
            if any(not math.isfinite(v) or v < 0 for v in values):
                raise ValueError(
                    f"lambda_{name} is {getattr(self, name)}: expected finite numbers >= 0; 0 leaves the term out"
                )

    @property
    def runs_decoder(self) -> bool:
        """Whether any term needs the decoder; when not, the net is the plain convnet and costs the same."""
        return self.rec > 0 or (max(self.middle, default=0.0) if isinstance(self.middle, tuple) else self.middle) > 0

    @property
    def uses_unlabeled(self) -> bool:
        """Whether unlabelled images enter any term."""
        return self.runs_decoder or self.l1 > 0

    def per_middle(self, count: int) -> tuple[float, ...]:
        """The weight of each of ``count`` middles, shallow to deep.

        Raises:
            ValueError: a sequence of another length was given.
        """
        if not isinstance(self.middle, tuple):
            return (self.middle,) * count
        if len(self.middle) != count:
            raise ValueError(
                f"lambda_middle has {len(self.middle)} values, but the model has {count} middles "
                f"(one per stage but the topmost): give one value, or {count}"
            )
        return self.middle


class _MeanSquare(Function):
    """Mean of (a - b)^2 in fp32; keeps a and b as they are for backward, not their difference nor copies in fp32."""

    @staticmethod
    def forward(a: Tensor, b: Tensor) -> Tensor:
        return (a.float() - b.float()).square().mean()

    @staticmethod
    def setup_context(ctx, inputs, output) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, Tensor | None]:
        a, b = ctx.saved_tensors
        slope = (a.float() - b.float()) * (grad * (2 / a.numel()))
        return (
            slope.to(a.dtype) if ctx.needs_input_grad[0] else None,
            slope.neg().to(b.dtype) if ctx.needs_input_grad[1] else None,
        )


def nll_loss(logits: Tensor, target: Tensor) -> Tensor:
    """L_NLL: mean negative log-likelihood over the labelled images; exactly 0 for a batch with none.

    Args:
        logits: (B, num_classes).
        target: (B,) int64 class indices.
    """
    if target.shape[0] == 0:
        return logits.sum() * 0.0
    return F.cross_entropy(logits.float(), target)


def reconstruction_loss(reconstruction: Tensor, image: Tensor) -> Tensor:
    """L_L2rec of eq. (2): mean over all elements of the squared difference, in fp32.

    Args:
        reconstruction, image: (B, C, H, W).
    """
    return _MeanSquare.apply(reconstruction, image)


def middle_losses(middles: Sequence[tuple[Tensor, Tensor]], detach: bool = False) -> list[Tensor]:
    """L_L2M of eq. (2), one scalar per middle, shallow to deep: mean of squares, in fp32.

    Args:
        middles: pairs of the encoder's what and the decoder's activation, both (B, C_m, H_m, W_m).
        detach: treat the encoder's whats as constants, so that only the decoder is pulled towards them.
    """
    return [_MeanSquare.apply(decoded, what.detach() if detach else what) for what, decoded in middles]


def l1_penalty(whats: Sequence[Tensor]) -> Tensor:
    """Sum over stages of the mean absolute what: the L1 rival of the paper's Table 4."""
    return torch.stack([what.float().abs().mean() for what in whats]).sum()


def total_loss(
    lambdas: Lambdas, nll: Tensor, rec: Tensor | None = None, middle: Sequence[Tensor] = (), l1: Tensor | None = None
) -> Tensor:
    """Eq. (1): the weighted sum.  A term whose weight is 0 is left out, so its NaN or its cost never enters."""
    terms = [(lambdas.nll, nll), (lambdas.rec, rec), (lambdas.l1, l1)]
    if middle:  # none were made when the decoder did not run
        terms += list(zip(lambdas.per_middle(len(middle)), middle, strict=False))
    total = torch.zeros((), device=nll.device)
    for weight, term in terms:
        if weight > 0 and term is not None:
            total = total + weight * term
    return total
