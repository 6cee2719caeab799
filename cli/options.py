"""Options and output that several commands share."""
from collections.abc import Iterable, Sequence
from typing import Annotated

import typer

Json = Annotated[bool, typer.Option("--json", help="Print JSON on stdout, for programs.")]
ModelArg = Annotated[
    list[str] | None,
    typer.Option("--model-arg", metavar="KEY=VALUE", help="Passed to timm.create_model; repeat it for more."),
]


def print_table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Columns padded to their widest cell, numbers to the right; never wrapped, so that pipes see whole rows."""
    rows = list(rows)
    cells = [[f"{cell:,}" if isinstance(cell, int) else str(cell) for cell in row] for row in rows]
    right = [bool(rows) and all(isinstance(row[i], int) or row[i] == "" for row in rows) for i in range(len(header))]
    widths = [max(map(len, column)) for column in zip(header, *cells)]
    for line in [list(header), *cells]:
        padded = (cell.rjust(width) if is_right else cell.ljust(width) for cell, width, is_right in zip(line, widths, right))
        typer.echo("  ".join(padded).rstrip())
