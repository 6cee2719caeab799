"""`swwae predict IMAGES... --model MODEL`: the classes that a trained model sees in images."""

import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from swwae_zoo.utils.text import printable

from .options import Amp, Device, Json, Model, Weights

LONG = 10_000  # characters of a name in a line: nothing is left out
NAMED = 3  # files that were left out, and are named


def predict(
    images: Annotated[list[str], typer.Argument(metavar="IMAGES|FOLDER...", help="Image files, and folders of them.")],
    model: Model,
    top: Annotated[int, typer.Option(min=1, help="How many classes, likeliest first.")] = 3,
    csv: Annotated[Path | None, typer.Option("--csv", metavar="FILE", help="Also write a table to this file.")] = None,
    as_json: Json = False,
    bad_images: Annotated[
        str, typer.Option(metavar="refuse|skip", help="What to do with files that can't be read.")
    ] = "refuse",
    batch_size: Annotated[int, typer.Option(min=1, help="Images that go through the net at once.")] = 64,
    weights: Weights = None,
    device: Device = "auto",
    amp: Amp = None,
) -> None:
    """Classify images with a trained model: a line for each, with its likeliest classes.

    Without a terminal the columns are separated by tabs: file, class, probability, class, probability, ...
    """
    from contextlib import ExitStack

    from swwae_zoo.analysis.load import load
    from swwae_zoo.analysis.predict import ImageFiles, predict_files, write_csv
    from swwae_zoo.hub.progress import quiet_unless_terminal

    files = ImageFiles(images)
    with quiet_unless_terminal():
        trained = load(model, weights, device)
    bad: list[str] = []  # the first of them; all are counted
    bad_count = 0

    def skip(line: str) -> None:
        nonlocal bad_count
        bad_count += 1
        if len(bad) < NAMED:
            bad.append(line)

    start, count = time.perf_counter(), 0
    top = min(top, max(1, trained.model.num_classes))
    with ExitStack() as stack:
        write = stack.enter_context(write_csv(csv, top, files.paths)) if csv is not None else None
        show, end = _lines_of_json() if as_json else _table(trained.label_names, top)
        rows = predict_files(
            trained, files, top=top, batch_size=batch_size, amp=amp, bad_images=bad_images, skipped=skip
        )
        for row in rows:
            show(row)
            count += 1
            if write is not None:
                write(row)
        if not count:
            raise ValueError(f"none of the {bad_count:,} images can be read, such as {bad[0]}")
        end()
    seconds = time.perf_counter() - start
    notes = files.notes()
    if bad:
        shown = "; ".join(bad) + "; ..." * (bad_count > len(bad))
        notes.append(f"left out, since they can't be read: {bad_count:,} of {count + bad_count:,} images: {shown}")
    if csv is not None:
        notes.append(f"written to {printable(csv)}")
    if count > 1:
        notes.append(f"{count:,} images, {count / seconds:,.0f} a second")
    for note in notes:
        typer.echo(note, err=True)


def _lines_of_json() -> tuple[Callable[[Any], None], Callable[[], None]]:
    """Shows rows as one JSON list, each on a line of its own; and its end."""
    count = 0

    def show(row: Any) -> None:
        nonlocal count
        each = {"file": str(row.file), "predictions": [prediction._asdict() for prediction in row.predictions]}
        typer.echo(("[\n" if count == 0 else ",\n") + json.dumps(each), nl=False)
        count += 1

    return show, lambda: typer.echo("\n]")


def _table(names: Sequence[str], top: int) -> tuple[Callable[[Any], None], Callable[[], None]]:
    """Shows rows in columns as wide as the terminal, or with tabs between them for other programs."""
    if not sys.stdout.isatty():
        return lambda row: typer.echo(
            "\t".join(
                [printable(row.file, LONG)]
                + [f"{printable(name, LONG)}\t{value:.4f}" for name, value in row.predictions]
            )
        ), lambda: None
    import shutil

    from rich.cells import cell_len, set_cell_size

    width = shutil.get_terminal_size().columns
    class_width = min(24, max(cell_len(printable(name)) for name in [*names, "class"]))
    top = max(1, min(top, (width - 20) // (class_width + 10)))  # the others have no room
    file_width = max(12, width - top * (class_width + 10) - 1)
    typer.echo(f"{'file':{file_width}}" + f"  {'class':{class_width}}        " * top)

    def show(row: Any) -> None:
        file = printable(row.file, LONG)
        if cell_len(file) > file_width:  # its end says more than its beginning
            while cell_len(file) >= file_width:
                file = file[1:]
            file = "…" + file
        cells = [
            f"  {set_cell_size(printable(name), class_width)} {100 * value:5.1f} %"
            for name, value in row.predictions[:top]
        ]
        typer.echo(set_cell_size(file, file_width) + "".join(cells))

    return show, lambda: None
