"""`swwae train`: trains a model. Its flags are the fields of `swwae_zoo.config.RunConfig`."""

import inspect
import json
from collections.abc import Mapping
from dataclasses import Field, fields
from pathlib import Path
from typing import Annotated, Any

import typer

from swwae_zoo import config

from .options import Json

# Flags that are not fields of a recipe.
Recipe = Annotated[
    str | None, typer.Option("--recipe", metavar="NAME|PATH", help="Recipe to start from (else the model's own).")
]
Resume = Annotated[bool, typer.Option("--resume", help="Resume the run in --out.")]
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
Force = Annotated[bool, typer.Option("--force", help="Overwrite a run that --out already holds.")]


def train(
    recipe: Recipe = None,
    backbone: Backbone = None,
    pools: Pools = None,
    decoder: Decoder = None,
    img_size: ImgSize = None,
    pretrained: Pretrained = False,
    resume: Resume = False,
    force: Force = False,
    as_json: Json = False,
    **given: Any,
) -> None:
    """Train a model on few labels and many images.

    Flags override the recipe; without --recipe it is the model's own: `swwae train --model swwae_mnist` runs in full.
    """
    wrapped = {"backbone": backbone, "pools": pools, "decoder": decoder}
    recipe_of_run, overrides = as_given(recipe, given, wrapped, img_size, pretrained, resume)
    run = config.merge(recipe_of_run, overrides, adapt=not resume)
    notes = what_gave_way(recipe_of_run, overrides) if recipe_of_run is not None and not resume else ()

    from swwae_zoo.models._registry import check_model_name
    from swwae_zoo.publish.report import Pages
    from swwae_zoo.training.rounds import summary, train_rounds

    check_model_name(run.model)
    results = train_rounds(run, resume=resume, force=force, notes=notes, observe=Pages())
    if as_json and results:  # only rank 0 has results
        typer.echo(json.dumps(results))
    elif results:
        for line in summary(results):
            typer.echo(line)


def as_given(
    recipe: str | None,
    given: Mapping[str, Any],
    wrapped: Mapping[str, str | None],
    img_size: str | None,
    pretrained: bool,
    resume: bool = False,
) -> tuple[config.RunConfig | None, dict[str, Any]]:
    """The recipe that a command starts from, and the keys that its flags set (None where a flag was not given).

    Args:
        given: of each field's flag; wrapped: of --backbone, --pools and --decoder.
    """
    overrides = {key.name: value_of(key, given.get(key.name)) for key in fields(config.RunConfig)}
    check_backbone(overrides["model"])
    overrides = wrapping(overrides, **wrapped)
    if img_size is not None:
        overrides["model_args"] = {**(overrides["model_args"] or {}), "img_size": config.parse_size(img_size)}
    base = base_recipe(recipe, resume, overrides["model"] or config.RunConfig.model, overrides["out"])
    if pretrained:
        overrides = with_pretrained(overrides, base)
    return config.read_recipe(base) if base else None, overrides


def check_backbone(model: str | None) -> None:
    """Refuses a plain backbone's name as a model, with the flag that takes it."""
    if model is None or ":" in model or model.startswith("swwae"):
        return
    import timm

    if timm.is_model(model.partition(".")[0]):
        raise ValueError(f"model: got {model!r}, a plain backbone: --backbone {model} wraps it with a decoder")


def with_pretrained(overrides: dict[str, Any], base: str | Path | None) -> dict[str, Any]:
    """--pretrained, spelled out: the backbone's own weights, or the tag under which the model's lie."""
    from swwae_zoo.models._pretrained import packaged_tags

    if overrides["init"]:
        raise ValueError("got --pretrained and --checkpoint (or --init): both say which weights to start from; choose")
    model = overrides["model"] or (config.read_recipe(base).model if base else config.RunConfig.model)
    if model.partition(".")[0] == "swwae_wrap":
        return {**overrides, "model_args": {**(overrides["model_args"] or {}), "backbone_pretrained": True}}
    if "." in model or ":" in model:  # names its weights already
        return overrides
    tags = list(packaged_tags(model))
    if not tags:
        raise ValueError(f"--pretrained: {model} comes without weights; leave it out, or give --checkpoint FILE")
    return {**overrides, "model": f"{model}.{tags[0]}"}


def what_gave_way(recipe: config.RunConfig, overrides: dict[str, Any]) -> tuple[str, ...]:
    """A line that names the keys that were the recipe's for its own data or length, with the values they take."""
    changed = config.fallbacks(recipe, overrides)
    values = ", ".join(config.toml_line(name, value) for name, value in changed.items())
    return (f"data or length are not the recipe's, so: {values}",) if changed else ()


def wrapping(overrides: dict[str, Any], **options: str | None) -> dict[str, Any]:
    """--backbone and its options, spelled out: model = swwae_wrap with these arguments."""
    options = {name: value for name, value in options.items() if value is not None}
    if "backbone" in options:
        if overrides["model"] not in (None, "swwae_wrap"):
            raise ValueError(
                f"got --model {overrides['model']} and --backbone {options['backbone']}: expected one of them"
            )
        overrides = {**overrides, "model": "swwae_wrap"}
    return {**overrides, "model_args": {**(overrides["model_args"] or {}), **options} or None}


def base_recipe(recipe: str | None, resume: bool, model: str, out: str | None) -> str | Path | None:
    """What the flags override: the given recipe, the resumed run's own, or the model's default; None if it has none."""
    if recipe is None and resume and out is not None:
        from swwae_zoo.utils.files import user_path

        saved = user_path(out) / "config.toml"
        if not saved.is_file():
            raise ValueError(f"{out}: holds no run to resume; leave --resume out to start one")
        return saved
    if recipe is None and config.default_recipe(model) is None:
        from swwae_zoo.models._registry import check_model_name

        check_model_name(model)  # a misspelled name is likelier than a recipe without a number of steps
    return recipe or config.default_recipe(model)


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


# typer reads a command's flags from its signature.
_own = [parameter for parameter in inspect.signature(train).parameters.values() if parameter.name != "given"]
_flags = [flag(key) for key in fields(config.RunConfig)]
train.__signature__ = inspect.Signature([*_own, *_flags])  # type: ignore[attr-defined]
train.__annotations__ = {parameter.name: parameter.annotation for parameter in [*_own, *_flags]} | {"return": None}
