"""Pseudo-labels: the class that an unlabelled image counts as, and how much it counts, from the teacher's logits.

threshold   the teacher's class, where its probability reaches a threshold (FixMatch, arXiv:2001.07685, eq. 4)
softmatch   every image counts, the less the surer the teacher is of others (SoftMatch, arXiv:2301.10921, eq. 7),
            with classes aligned to the labelled images' shares (ReMixMatch, arXiv:1911.09785, section 3.1)
"""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor

__all__ = ["PSEUDO_LABELS", "TeacherStatistics", "softmatch", "threshold"]

PSEUDO_LABELS = ("threshold", "softmatch")
DECAY = 0.99  # of the moving means, once they are of a hundred steps
MOST = 1000.0  # by which alignment multiplies a probability


class TeacherStatistics:
    """Moving means of what the teacher says of weak views, over steps and processes.

    They are written in place: a compiled step reads them without being compiled again.

    Args:
        shares: (K,) share of each class, summing to 1, that the teacher's classes are to have.
    """

    def __init__(self, shares: Tensor):
        self.shares = shares.float()
        self.classes = self.shares.clone()  # mean probability of each class, before it is aligned
        self.doubt = torch.full_like(self.shares[0], 1 - 1 / len(shares))  # mean of 1 - largest aligned probability
        self.variance = torch.ones_like(self.doubt)
        self.steps = torch.zeros_like(self.doubt)

    def aligned(self, teacher_logits: Tensor) -> Tensor:
        """(B, K) logits -> (B, K) probabilities, scaled so that classes have their shares on average, each row to 1."""
        scaled = teacher_logits.detach().float().softmax(1) * (self.shares / self.classes).clamp(max=MOST)
        return scaled / scaled.sum(1, keepdim=True)

    def measure(self, teacher_logits: Tensor) -> Tensor:
        """(B, K) logits -> (K + 3,): their number, and sums of the doubt's distance to its mean, its square, and of the
        probabilities."""
        away = 1 - self.aligned(teacher_logits).amax(1) - self.doubt  # the doubt's own squares would cancel
        sums = torch.stack([torch.ones_like(away), away, away.square()], 1).sum(0)
        return torch.cat([sums, teacher_logits.detach().float().softmax(1).sum(0)])

    def update(self, measured: Tensor) -> None:
        """Takes in one step's measure, of all processes; each has to call this."""
        if dist.is_available() and dist.is_initialized():
            measured = measured.clone()
            dist.all_reduce(measured)
        count, (away, square), classes = measured[0], measured[1:3], measured[3:]
        self.steps += 1
        rate = (1 / self.steps).clamp(min=1 - DECAY) * (count > 0)
        count = count.clamp(min=1)
        self.classes.lerp_(classes / count, rate)
        self.variance.lerp_((square / count - (away / count).square()).clamp(min=0), rate)
        self.doubt.add_(rate * away / count)

    def state_dict(self) -> dict[str, Tensor]:
        return {name: value.clone() for name, value in vars(self).items()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Raises KeyError or RuntimeError where ``state`` is of something else."""
        for name, value in vars(self).items():
            value.copy_(state[name])


def threshold(teacher_logits: Tensor, confidence: float) -> tuple[Tensor, Tensor]:
    """The teacher's class, counting 1 where its probability is at least ``confidence``, else 0.

    Args:
        teacher_logits: (B, K); used without gradient.
        confidence: above 0, at most 1.

    Returns:
        (B,) int64 classes; (B,) weights.
    """
    largest, target = teacher_logits.detach().float().softmax(1).max(1)
    return target, (largest >= confidence).float()


def softmatch(teacher_logits: Tensor, statistics: TeacherStatistics) -> tuple[Tensor, Tensor]:
    """The likeliest class of the aligned probabilities, and a weight by how likely it is.

    The weight is 1 where the largest probability is above its moving mean, and below it exp(-d^2 / (2 (sigma / 2)^2)),
    with d the distance to the mean and sigma the moving standard deviation.

    Args:
        teacher_logits: (B, K); used without gradient.

    Returns:
        (B,) int64 classes; (B,) weights, 0 to 1.
    """
    largest, target = statistics.aligned(teacher_logits).max(1)
    excess = (1 - largest - statistics.doubt).clamp(min=0)
    return target, torch.exp(-2 * excess.square() / statistics.variance.clamp(min=1e-12))
