"""The typed configuration of a run: schema, fields and recipes. No torch, so that `swwae --help` answers at once."""

from swwae_zoo.config.fields import ModelArg, expected, flags, toml_line
from swwae_zoo.config.recipes import default_recipe, read_recipe, recipe_names, recipe_title, to_toml
from swwae_zoo.config.schema import (
    GROUPS,
    MAY_CHANGE_ON_RESUME,
    SCHEMA,
    RunConfig,
    check_two_views,
    fallbacks,
    fixed_keys,
    lambdas,
    merge,
    parse_model_arg,
    parse_size,
    starts_trained,
    validate,
    without_lambdas,
)

__all__ = [
    "GROUPS",
    "MAY_CHANGE_ON_RESUME",
    "SCHEMA",
    "ModelArg",
    "RunConfig",
    "check_two_views",
    "default_recipe",
    "expected",
    "fallbacks",
    "fixed_keys",
    "flags",
    "lambdas",
    "merge",
    "parse_model_arg",
    "parse_size",
    "read_recipe",
    "recipe_names",
    "recipe_title",
    "starts_trained",
    "to_toml",
    "toml_line",
    "validate",
    "without_lambdas",
]
