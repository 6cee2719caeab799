"""Where classes meet a trained net: they are matched by their names, not by their positions."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from swwae_zoo.models._base import SWWAE
from swwae_zoo.utils.text import printable

__all__ = ["labels_for", "rows_by_name"]

SHOWN = 10  # names in a message


def labels_for(model: SWWAE, labels: Tensor, class_names: Sequence[str], data: str) -> Tensor:
    """The labels of a set as the net counts its classes.

    Names that are only the numbers 0, 1, ... in order say nothing, so there, and where the net's names are not known,
    a class is its position.

    Args:
        model: trained; its pretrained_cfg holds ``label_names``.
        labels: (N,) int64, positions in ``class_names``.
        class_names: of the set.
        data: what the set is called, for the error.

    Returns:
        (N,) int64, 0 to num_classes - 1.

    Raises:
        ValueError: the set has a class that the net was not trained for.
    """
    known = list(model.pretrained_cfg.get("label_names") or ())
    if len(labels) == 0:
        return labels
    if not known or _are_numbers(known) or _are_numbers(class_names):
        highest = int(labels.max())
        if highest >= model.num_classes:
            raise ValueError(
                f"{printable(data)} has class {highest}, but the net was trained for {model.num_classes} classes"
            )
        return labels
    places = {name: place for place, name in reversed(list(enumerate(known)))}
    table = torch.full((len(class_names),), -1)
    for label in labels.unique().tolist():
        name = class_names[label]
        if name not in places:
            names = ", ".join(printable(each, 50) for each in known[:SHOWN]) + ", ..." * (len(known) > SHOWN)
            raise ValueError(
                f"{printable(data)} has a class {printable(repr(name), 50)}, which the net was not trained for; "
                f"it knows {names}: rename or remove that class"
            )
        table[label] = places[name]
    return table.to(labels.device)[labels]


def rows_by_name(known: Sequence[str], wanted: Sequence[str]) -> list[int | None] | None:
    """For each wanted class its position among the known ones, None where it is new: `["b", "c"]` of `["a", "b"]` is
    `[1, None]`.

    Returns:
        None where either's names say nothing (see `labels_for`), so that only positions are left to go by.
    """
    if not known or not wanted or _are_numbers(known) or _are_numbers(wanted):
        return None
    places = {name: place for place, name in reversed(list(enumerate(known)))}
    return [places.get(name) for name in wanted]


def _are_numbers(names: Sequence[str]) -> bool:
    return list(names) == [str(number) for number in range(len(names))]
