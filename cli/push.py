"""`swwae push RUN --repo ORG/NAME`: a trained model to the Hugging Face Hub."""

import json
from typing import Annotated

import typer

from .options import Json


def push(
    run: Annotated[
        str,
        typer.Argument(
            help="Run directory of `swwae train`, one of its rounds, or the best/ or last/ of one.", show_default=False
        ),
    ],
    repo: Annotated[str, typer.Option("--repo", metavar="ORG/NAME", help="Repository; made if it is not there.")],
    private: Annotated[bool, typer.Option("--private", help="See that nobody else can see it.")] = False,
    revision: Annotated[
        str, typer.Option("--revision", metavar="BRANCH", help="Branch; made if it is not there.")
    ] = "main",
    tag: Annotated[str | None, typer.Option("--tag", help="Tag for the commit, such as v1.")] = None,
    message: Annotated[str | None, typer.Option("--message", help="Message of the commit.")] = None,
    create_pr: Annotated[bool, typer.Option("--create-pr", help="Open a pull request instead.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Make and check everything, send nothing.")] = False,
    weights: Annotated[
        str | None,
        typer.Option(
            "--weights",
            metavar="best|last",
            help="Which weights [default: last, of which the test error is].",
            show_default=False,
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Push a trained model to the Hugging Face Hub, with a card made from its run.

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
        )
    if as_json:
        typer.echo(
            json.dumps({**pushed._asdict(), "files": {name: sums._asdict() for name, sums in pushed.files.items()}})
        )
        return
    for name, sums in pushed.files.items():
        typer.echo(f"{sums.size:>12,}  {sums.sha256[:16]}  {name}")
    visible = {True: ", private", False: ", public", None: ""}[pushed.private]
    typer.echo(
        f"{pushed.status}: {pushed.repo}@{pushed.revision}{visible}"
        + (f", {pushed.url}" if pushed.url else "")
        + (f", tag {pushed.tag}" if pushed.tag and pushed.commit else "")
    )
