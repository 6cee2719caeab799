"""Options and output shared by several commands."""

import sys
from collections.abc import Iterable, Sequence
from typing import Annotated

import typer

Json = Annotated[bool, typer.Option("--json", help="Print JSON on stdout, for programs.")]
ModelArg = Annotated[
    list[str] | None,
    typer.Option("--model-arg", metavar="KEY=VALUE", help="Passed to timm.create_model; may be repeated."),
]
PLACES = "a run of `swwae train`, a folder with config.json, hf-hub:ORG/NAME, or a tag"
Place = Annotated[str, typer.Argument(metavar="MODEL", help=f"Trained model: {PLACES}.", show_default=False)]
Model = Annotated[str, typer.Option("--model", metavar="MODEL", help=f"Trained model: {PLACES}.", show_default=False)]
Weights = Annotated[
    str | None,
    typer.Option("--weights", metavar="last|best", help="Which weights of a run (else last).", show_default=False),
]
DataDir = Annotated[
    str | None, typer.Option("--data-dir", help="Folder of data sets (else the run's, SWWAE_DATA, ~/.cache/swwae_zoo).")
]
Device = Annotated[str, typer.Option("--device", help="auto, cpu, cuda, cuda:N or mps.")]
Amp = Annotated[
    str | None,
    typer.Option(
        "--amp", metavar="auto|off|bf16|fp16", help="Mixed precision (else as in training).", show_default=False
    ),
]


def print_table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Prints columns, numbers right-aligned: on a terminal as wide as it is (long cells go on below themselves), for
    pipes each row on one line."""
    rows = list(rows)
    cells = [[f"{cell:,}" if isinstance(cell, int) else str(cell) for cell in row] for row in rows]
    right = [bool(rows) and all(isinstance(row[i], int) or row[i] == "" for row in rows) for i in range(len(header))]
    if sys.stdout.isatty():
        _print_for_terminal(header, cells, right)
        return
    widths = [max(map(len, column)) for column in zip(header, *cells, strict=False)]
    for line in [list(header), *cells]:
        padded = (
            cell.rjust(width) if is_right else cell.ljust(width)
            for cell, width, is_right in zip(line, widths, right, strict=False)
        )
        typer.echo("  ".join(padded).rstrip())


def _print_for_terminal(header: Sequence[str], cells: Sequence[Sequence[str]], right: Sequence[bool]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    for name, is_right in zip(header, right, strict=True):
        table.add_column(name, justify="right" if is_right else "left", overflow="fold", no_wrap=is_right)
    for row in cells:
        table.add_row(*map(Text, row))
    Console(highlight=False).print(table)
