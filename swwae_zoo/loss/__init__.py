"""The losses: one table of terms, and eq. (1)."""

from swwae_zoo.loss.objective import Lambdas, term_values, total_loss
from swwae_zoo.loss.pseudo_labels import PSEUDO_LABELS, TeacherStatistics, softmatch, threshold
from swwae_zoo.loss.terms import (
    TERMS,
    Step,
    Term,
    TermOptions,
    consistency_loss,
    l1_penalty,
    middle_losses,
    nll_loss,
    reconstruction_loss,
    register_term,
)

__all__ = [
    "PSEUDO_LABELS",
    "TERMS",
    "Lambdas",
    "Step",
    "TeacherStatistics",
    "Term",
    "TermOptions",
    "consistency_loss",
    "l1_penalty",
    "middle_losses",
    "nll_loss",
    "reconstruction_loss",
    "register_term",
    "softmatch",
    "term_values",
    "threshold",
    "total_loss",
]
