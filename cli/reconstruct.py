"""`swwae reconstruct IMAGES... --model MODEL`: draws images and their reconstructions by a trained model."""

import json
from pathlib import Path
from typing import Annotated

import typer

from swwae_zoo.utils.text import printable

from .options import PLACES, Device, Json, Weights


def reconstruct(
    images: Annotated[list[str], typer.Argument(metavar="IMAGES...", help="Image files.", show_default=False)],
    model: Annotated[
        str, typer.Option("--model", "--run", metavar="MODEL", help=f"Trained model: {PLACES}.", show_default=False)
    ],
    out: Annotated[Path, typer.Option("--out", help="PNG to write.")] = Path("reconstructions.png"),
    weights: Weights = None,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Draw images, their reconstructions from what and where, and those from the what alone."""
    from swwae_zoo.analysis.load import load
    from swwae_zoo.hub.progress import quiet_unless_terminal
    from swwae_zoo.loss import reconstruction_loss
    from swwae_zoo.training import figures as pictures
    from swwae_zoo.utils.files import atomic_write, output_path, user_path

    out = output_path(out, (".png",), map(user_path, images))
    with quiet_unless_terminal():
        trained = load(model, weights, device)
    trained.check_decoder()
    x = trained.input(trained.transform(images))
    with atomic_write(out) as part:
        pictures.draw_reconstructions(part, trained.model, x)
    losses = {
        "what_where": float(reconstruction_loss(pictures.reconstruct(trained.model, x), x)),
        "what_alone": float(reconstruction_loss(pictures.reconstruct_without_where(trained.model, x), x)),
    }
    if as_json:
        typer.echo(json.dumps({"picture": str(out), "images": images, "model": trained.name, **losses}))
        return
    typer.echo(
        f"{printable(out)}: {len(images)} image{'s' * (len(images) != 1)}; "
        f"mean square error {losses['what_where']:.5f} from what and where, "
        f"{losses['what_alone']:.5f} from the what alone"
    )
