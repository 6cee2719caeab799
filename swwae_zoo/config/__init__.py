"""The typed configuration of a run: schema, fields and recipes. No torch, so that `swwae --help` answers at once."""

from swwae_zoo.config.fields import ModelArg, expected, flags
from swwae_zoo.config.recipes import default_recipe, read_recipe, recipe_names, recipe_title, to_toml
from swwae_zoo.config.schema import GROUPS, RunConfig, merge, parse_model_arg, validate

__all__ = [
    "GROUPS",
    "ModelArg",
    "RunConfig",
    "default_recipe",
    "expected",
    "flags",
    "merge",
    "parse_model_arg",
    "read_recipe",
    "recipe_names",
    "recipe_title",
    "to_toml",
    "validate",
]
