"""`swwae reconstruct IMAGES... --run RUN`: draws images and their reconstructions by a trained model."""

import json
from pathlib import Path
from typing import Annotated

import typer

from swwae_zoo.utils.text import printable

from .options import Device, Json, Weights


def reconstruct(
    images: Annotated[list[str], typer.Argument(metavar="IMAGES...", help="Image files.", show_default=False)],
    run: Annotated[str, typer.Option("--run", help="Run directory of `swwae train`, or its best/ or last/.")],
    out: Annotated[Path, typer.Option("--out", help="PNG to write.")] = Path("reconstructions.png"),
    weights: Weights = "best",
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Draw images, their reconstructions from what and where, and those from the what alone."""
    from swwae_zoo.analysis.load import load_saved, read_pictures
    from swwae_zoo.loss import reconstruction_loss
    from swwae_zoo.training import figures as pictures
    from swwae_zoo.training.build import resolve_device
    from swwae_zoo.utils.files import atomic_write

    saved = load_saved(run, weights, resolve_device(device))
    x = read_pictures(saved, images)
    with atomic_write(out) as part:
        pictures.draw_reconstructions(part, saved.model, x)
    losses = {
        "what_where": float(reconstruction_loss(pictures.reconstruct(saved.model, x), x)),
        "what_alone": float(reconstruction_loss(pictures.reconstruct_without_where(saved.model, x), x)),
    }
    if as_json:
        typer.echo(json.dumps({"picture": str(out), "images": images, "run": str(saved.folder), **losses}))
        return
    typer.echo(
        f"{printable(out)}: {len(images)} image{'s' * (len(images) != 1)}; "
        f"mean square error {losses['what_where']:.5f} from what and where, "
        f"{losses['what_alone']:.5f} from the what alone"
    )
