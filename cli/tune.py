"""`swwae tune`: searches a recipe's numbers on validation images. Its further flags are those of `swwae train`."""

import importlib.util
import inspect
import json
import shlex
from collections.abc import Callable
from dataclasses import asdict, fields
from pathlib import Path
from typing import Annotated, Any

import typer

from swwae_zoo import config
from swwae_zoo.utils.text import printable

from .options import Json, print_table
from .train import Backbone, Decoder, ImgSize, Pools, Pretrained, Recipe, flag, keys_of

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
    recipe: Recipe = None,
    backbone: Backbone = None,
    pools: Pools = None,
    decoder: Decoder = None,
    img_size: ImgSize = None,
    pretrained: Pretrained = False,
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

    size = None if img_size is None else config.parse_size(img_size)
    base, overrides = recipe_and_keys(
        keys_of(given),
        recipe=recipe,
        backbone=backbone,
        pools=pools,
        decoder=decoder,
        img_size=size,
        pretrained=pretrained,
    )
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


def _keys() -> list[Any]:
    return [key for key in fields(config.RunConfig) if key.name not in LEFT_OUT]


def _with_flags_of_a_recipe(command: Callable[..., None]) -> None:
    """Gives the command the flags of `swwae train`: typer reads them from its signature."""
    own = [parameter for parameter in inspect.signature(command).parameters.values() if parameter.name != "given"]
    every = [*own, *(flag(key) for key in _keys())]
    command.__signature__ = inspect.Signature(every)  # type: ignore[attr-defined]
    command.__annotations__ = {parameter.name: parameter.annotation for parameter in every} | {"return": None}


_with_flags_of_a_recipe(tune)
