"""`swwae reproduce TARGET`: one figure or table of the paper."""

from pathlib import Path
from typing import Annotated

import typer

from swwae_zoo.experiments.targets import TARGETS, folder_of

from .options import Device


def reproduce(
    target: Annotated[
        str, typer.Argument(metavar="|".join(TARGETS), help="Which figure or table.", show_default=False)
    ],
    rows: Annotated[
        str,
        typer.Option(
            metavar="ROW,...",
            help="Rows to run, * and ? as in file names; none only writes the table anew.  [default: all]",
        ),
    ] = "",
    rounds: Annotated[
        int | None, typer.Option(min=1, help="Rounds of each row, each with labels drawn anew (else the recipe's).")
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="A few small steps, to see that it works; no results.")
    ] = False,
    search: Annotated[
        bool, typer.Option("--search", help="Choose each row's lambda on validation images first.")
    ] = False,
    storage: Annotated[
        str,
        typer.Option(
            metavar="URL", help="Database of the searches, which several machines may share (else a file in --out)."
        ),
    ] = "",
    device: Device = "auto",
    out: Annotated[
        Path | None,
        typer.Option(help="Folder; what it holds already is not run again.  [default: runs/reproduce/TARGET]"),
    ] = None,
) -> None:
    """Reproduce a figure or table of the paper; an interrupted one goes on where it stopped."""
    from swwae_zoo.experiments.reproduce import reproduce as run
    from swwae_zoo.experiments.runs import Setting

    run(target, Setting(out or folder_of(target, quick), rounds, quick, device, storage, search), rows)
