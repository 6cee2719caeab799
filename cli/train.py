"""`swwae train`: trains a model. Its flags are the fields of `swwae_zoo.config.RunConfig`."""

import inspect
import json
from collections.abc import Callable, Container, Mapping
from dataclasses import Field, fields
from typing import Annotated, Any

import typer

from swwae_zoo import config

from .options import Json

Recipe = Annotated[
    str | None, typer.Option("--recipe", metavar="NAME|PATH", help="Recipe to start from (else the model's own).")
]
Backbone = Annotated[
    str | None,
    typer.Option(
        "--backbone", metavar="NAME", help="timm backbone to wrap: short for --model swwae_wrap with this backbone."
    ),
]
Pools = Annotated[
    str | None, typer.Option("--pools", metavar="tap|insert", help="Where a wrapped backbone's switches come from.")
]
Decoder = Annotated[
    str | None, typer.Option("--decoder", metavar="mirror|light", help="Decoder of a wrapped backbone.")
]
ImgSize = Annotated[
    str | None,
    typer.Option("--img-size", metavar="H[xW]", help="Size that images are trained at (else by model and images)."),
]
Pretrained = Annotated[
    bool, typer.Option("--pretrained", help="Start from the backbone's pretrained weights, or the model's own.")
]
# Flags that say what a run starts from and are no keys of a recipe, with their defaults.
START = {
    "recipe": (Recipe, None),
    "backbone": (Backbone, None),
    "pools": (Pools, None),
    "decoder": (Decoder, None),
    "img_size": (ImgSize, None),
    "pretrained": (Pretrained, False),
}
Resume = Annotated[bool, typer.Option("--resume", help="Resume the run in --out.")]
Force = Annotated[bool, typer.Option("--force", help="Overwrite a run that --out already holds.")]


def train(resume: Resume = False, force: Force = False, as_json: Json = False, **given: Any) -> None:
    """Train a model on few labels and many images.

    Flags override the recipe; without --recipe it is the model's own: `swwae train --model swwae_mnist` runs in full.
    """
    keys, start = keys_and_start(given)

    from swwae_zoo.publish.report import Pages
    from swwae_zoo.training.rounds import summary, train_rounds
    from swwae_zoo.training.settings import settings

    run, notes = settings(keys, resume=resume, force=force, **start)
    results = train_rounds(run, resume=resume, force=force, notes=notes, observe=Pages())
    if as_json and results:  # only rank 0 has results
        typer.echo(json.dumps(results))
    elif results:
        for line in summary(results):
            typer.echo(line)


def keys_and_start(given: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """What the flags of `with_recipe_flags` say: the recipe's keys (None where a flag was not given), and START."""
    keys = {key.name: value_of(key, given.get(key.name)) for key in fields(config.RunConfig)}
    size = None if given["img_size"] is None else config.parse_size(given["img_size"])
    return keys, {name: given[name] for name in START} | {"img_size": size}


def value_of(key: Field, given: Any) -> Any:
    """A flag's text in its field's type; None where the flag was not given."""
    if given is None or given == []:
        return None
    if is_table(key):
        return dict(config.parse_model_arg(text, key.name) for text in given)
    if not is_list(key):
        return given
    try:
        numbers = [float(number) for number in given.split(",") if number.strip()]
    except ValueError:
        raise ValueError(f"{config.flags(key)[0]}: got {given!r}, expected numbers, separated by commas") from None
    return numbers[0] if key.type != list[float] and len(numbers) == 1 else numbers


def is_list(key: Field) -> bool:
    return key.type in (list[float], float | list[float])


def is_table(key: Field) -> bool:
    return key.type == dict[str, config.ModelArg]


def flag(key: Field) -> inspect.Parameter:
    """The typer option of one field; its default None means "not given"."""
    names = list(config.flags(key))
    kind, metavar = key.type, None
    if key.type is bool:
        names[0] += f"/--no-{names[0].removeprefix('--')}"
    elif is_table(key):
        kind, metavar = list[str], "KEY=VALUE"
    elif is_list(key):
        kind, metavar = str, "NUMBER,..."
    elif "choices" in key.metadata:
        metavar = "|".join(key.metadata["choices"])
    option = typer.Option(
        *names, metavar=metavar, help=key.metadata["help"], rich_help_panel=key.metadata["group"], show_default=False
    )
    return inspect.Parameter(
        key.name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[kind | None, option]
    )


def with_recipe_flags(command: Callable[..., None], left_out: Container[str] = ()) -> None:
    """Gives a command the flags of START and of a recipe's keys: typer reads them from its signature."""
    keyword = inspect.Parameter.KEYWORD_ONLY
    start = [inspect.Parameter(name, keyword, default=given[1], annotation=given[0]) for name, given in START.items()]
    own = [
        each.replace(kind=keyword) for each in inspect.signature(command).parameters.values() if each.name != "given"
    ]
    every = [*start, *own, *(flag(key) for key in fields(config.RunConfig) if key.name not in left_out)]
    command.__signature__ = inspect.Signature(every)  # type: ignore[attr-defined]
    command.__annotations__ = {each.name: each.annotation for each in every} | {"return": None}


with_recipe_flags(train)
