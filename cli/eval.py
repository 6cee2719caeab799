"""`swwae eval RUN`: measures a trained model's error."""

import json
from typing import Annotated

import typer

from swwae_zoo.utils.text import printable

from .options import Amp, DataDir, Device, Json, Run, Weights


def evaluate(
    run: Run,
    data: Annotated[str | None, typer.Option(help="Data set (else the one of the training).")] = None,
    data_dir: DataDir = None,
    split: Annotated[str, typer.Option(metavar="test|train", help="Which images.")] = "test",
    weights: Weights = "best",
    device: Device = "auto",
    amp: Amp = "off",
    as_json: Json = False,
) -> None:
    """Measure a trained model: classification error and reconstruction loss."""
    from swwae_zoo.analysis.load import evaluate_saved, load_saved
    from swwae_zoo.training.build import resolve_device

    measured = evaluate_saved(load_saved(run, weights, resolve_device(device)), data, split, data_dir, amp)
    if as_json:
        typer.echo(json.dumps(measured))
        return
    run, name = printable(measured["run"]), printable(measured["data"])
    typer.echo(f"{run} on {measured['images']:,} {split} images of {name}")
    typer.echo(f"error           {measured['error']:.2f} %")
    if measured["reconstruction"] is not None:
        typer.echo(f"reconstruction  {measured['reconstruction']:.5f}, mean square")
