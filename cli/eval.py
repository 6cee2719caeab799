"""`swwae eval MODEL`: measures a trained model's error."""

import json
from typing import Annotated

import typer

from swwae_zoo.utils.text import printable

from .options import Amp, DataDir, Device, Json, Place, Weights


def evaluate(
    model: Place,
    data: Annotated[str | None, typer.Option(help="Data set (else the one of the training).")] = None,
    data_dir: DataDir = None,
    split: Annotated[
        str, typer.Option(metavar="test|train|val", help="Which images; val: those that training held out.")
    ] = "test",
    weights: Weights = None,
    device: Device = "auto",
    amp: Amp = None,
    as_json: Json = False,
) -> None:
    """Measure a trained model: classification error and reconstruction loss, as training measured them."""
    from swwae_zoo.analysis.evaluate import evaluate as measure
    from swwae_zoo.analysis.load import load
    from swwae_zoo.hub.progress import quiet_unless_terminal

    with quiet_unless_terminal():
        trained = load(model, weights, device)
    measured = measure(trained, data, split, data_dir, amp)
    if as_json:
        typer.echo(json.dumps(measured))
        return
    name, images = printable(measured["model"]), f"{measured['images']:,} {split} images"
    typer.echo(f"{name} on {images} of {printable(measured['data'])}, amp {measured['amp']}")
    if measured["error"] is None:
        typer.echo("error           none: the classifier was not trained (lambda_nll = 0)")
    else:
        typer.echo(f"error           {measured['error']:.2f} %")
    if measured["reconstruction"] is not None:
        typer.echo(f"reconstruction  {measured['reconstruction']:.5f}, mean square")
