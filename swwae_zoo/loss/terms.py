"""The terms of the loss, one row each, and the registry that holds them.

Everything that knows the terms is a loop over this table: the step, the weights over processes, the twin, the curves,
the model card, the records of experiments. A term takes two files: its row here, and its weight `lambda_<name>` among
the options of `config/schema.py`. A term from outside the package takes one: `register_term`, with its weight in the
table `lambda_other` of a recipe.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import Function

from swwae_zoo.kernels import squares
from swwae_zoo.loss.pseudo_labels import TeacherStatistics, softmatch, threshold

__all__ = [
    "TERMS",
    "Step",
    "Term",
    "TermOptions",
    "consistency_loss",
    "l1_penalty",
    "middle_losses",
    "nll_loss",
    "reconstruction_loss",
    "register_term",
]

IMAGES = ("labeled", "unlabeled", "all")
NEEDS = ("encoding", "decoding", "strong view", "teacher", "teacher encoding", "cross decoding")
SCHEDULES = ("constant", "ramp", "fade")


class TermOptions(NamedTuple):
    """What terms can be told besides their weights.

    detach_targets: keep the gradient of L2M, and of the cross-view terms, out of their targets.
    confidence: least probability, above 0 and at most 1, at which the teacher's class becomes a target.
    decoder_only: what and where reach the decoder without gradient, so that reconstruction trains the decoder alone.
    noise: standard deviation of Gaussian noise that is added to the images before the encoder, in units of the
        normalised image; L2rec and L2M then compare with the clean image and the clean whats. 0 adds none.
    pseudo_labels: how the teacher's classes become targets, "threshold" or "softmatch"; see `pseudo_labels.py`.
    """

    detach_targets: bool = False
    confidence: float = 0.95
    decoder_only: bool = False
    noise: float = 0.0
    pseudo_labels: str = "threshold"


class Step(NamedTuple):
    """What one training step has computed; a field is None where no active term needs it.

    L labelled and U unlabelled images; in batches of both the labelled ones come first.

    logits: (L, num_classes), of the labelled images.
    target: (L,) int64 classes.
    images: (L + U, C, H, W), what went into the encoder, before noise was added to it.
    encoding: whats and switches of `images`, see `swwae_zoo.models.Encoding`.
    decoding: reconstruction and middles of `images`, see `swwae_zoo.models.Decoding`.
    strong_logits: (U, num_classes), of the strong views of the unlabelled images.
    teacher_logits: (U, num_classes), the teacher's on their weak views; without gradient.
    weak: (U, C, H, W), those weak views.
    cross: decoding of the strong views' top what through the teacher's wheres of the weak views, see
        `SWWAE.with_where`.
    options: see `TermOptions`.
    statistics: moving means of the teacher's predictions, of the steps before; for pseudo_labels "softmatch".
    """

    logits: Tensor
    target: Tensor
    images: Tensor
    encoding: Any = None
    decoding: Any = None
    strong_logits: Tensor | None = None
    teacher_logits: Tensor | None = None
    weak: Tensor | None = None
    cross: Any = None
    options: TermOptions = TermOptions()
    statistics: TeacherStatistics | None = None


class Term(NamedTuple):
    """One term of the loss.

    name: its key in metrics.jsonl, and `lambda_<name>` in recipes.
    label: its name in the legend of the curves and on the card.
    images: which images its mean is over: "labeled", "unlabeled" or "all".
    value: the loss, a scalar, or one scalar for each part that has a weight of its own.
    needs: what the step has to compute for it: "encoding", "decoding", "strong view", "teacher" (and so the weak view),
        "teacher encoding", "cross decoding".
    schedule: "constant"; "ramp": the weight rises from 0 over the first part of a run (key `ramp`); "fade": it falls
        to 0 over the last part (key `fade`).
    """

    name: str
    label: str
    images: str
    value: Callable[[Step], Tensor | Sequence[Tensor]]
    needs: frozenset[str] = frozenset()
    schedule: str = "constant"


TERMS: dict[str, Term] = {}


def register_term(term: Term) -> Term:
    """Adds a term to the loss of every model; its weight is 0 unless a recipe says otherwise.

    Returns:
        The term.

    Raises:
        ValueError: a name that is taken or is no identifier, or an unknown kind of images, needs or schedule.
    """
    if not term.name.isidentifier() or term.name in (*TERMS, "loss", "output", "step"):
        raise ValueError(f"term: got the name {term.name!r}, expected an identifier other than {', '.join(TERMS)}")
    for what, got, known in (
        ("images", [term.images], IMAGES),
        ("needs", term.needs, NEEDS),
        ("schedule", [term.schedule], SCHEDULES),
    ):
        unknown = sorted(set(got) - set(known))
        if unknown:
            raise ValueError(f"term {term.name}: {what}: got {unknown[0]!r}, expected of {', '.join(map(repr, known))}")
    TERMS[term.name] = term
    return term


class _MeanSquare(Function):
    """Mean of (a - b)^2 in fp32; keeps a and b as they are for backward, not their difference nor copies in fp32."""

    @staticmethod
    def forward(a: Tensor, b: Tensor) -> Tensor:
        if squares.takes(a, b):
            return squares.mean_square(a, b)
        return (a.float() - b.float()).square().mean()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        (a, b), wanted = ctx.saved_tensors, ctx.needs_input_grad
        if not torch.is_grad_enabled() and squares.takes(a, b):
            return squares.slopes(a, b, grad, wanted)
        slope = (a.float() - b.float()) * (grad * (2 / a.numel()))
        return slope.to(a.dtype) if wanted[0] else None, slope.neg().to(b.dtype) if wanted[1] else None


def nll_loss(logits: Tensor, target: Tensor) -> Tensor:
    """L_NLL of eq. (1): mean negative log-likelihood over the labelled images; exactly 0 for a batch with none.

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
    return _MeanSquare.apply(reconstruction, image)  # pyright: ignore[reportReturnType]


