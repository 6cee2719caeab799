"""`swwae report RUN`: a run as one HTML page; of several runs, error against number of labels."""

from pathlib import Path
from typing import Annotated

import typer

from swwae_zoo.utils.text import printable


def report(
    runs: Annotated[
        list[str],
        typer.Argument(metavar="RUN...", help="Folder of a run, or of one of its rounds.", show_default=False),
    ],
    labels: Annotated[
        Path | None,
        typer.Option(
            metavar="PNG", help="Draw the error of these runs against their number of labels instead, into this file."
        ),
    ] = None,
) -> None:
    """Write RUN/report.html: errors, curves, pictures and how to run it again, on one page that opens offline.

    `swwae train` writes it too, and refreshes it at each evaluation.
    """
    if labels is not None:
        from swwae_zoo.publish.label_curve import draw_label_curve

        typer.echo(printable(draw_label_curve(runs, labels)))
        return
    from swwae_zoo.publish.report import write_report

    for run in runs:
        typer.echo(printable(write_report(run)))
