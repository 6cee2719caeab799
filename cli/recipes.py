"""`swwae recipes`: the training recipes that come with the package."""

import json
from importlib.resources import files
from typing import Annotated

import typer

from .options import Json, print_table


def recipes(
    name: Annotated[str | None, typer.Argument(help="Print this recipe instead of the list.")] = None,
    as_json: Json = False,
) -> None:
    """List the recipes, or print one with its results."""
    from swwae_zoo import config

    names = config.recipe_names()
    if name is not None:
        recipe = config.read_recipe(name)  # read in any case: its error suggests the nearest name
        if as_json:
            typer.echo(json.dumps(vars(recipe)))
        elif name in names:
            typer.echo((files("swwae_zoo.recipes") / f"{name}.toml").read_text(encoding="utf-8"), nl=False)
        else:
            typer.echo(config.to_toml(recipe), nl=False)
        return
    titles = {name: config.recipe_title(name) for name in names}
    if as_json:
        typer.echo(json.dumps([{"name": name, "title": title} for name, title in titles.items()]))
        return
    print_table(("recipe", "what it trains"), titles.items())
