"""Eq. (1) of the paper (arXiv:1506.02351): the weighted sum of the terms.

    L       = lambda_nll * L_NLL + lambda_rec * L_L2rec + sum_m lambda_middle[m] * L_L2M[m] + further terms      (1)
    L_L2rec = ||x - x~||^2        L_L2M[m] = ||what_m - what~_m||^2                                              (2)

The lambdas alone choose how a net learns: lambda_rec = lambda_middle = 0 is supervised, lambda_nll = 0 is unsupervised,
all three on is semi-supervised. Squares are averaged over elements, not summed, so that one lambda means the same at
every image size and width.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import cast

import torch
from torch import Tensor

from swwae_zoo.loss.terms import TERMS, Step, Term

__all__ = ["Lambdas", "term_values", "total_loss"]

Weight = float | tuple[float, ...]


class Lambdas(Mapping[str, Weight]):
    """Weight of each term of eq. (1), by the term's name; at least 0, and 0 leaves the term out.

    Args:
        nll: of the classification loss on labelled images.
        rec: of the reconstruction loss at the input.
        middle: of the intermediate losses: one for all, or one per middle, shallow to deep.
        others: of further terms, by name; 0 where not given.

    Raises:
        ValueError: no such term, or a weight that is negative or not finite.
    """

    def __init__(self, nll: Weight = 1.0, rec: Weight = 1.0, middle: Weight | list[float] = 1.0, **others: Weight):
        given = {"nll": nll, "rec": rec, "middle": middle, **others}
        for name, weight in given.items():
            if name not in TERMS:
                raise ValueError(f"lambda_{name}: got a weight for no known term, expected one of {', '.join(TERMS)}")
            if any(not math.isfinite(value) or value < 0 for value in _weights(weight)):
                raise ValueError(f"lambda_{name} is {weight}: expected finite numbers >= 0; 0 leaves the term out")
        self._weights: dict[str, Weight] = {
            name: tuple(weight) if isinstance(weight, (list, tuple)) else weight for name, weight in given.items()
        }

    def __getitem__(self, name: str) -> Weight:
        return self._weights.get(name, 0.0) if name in TERMS else self._weights[name]

    def __iter__(self) -> Iterator[str]:
        return iter(TERMS)

    def __len__(self) -> int:
        return len(TERMS)

    @property
    def active(self) -> list[Term]:
        """The terms whose weight is above 0."""
        return [term for term in TERMS.values() if max(_weights(self[term.name]), default=0.0) > 0]

    @property
    def needs(self) -> frozenset[str]:
        """What a step has to compute, see `Term`."""
        return frozenset().union(*(term.needs for term in self.active))

    @property
    def classifies(self) -> bool:
        """Whether the classifier learns; without the NLL it stays as it was drawn."""
        return "nll" in (term.name for term in self.active)

    @property
    def runs_decoder(self) -> bool:
        """Whether any term needs the decoder; when not, the net is the plain convnet and costs the same."""
        return not self.needs.isdisjoint({"decoding", "cross decoding"})

    @property
    def uses_unlabeled(self) -> bool:
        """Whether unlabelled images enter any term."""
        return any(term.images != "labeled" for term in self.active)

    def per_middle(self, count: int) -> tuple[float, ...]:
        """The weight of each of ``count`` middles, shallow to deep.

        Raises:
            ValueError: a sequence of another length was given.
        """
        middle = self["middle"]
        if not isinstance(middle, tuple):
            return (middle,) * count
        if len(middle) != count:
            raise ValueError(
                f"lambda_middle has {len(middle)} values, but the model has {count} middles "
                f"(one per stage but the topmost): give one value, or {count}"
            )
        return middle


def term_values(lambdas: Lambdas, step: Step) -> dict[str, list[Tensor]]:
    """The value of every active term, unweighted, by name; the NLL's always, so that it can be watched.

    Each is a list of scalars, one for each part that has a weight of its own: middles are several, or none.
    """
    active = lambdas.active
    return {term.name: _list(term.value(step)) for term in TERMS.values() if term.name == "nll" or term in active}


def total_loss(
    lambdas: Lambdas, values: Mapping[str, Tensor | Sequence[Tensor]], factors: Mapping[str, Tensor] | None = None
) -> Tensor:
    """Eq. (1): the weighted sum. A term whose weight is 0 is left out, so that its NaN never enters.

    Args:
        lambdas: the weights.
        values: by a term's name, its value: a scalar, or one for each middle.
        factors: by a term's name, a scalar that its weight is multiplied with; none where not given.
    """
    tensors = {name: _list(value) for name, value in values.items()}
    device = next((parts[0].device for parts in tensors.values() if parts), None)
    total = torch.zeros((), device=device)
    for name, parts in tensors.items():
        weights = lambdas.per_middle(len(parts)) if name == "middle" else _weights(lambdas[name]) * len(parts)
        for weight, part in zip(weights, parts, strict=True):
            if weight > 0:
                factor = None if factors is None else factors.get(name)
                total = total + (weight if factor is None else weight * factor) * part
    return total


def _list(value: Tensor | Sequence[Tensor]) -> list[Tensor]:
    return [value] if isinstance(value, Tensor) else cast(list[Tensor], list(value))


def _weights(weight: Weight | list[float]) -> tuple[float, ...]:
    return tuple(weight) if isinstance(weight, (tuple, list)) else (weight,)
