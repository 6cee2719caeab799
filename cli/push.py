"""`swwae push RUN --repo ORG/NAME`: uploads a trained model to the Hugging Face Hub."""

import json
from typing import Annotated

import typer

from swwae_zoo.utils.text import printable

from .options import Json

LONG = 100_000  # characters of a line of the card: nothing is left out


def push(
    run: Annotated[
        str,
        typer.Argument(
            metavar="RUN|FOLDER",
            help="Run of `swwae train`, one of its rounds, or best/ or last/ in one; or a folder with config.json and "
            "model.safetensors.",
            show_default=False,
        ),
    ],
    repo: Annotated[str, typer.Option("--repo", metavar="ORG/NAME", help="Repository; created if it does not exist.")],
    private: Annotated[bool, typer.Option("--private", help="Make the repository private.")] = False,
    revision: Annotated[
        str, typer.Option("--revision", metavar="BRANCH", help="Branch; created if it does not exist.")
    ] = "main",
    tag: Annotated[str | None, typer.Option("--tag", help="Tag for the commit, such as v1.")] = None,
    message: Annotated[str | None, typer.Option("--message", help="Commit message.")] = None,
    create_pr: Annotated[bool, typer.Option("--create-pr", help="Open a pull request instead of committing.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Build and check everything and show the card, upload nothing.")
    ] = False,
    weights: Annotated[
        str | None,
        typer.Option(
            "--weights",
            metavar="last|best",
            help="Which weights of a run (else last, whose test error was measured).",
            show_default=False,
        ),
    ] = None,
    license: Annotated[
        str | None,
        typer.Option(
            "--license",
            metavar="NAME",
            help="Licence of the weights, as the Hub names it: mit, apache-2.0, ... (else the card has none).",
            show_default=False,
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Upload a trained model to the Hugging Face Hub, with a model card generated from its run.

    The token is the one that `hf auth login` stored, or HF_TOKEN.
    """
    from swwae_zoo.hub.progress import quiet_unless_terminal
    from swwae_zoo.publish.push import push as push_run

    with quiet_unless_terminal():
        pushed = push_run(
            run,
            repo,
            private=private,
            revision=revision,
            tag=tag,
            message=message,
            create_pr=create_pr,
            dry_run=dry_run,
            weights=weights,
            license=license,
        )
    if as_json:
        typer.echo(
            json.dumps({**pushed._asdict(), "files": {name: sums._asdict() for name, sums in pushed.files.items()}})
        )
        return
    for name, sums in pushed.files.items():
        typer.echo(f"{sums.size:>12,}  {sums.sha256[:16]}  {name}")
    if pushed.status == "dry run":
        typer.echo("\n" + "\n".join(printable(line, LONG) for line in pushed.card.splitlines()) + "\n")
    visible = {True: ", private", False: ", public", None: ""}[pushed.private]
    typer.echo(
        f"{pushed.status}: {pushed.repo}@{pushed.revision}{visible}"
        + (f", {printable(pushed.url)}" if pushed.url else "")
        + (f", tag {pushed.tag}" if pushed.tag and pushed.commit else "")
    )