def middle_losses(middles: Sequence[tuple[Tensor, Tensor]], detach: bool = False) -> list[Tensor]:
    """L_L2M of eq. (2), one scalar per middle, shallow to deep: mean of squares, in fp32.

    Args:
        middles: pairs of the encoder's what and the decoder's activation, both (B, C_m, H_m, W_m).
        detach: treat the encoder's whats as constants, so that only the decoder is pulled towards them.
    """
    return [reconstruction_loss(decoded, what.detach() if detach else what) for what, decoded in middles]


def l1_penalty(whats: Sequence[Tensor]) -> Tensor:
    """Sum over stages of the mean absolute what: the L1 rival of the paper's Table 4."""
    return torch.stack([what.float().abs().mean() for what in whats]).sum()


def consistency_loss(strong_logits: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """Cross-entropy of the strong views to the teacher's classes, weighted; the mean is over all images.

    Exactly 0 for a batch with none.

    Args:
        strong_logits: (B, num_classes), of the strong views.
        target: (B,) int64, pseudo-labels.
        weight: (B,), how much each counts; see `pseudo_labels.py`.
    """
    if strong_logits.shape[0] == 0:
        return strong_logits.sum() * 0.0
    return (F.cross_entropy(strong_logits.float(), target, reduction="none") * weight).mean()


def _consistency(step: Step) -> Tensor:
    assert step.strong_logits is not None and step.teacher_logits is not None
    if step.statistics is None:
        pseudo_labels = threshold(step.teacher_logits, step.options.confidence)
    else:
        pseudo_labels = softmatch(step.teacher_logits, step.statistics)
    return consistency_loss(step.strong_logits, *pseudo_labels)


def _cross(step: Step) -> Tensor:
    middles = middle_losses(step.cross.middles, detach=True)
    return torch.stack([reconstruction_loss(step.cross.reconstruction, step.weak), *middles]).sum()  # type: ignore[arg-type]


register_term(Term("nll", "NLL", "labeled", lambda step: nll_loss(step.logits, step.target)))
register_term(
    Term(
        "rec",
        "L2rec",
        "all",
        lambda step: reconstruction_loss(step.decoding.reconstruction, step.images),
        frozenset({"encoding", "decoding"}),
        "fade",
    )
)
register_term(
    Term(
        "middle",
        "L2M, sum",
        "all",
        lambda step: middle_losses(step.decoding.middles, step.options.detach_targets),
        frozenset({"encoding", "decoding"}),
        "fade",
    )
)
register_term(Term("l1", "L1", "all", lambda step: l1_penalty(step.encoding.whats), frozenset({"encoding"})))
register_term(
    Term("consistency", "consistency", "unlabeled", _consistency, frozenset({"strong view", "teacher"}), "ramp")
)
register_term(
    Term(
        "cross",
        "cross-view",
        "unlabeled",
        _cross,
        frozenset({"encoding", "strong view", "teacher", "teacher encoding", "cross decoding"}),
        "fade",
    )
)
