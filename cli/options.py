"""Options and output that several commands share."""

from collections.abc import Iterable, Sequence
from typing import Annotated

import typer

Json = Annotated[bool, typer.Option("--json", help="Print JSON on stdout, for programs.")]
ModelArg = Annotated[
    list[str] | None,
    typer.Option("--model-arg", metavar="KEY=VALUE", help="Passed to timm.create_model; repeat it for more."),
]
Run = Annotated[str, typer.Argument(help="Run directory of `swwae train`, or its best/ or last/.", show_default=False)]
Weights = Annotated[str, typer.Option("--weights", metavar="best|last", help="Which weights of the run.")]
DataDir = Annotated[
    str | None, typer.Option("--data-dir", help="Where data sets lie (else the run's, SWWAE_DATA, ~/.cache/swwae_zoo).")
]
Device = Annotated[str, typer.Option("--device", help="auto, cpu, cuda, cuda:N or mps.")]
Amp = Annotated[str, typer.Option("--amp", metavar="auto|off|bf16|fp16", help="Mixed precision.")]


def print_table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Columns padded to their widest cell, numbers to the right; never wrapped, so that pipes see whole rows."""
    rows = list(rows)
    cells = [[f"{cell:,}" if isinstance(cell, int) else str(cell) for cell in row] for row in rows]
    right = [bool(rows) and all(isinstance(row[i], int) or row[i] == "" for row in rows) for i in range(len(header))]
    widths = [max(map(len, column)) for column in zip(header, *cells, strict=False)]
    for line in [list(header), *cells]:
        padded = (
            cell.rjust(width) if is_right else cell.ljust(width)
            for cell, width, is_right in zip(line, widths, right, strict=False)
        )
        typer.echo("  ".join(padded).rstrip())
