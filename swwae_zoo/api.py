"""`swwae_zoo.train`: what `swwae train` does, from Python, with images from files or from memory."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from swwae_zoo.analysis.load import Trained, load
from swwae_zoo.publish import report
from swwae_zoo.training.memory import archived
from swwae_zoo.training.rounds import best_run, out_of, train_rounds
from swwae_zoo.training.settings import settings

__all__ = ["Run", "train"]


@dataclass(frozen=True)
class Run:
    """A finished run.

    Attributes:
        path: its directory.
        results: one dict for each net: "seed", "twin", "val_error", "test_error" (%), ...
    """

    path: Path
    results: list[dict[str, Any]]
    best: Path = field(repr=False)

    @property
    def model(self) -> Trained:
        """The trained model, loaded anew: `run.model.predict("a.png")`, and `run.model.model` is timm's."""
        return load(self.best)

    def report(self) -> Path:
        """Writes the run's page, report.html, and gives its path."""
        return report.write_report(self.path)


def train(
    *,
    model: str | None = None,
    data: Any = None,
    unlabeled: Any = None,
    backbone: str | None = None,
    recipe: str | Path | None = None,
    pools: str | None = None,
    decoder: str | None = None,
    img_size: int | tuple[int, int] | None = None,
    pretrained: bool = False,
    resume: bool = False,
    force: bool = False,
    **keys: Any,
) -> Run:
    """Trains a model on few labels and many images.

    Args:
        model: a registered name, with a tag or without; or "hf-hub:ORG/NAME".
        data: labelled images: a spec such as "folder:pets", or what `archived` takes: tensors, a torch Dataset, a
            `datasets.Dataset`, or a dict of these under "train", "val" and "test".
        unlabeled: further images, likewise; "none", or by default the labelled set's own.
        backbone: timm's name of a backbone to wrap instead.
        recipe: to start from, by name or path; else the model's own.
        pools, decoder: of a wrapped backbone.
        img_size: a side or (height, width); by default the model's own, or for a backbone that of the images.
        pretrained: start from the backbone's pretrained weights, or the model's own.
        resume: go on with the run in ``out``.
        force: replace the run in ``out``.
        keys: any key of `swwae_zoo.config.RunConfig`: steps=500, num_labels=100, out="runs/pets", ...

    Raises:
        ValueError: anything a user can set right, in one line.
    """
    size = (img_size, img_size) if isinstance(img_size, int) else img_size
    folder = keys.get("data_dir")
    keys["data"] = None if data is None else archived(data, "data", size, folder)
    keys["unlabeled"] = None if unlabeled is None else archived(unlabeled, "unlabeled", size, folder)
    config, notes = settings(
        {"model": model, **keys},
        recipe=recipe,
        backbone=backbone,
        pools=pools,
        decoder=decoder,
        img_size=img_size,
        pretrained=pretrained,
        resume=resume,
        force=force,
    )
    results = train_rounds(config, resume=resume, force=force, notes=notes, observe=report.Pages())
    out = out_of(config)
    return Run(out, results, best_run(out, results))
