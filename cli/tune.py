"""`swwae tune`: searches a recipe's numbers on validation images. Its further flags are those of `swwae train`."""

import importlib.util
import json
import shlex
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from swwae_zoo.utils.text import printable

from .options import Json, print_table
from .train import keys_and_start, with_recipe_flags

SHOWN = 10  # trials in the table
LEFT_OUT = {"rounds", "twin", "track", "out"}  # flags of `swwae train` that a search has no use for, or its own

Trials = Annotated[
    int | None, typer.Option("--trials", min=1, help="Trials of the study in all.  [default: 30, or as --hours allows]")
]
Hours = Annotated[float | None, typer.Option("--hours", min=0, help="Hours after which this process stops.")]
SearchKeys = Annotated[
    list[str] | None,
    typer.Option(
        "--search",
        metavar="KEY=LOW:HIGH[:log]",
        help="What is searched, these keys alone; KEY takes its range around the recipe's value; may be repeated.",
    ),
]
Storage = Annotated[
    str, typer.Option("--storage", metavar="URL", help="Database that machines share.  [default: study.db in --out]")
]
StudyName = Annotated[
    str, typer.Option("--study", metavar="NAME", help="Name in that database.  [default: MODEL-DATA-LABELS]")
]
Out = Annotated[Path, typer.Option("--out", help="Output folder; a study that it holds goes on.")]


def tune(
    trials: Trials = None,
    hours: Hours = None,
    search: SearchKeys = None,
    storage: Storage = "",
    study: StudyName = "",
    out: Out = Path("runs/tune"),
    as_json: Json = False,
    **given: Any,
) -> None:
    """Search lambdas, learning rate, weight decay, dropout and length on validation images.

    After an interruption the same command goes on. The best recipe is written to best.toml in --out.
    """
    if importlib.util.find_spec("optuna") is None:
        raise ValueError("tune: needs optuna: pip install 'swwae_zoo[tune]'")

    from swwae_zoo.experiments.tune import TuneSettings
    from swwae_zoo.experiments.tune import tune as run
    from swwae_zoo.training.settings import recipe_and_keys

    keys, start = keys_and_start(given)
    base, overrides = recipe_and_keys(keys, **start)
    settings = TuneSettings(out, trials, hours, storage, study, tuple(search or ()))
    result = run(base, overrides, settings)
    if as_json:
        recipe_written = None if result.recipe is None else str(result.recipe)
        typer.echo(json.dumps({"recipe": recipe_written, "trials": [asdict(record) for record in result.records]}))
        return
    header = ("trial", "val error %", *(key.rpartition(".")[2] for key in result.keys), "")
    shown = [record for record in result.records if record.state == "done"][:SHOWN]
    print_table(
        header,
        [
            (
                record.number,
                f"{record.val_error:.2f}",
                *(f"{record.values[key]:.3g}" for key in result.keys),
                "best" if place == 0 else "",
            )
            for place, record in enumerate(shown)
        ],
    )
    count = {state: sum(record.state == state for record in result.records) for state in ("stopped early", "failed")}
    typer.echo(
        f"{len(result.records)} trials, {count['stopped early']} of them stopped early, {count['failed']} failed; "
        f"picture: {printable(result.picture)}"
    )
    if result.recipe is not None:
        typer.echo(f"train it with: swwae train --recipe {printable(shlex.quote(str(result.recipe)))} --out RUN")


with_recipe_flags(tune, LEFT_OUT)
