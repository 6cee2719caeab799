"""`swwae reproduce TARGET`: reproduces a figure or table of the paper."""

from pathlib import Path
from typing import Annotated

import typer

from swwae_zoo.experiments.paper import TARGETS, default_folder
from swwae_zoo.utils.text import printable

from .options import DataDir, Device, Json

LONG = 1_000_000  # characters of a line: nothing is left out


def reproduce(
    target: Annotated[
        str, typer.Argument(metavar="|".join(TARGETS), help="Which figure or table.", show_default=False)
    ],
    rows: Annotated[
        str,
        typer.Option(
            metavar="ROW,...",
            help="Rows to run, with * and ? as in file names; none only rewrites the table.  [default: all]",
        ),
    ] = "",
    rounds: Annotated[
        int | None,
        typer.Option(min=1, help="Rounds of each row, each with its own draw of labels (else the recipe's)."),
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="A few small steps, to check that it works; no results.")
    ] = False,
    search: Annotated[
        bool, typer.Option("--search", help="Choose each row's lambda on validation images first.")
    ] = False,
    device: Device = "auto",
    data_dir: DataDir = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Output folder; runs that it already holds are not repeated.  [default: runs/reproduce/TARGET]"
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Reproduce a figure or table of the paper; after an interruption the same command resumes it."""
    from swwae_zoo.experiments.reproduce import reproduce as run
    from swwae_zoo.experiments.runs import ExperimentSettings
    from swwae_zoo.utils.files import user_path

    folder = user_path(out) if out is not None else default_folder(target, quick)
    run(target, ExperimentSettings(folder, rounds, quick, device, search, data_dir or ""), rows)
    if as_json and (folder / f"{target}.json").is_file():
        for line in (folder / f"{target}.json").read_text(encoding="utf-8").splitlines():
            typer.echo(printable(line, LONG))
