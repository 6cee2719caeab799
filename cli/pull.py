"""`swwae pull ORG/NAME[@REVISION]`: downloads a model from the Hugging Face Hub."""

import json
from pathlib import Path
from typing import Annotated

import typer

from swwae_zoo.utils.text import printable

from .options import Json


def pull(
    name: Annotated[
        str,
        typer.Argument(
            metavar="ORG/NAME[@REVISION]",
            help="Repository, and optionally a branch, tag or commit.",
            show_default=False,
        ),
    ],
    out: Annotated[
        Path | None, typer.Option("--out", help="Folder to copy it to (else it stays in the Hub's cache).")
    ] = None,
    as_json: Json = False,
) -> None:
    """Download a model from the Hugging Face Hub: one commit, every byte verified."""
    import swwae_zoo.models.swwae  # noqa: F401  registers the models
    from swwae_zoo.hub.fetch import pull as pull_model
    from swwae_zoo.hub.progress import quiet_unless_terminal

    with quiet_unless_terminal():
        pulled = pull_model(name, out)
    if as_json:
        typer.echo(json.dumps({**pulled._asdict(), "folder": str(pulled.folder)}))
        return
    how = "unchanged" if pulled.unchanged else "from the cache, the Hub can't be reached" if pulled.cached else "pulled"
    typer.echo(f"{how}: {pulled.architecture}, {pulled.repo} at {pulled.commit}")
    typer.echo(f'timm.create_model("local-dir:{printable(pulled.folder)}", pretrained=True)')
