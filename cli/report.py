"""`swwae report RUN`: a run as one HTML page."""

from typing import Annotated

import typer

from swwae_zoo.utils.text import printable


def report(
    run: Annotated[
        str, typer.Argument(metavar="RUN", help="Folder of a run, or of one of its rounds.", show_default=False)
    ],
) -> None:
    """Write RUN/report.html: errors, curves, pictures and how to run it again, on one page that opens offline.

    `swwae train` writes it too, and refreshes it at each evaluation.
    """
    from swwae_zoo.publish.report import write_report

    typer.echo(printable(write_report(run)))
