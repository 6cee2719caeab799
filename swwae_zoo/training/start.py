"""What a run will do, in a block before its first step; and what there is to see after its last."""

from __future__ import annotations

import shlex
from pathlib import Path

import torch
from rich.table import Table

from swwae_zoo.config import RunConfig
from swwae_zoo.data import Images, Splits
from swwae_zoo.models import SWWAE
from swwae_zoo.training.build import initial_weights
from swwae_zoo.training.trainer import lambdas_of
from swwae_zoo.utils.text import markup, printable

__all__ = ["next_steps", "start_block"]

SHOWN = 10  # names of classes
PICTURES = ("reconstructions.png", "curves.png", "views.png")


def start_block(
    config: RunConfig,
    splits: Splits,
    model: SWWAE,
    device: torch.device,
    precision: str,
    steps: int,
    nets: int,
    stored: str,
) -> Table:
    """A table of two columns for a terminal of any width; what comes from outside is escaped.

    Args:
        steps: of one net.
        nets: rounds, and their twins.
        stored: size of the images as they are stored, in words.
    """
    labeled, names = splits.labeled, splits.labeled.class_names
    classes = ", ".join(markup(name, 40) for name in names[:SHOWN]) + ", ..." * (len(names) > SHOWN)
    height, width = model.img_size
    channels = {1: "grey", 3: "colour"}.get(model.in_chans, f"{model.in_chans} channels")
    encoder = sum(p.numel() for name, p in model.named_parameters() if not name.startswith("decoder."))
    decoder = sum(p.numel() for name, p in model.named_parameters() if name.startswith("decoder."))
    counts = [
        f"{labeled.count:,} labelled",
        f"{_count(splits.unlabeled)} unlabelled",
        f"{_count(splits.val)} validation",
        f"{_count(splits.test)} test",
    ]
    threads = f", {torch.get_num_threads()} threads" if device.type == "cpu" else ""
    each = f"{nets} nets, {steps:,} steps each" if nets > 1 else f"1 net, {steps:,} steps"
    rows = {
        "data": markup(config.data, 200),
        "classes": f"{len(names)}: {classes}",
        "images": ", ".join(counts),
        "size": f"{stored} as stored -> {height}x{width} {channels} as trained",
        "model": markup(model.text, 200),
        "parameters": f"{encoder:,} encoder and classifier, {decoder:,} decoder"
        + ("" if lambdas_of(config).runs_decoder or not decoder else " (nothing trains it: lambda_rec is 0)"),
        "weights": starting_weights(config),
        "device": f"{device}{threads}, precision {precision}",
        "training": f"{each}, {labeled_batch(config, labeled)} + {config.batch_size if splits.unlabeled else 0} images "
        f"a step, {config.opt}, lr {config.lr:g}",
        "out": markup(config.out, 200),
    }
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column(no_wrap=True, style="bold")
    table.add_column(overflow="fold")
    for name, value in rows.items():
        table.add_row(name, value)
    return table


def starting_weights(config: RunConfig) -> str:
    """Where the weights come from that a run starts with, in words and escaped."""
    source = initial_weights(config) or config.model_args.get("backbone_checkpoint")
    if source:
        return f"from {markup(source, 200)}"
    return "the backbone's pretrained ones" if config.model_args.get("backbone_pretrained") else "random"


def labeled_batch(config: RunConfig, labeled: Images) -> int:
    return min(config.labeled_batch, labeled.count)


def _count(images: Images | None) -> str:
    return "no" if images is None else f"{images.count:,}"


def next_steps(out: Path, run: Path, classifies: bool) -> list[str]:
    """Where model, pictures and page of a finished run lie, and the next command, a line each.

    Args:
        out: the run directory that the user named.
        run: of the net to go on with: ``out`` itself, or a round in it.
        classifies: whether it has learnt classes.
    """
    pictures = [name for name in PICTURES if (run / name).is_file()]
    lines = [f"model     {printable(run / 'last')}"]
    if pictures:
        lines.append(f"pictures  {printable(run)}/ ({', '.join(pictures)})")
    page = next((path for path in (out / "report.html", run / "report.html") if path.is_file()), None)
    if page is not None:
        lines.append(f"page      {printable(page)}")
    where = printable(shlex.quote(str(run)))
    lines.append(
        f"next      swwae predict IMAGES --model {where}"
        if classifies
        else f"next      swwae reconstruct IMAGES --model {where}, or swwae train --init {where}"
    )
    return lines
