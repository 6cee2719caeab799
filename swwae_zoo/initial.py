"""Weights to start a run from: those that an earlier run left behind."""
from __future__ import annotations

from pathlib import Path

import safetensors
import safetensors.torch

from .model import SWWAE

__all__ = ["load_initial"]


def load_initial(model: SWWAE, source: str | Path) -> None:
    """Copies a run's weights into ``model``; a classifier for other classes stays as it was drawn.

    Args:
        model: changed in place.
        source: a run directory (its best/ is taken), or its best/ or last/.

    Raises:
        ValueError: no weights there, or those of another net.
    """
    source = Path(source)
    file = next((f for f in (source / "model.safetensors", source / "best" / "model.safetensors") if f.is_file()), None)
    if file is None:
        raise ValueError(f"init: {source} holds no weights: expected a run directory that `swwae train` wrote, or its best/ or last/")
    try:
        saved = safetensors.torch.load_file(file)
    except (OSError, safetensors.SafetensorError) as error:
        raise ValueError(f"init: {file} can't be read: {' '.join(str(error).split()):.200}") from error
    own = model.state_dict()
    classifier = model.pretrained_cfg.get("classifier") or ()
    heads = (classifier,) if isinstance(classifier, str) else tuple(classifier)
    for name in [name for name in own if name.rpartition(".")[0] in heads]:
        if name in saved and saved[name].shape != own[name].shape:
            saved[name] = own[name]
    differ = sorted(name for name in own.keys() | saved.keys()
                    if name not in own or name not in saved or own[name].shape != saved[name].shape)
    if differ:
        name = differ[0]
        shapes = [tuple(tensors[name].shape) if name in tensors else "nothing" for tensors in (saved, own)]
        raise ValueError(f"init: {file} is of another net: {name} has {shapes[0]} there, but {shapes[1]} in this model"
                         f"{f', and {len(differ) - 1} more' if len(differ) > 1 else ''}; give the model_args of that run")
    model.load_state_dict(saved)
