"""From what a user gives, flags or arguments of `swwae_zoo.train`, to the complete recipe of a run."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from swwae_zoo import config
from swwae_zoo.models._pretrained import packaged_tags
from swwae_zoo.models._registry import check_model_name
from swwae_zoo.utils.files import user_path

__all__ = ["recipe_and_keys", "settings"]


def settings(
    overrides: dict[str, Any],
    *,
    recipe: str | Path | None = None,
    resume: bool = False,
    force: bool = False,
    **chosen: Any,
) -> tuple[config.RunConfig, tuple[str, ...]]:
    """The recipe of a run, and lines that say what of the base recipe gave way.

    Args:
        overrides, recipe, resume, chosen: as `recipe_and_keys` takes them.
        force: the run in `out` may be replaced.

    Raises:
        ValueError: one line.
    """
    of_recipe, overrides = recipe_and_keys(overrides, recipe=recipe, resume=resume, **chosen)
    if recipe is not None and of_recipe is not None and not (overrides["out"] or resume or force):
        overrides["out"] = beside(recipe, of_recipe.out)
    run = config.merge(of_recipe, overrides, adapt=not resume)
    check_model_name(run.model)
    return run, what_gave_way(of_recipe, overrides) if of_recipe is not None and not resume else ()


def recipe_and_keys(
    overrides: dict[str, Any],
    *,
    recipe: str | Path | None = None,
    backbone: str | None = None,
    pools: str | None = None,
    decoder: str | None = None,
    img_size: int | Sequence[int] | None = None,
    pretrained: bool = False,
    resume: bool = False,
) -> tuple[config.RunConfig | None, dict[str, Any]]:
    """The recipe that is started from, None without one, and every key with what was given for it, None for nothing.

    Args:
        overrides: keys of `RunConfig`; None = not given.
        recipe: to start from, by name or path; else the model's own.
        backbone: timm's name of a backbone to wrap; pools and decoder are its options.
        img_size: of the images as the model takes them, a side or (height, width).
        pretrained: start from the backbone's pretrained weights, or from the model's own.
        resume: the run in `out` goes on, by its own recipe.

    Raises:
        ValueError: one line.
    """
    keys = [key.name for key in config.RunConfig.__dataclass_fields__.values()]
    overrides = {**dict.fromkeys(keys), **overrides}
    overrides = wrapping(overrides, backbone=backbone, pools=pools, decoder=decoder)
    if img_size is not None:
        size = img_size if isinstance(img_size, int) else list(img_size)
        overrides["model_args"] = {**(overrides["model_args"] or {}), "img_size": size}
    model = overrides["model"] or config.RunConfig.model
    trained = pretrained or config.starts_trained(overrides["model_args"] or {}, overrides["init"])
    base = base_recipe(recipe, resume, model, overrides["out"], trained)
    if pretrained:
        overrides = with_pretrained(overrides, base)
    return config.read_recipe(base) if base else None, overrides


def beside(recipe: str | Path, out: str) -> str | None:
    """Where a run's own config.toml is run again: DIR-2, DIR-3, ... for that of DIR; None for another recipe."""
    folder = user_path(recipe).absolute().parent
    if not out or Path(recipe).name != "config.toml" or not (folder / "run.json").is_file():
        return None
    return next(
        str(place) for n in itertools.count(2) if not (place := folder.with_name(f"{folder.name}-{n}")).exists()
    )


def with_pretrained(overrides: dict[str, Any], base: str | Path | None) -> dict[str, Any]:
    """--pretrained, spelled out: the backbone's own weights, or the tag under which the model's lie."""
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
    return (f"data, backbone or length are not the recipe's, so: {values}",) if changed else ()


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


def base_recipe(
    recipe: str | Path | None, resume: bool, model: str, out: str | None, trained: bool = False
) -> str | Path | None:
    """What the flags override: the given recipe, the resumed run's own, or the model's default; None if it has none."""
    if recipe is None and resume and out is not None:
        saved = user_path(out) / "config.toml"
        if not saved.is_file():
            raise ValueError(f"{out}: holds no run to resume; leave --resume out to start one")
        return saved
    if recipe is None and config.default_recipe(model) is None:
        check_model_name(model)  # a misspelled name is likelier than a recipe without a number of steps
    return recipe or config.default_recipe(model, trained)
