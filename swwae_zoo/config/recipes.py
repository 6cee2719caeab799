"""Recipes: TOML files that set keys of a `RunConfig`, packaged by name or read by path. No torch here."""

from __future__ import annotations

import hashlib
import importlib.resources
import sys
from dataclasses import fields
from pathlib import Path

from swwae_zoo.config.fields import toml_comment, toml_line
from swwae_zoo.config.schema import GROUPS, SCHEMA, RunConfig, check_known, nearest
from swwae_zoo.utils.files import user_path
from swwae_zoo.utils.text import printable

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # pyright: ignore[reportMissingImports]

__all__ = ["default_recipe", "read_recipe", "read_run_recipe", "recipe_names", "recipe_title", "sealed_toml", "to_toml"]


MAX_BYTES = 2**20
_SEAL = "# sha256 of the other lines: "
_ALIASES = {"swwae_stl10_vgg": "swwae_stl10"}  # model -> the model whose recipe is its own too


def read_recipe(name_or_path: str | Path) -> RunConfig:
    """Reads a packaged recipe by its name, or a file by its path (anything with a '/', or that ends in .toml).

    Raises:
        ValueError: one line: no such recipe (with the nearest) or file, a file that is not TOML (with the position),
            an unknown key (with the nearest), or a value that `validate` refuses.
    """
    return _parsed(_recipe_text(name_or_path), printable(name_or_path))


def read_run_recipe(path: Path) -> RunConfig:
    """Reads a run's config.toml, as `sealed_toml` made it; those of earlier versions have no checksum.

    Raises:
        ValueError: as `read_recipe`, or it is not as it was written: damaged, or edited.
    """
    text = _recipe_text(path)
    head, _, rest = text.partition("\n")
    seal, _, rest = rest.partition("\n")
    is_cut = all(line.startswith("#") for line in text.splitlines())  # within its first lines
    if seal.startswith(_SEAL) and seal != _SEAL + _digest(head + rest) or is_cut:
        raise ValueError(
            f"{printable(path)} is not as it was written (its checksum differs): restore it; for a run with other "
            "values give it as --recipe, with another --out"
        )
    return _parsed(text, printable(path))


def _parsed(text: str, shown: str) -> RunConfig:
    try:
        table = tomllib.loads(text)
        schema = table.pop("schema", SCHEMA)
        if schema != SCHEMA:
            raise ValueError(f"schema: got {schema!r}, expected {SCHEMA}, the one that this version of swwae_zoo knows")
        check_known(table)
        return RunConfig(**table)
    except RecursionError:
        raise ValueError(f"recipe {shown}: tables or lists nested too deep, expected one level") from None
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"recipe {shown}: not valid TOML: {printable(error)}") from None
    except ValueError as error:
        raise ValueError(f"recipe {shown}: {printable(error, 1000)}") from None


def recipe_names() -> list[str]:
    """Names of the packaged recipes, sorted."""
    files = importlib.resources.files("swwae_zoo.recipes").iterdir()
    return sorted(file.name.removesuffix(".toml") for file in files if file.name.endswith(".toml"))


def recipe_title(name_or_path: str | Path) -> str:
    """The first comment line of a recipe, without its '#'; "" where it has none."""
    lines = _recipe_text(name_or_path).splitlines()
    return next((line.lstrip("#").strip() for line in lines if line.startswith("#")), "")


def default_recipe(model: str, pretrained: bool = False) -> str | None:
    """The packaged recipe that bears the model's name (without timm's pretrained tag), or None.

    Args:
        pretrained: it starts from trained weights; a wrapped backbone has a recipe of its own for that.
    """
    name = model.partition(".")[0]
    if pretrained and f"{name}_pretrained" in recipe_names():
        return f"{name}_pretrained"
    name = _ALIASES.get(name, name)
    return name if name in recipe_names() else None


def to_toml(config: RunConfig, complete: bool = True) -> str:
    """Writes a recipe; `read_recipe` of it gives an equal configuration.

    Args:
        complete: every key; else the model, the data, and what differs from the defaults, as packaged recipes do.
    """
    lines = [
        toml_comment(f"{config.model} on {config.data}, {config.num_labels or 'all'} labels"),
        f"schema = {SCHEMA}",
    ]
    plain = RunConfig(steps=config.steps, epochs=config.epochs)
    said = [
        key
        for key in fields(config)
        if complete
        or key.name in ("model", "data")
        or getattr(config, key.name) != key.default
        and (key.name in ("steps", "epochs") or getattr(config, key.name) != getattr(plain, key.name))
    ]
    tables = [key.name for key in said if isinstance(getattr(config, key.name), dict)]
    for group in GROUPS:
        names = [key.name for key in said if key.metadata["group"] == group and key.name not in tables]
        if names:
            lines += ["", f"# {group}", *(toml_line(name, getattr(config, name)) for name in names)]
    for table in tables:  # last: every line below a table's head belongs to it
        lines += ["", f"[{table}]", *(toml_line(name, value) for name, value in getattr(config, table).items())]
    return "\n".join(lines) + "\n"


def sealed_toml(config: RunConfig) -> str:
    """`to_toml` with a checksum of it as the second line; `read_run_recipe` compares it."""
    head, _, rest = to_toml(config).partition("\n")
    return f"{head}\n{_SEAL}{_digest(head + rest)}\n{rest}"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _recipe_text(name_or_path: str | Path) -> str:
    name, names = str(name_or_path), recipe_names()
    if isinstance(name_or_path, str) and name in names:
        file = importlib.resources.files("swwae_zoo.recipes") / f"{name}.toml"
    elif isinstance(name_or_path, Path) or "/" in name or "\\" in name or name.endswith(".toml"):
        file = user_path(name)
    else:
        raise ValueError(
            f"recipe {printable(name)}: no such recipe{nearest(name, names) or ';'} `swwae recipes` lists them; "
            "or give a path to a .toml file"
        )
    shown = printable(name)
    if isinstance(file, Path) and file.exists():
        if not file.is_file():
            raise ValueError(f"recipe {shown}: a {'folder' if file.is_dir() else 'pipe or device'}, expected a file")
        if file.stat().st_size > MAX_BYTES:
            raise ValueError(f"recipe {shown}: has {file.stat().st_size:,} bytes, expected at most {MAX_BYTES:,}")
    try:
        return file.read_text(encoding="utf-8-sig")  # Windows editors put a byte order mark in front
    except FileNotFoundError:
        raise ValueError(f"recipe {shown}: no such file{nearest(Path(name).stem, names)}") from None
    except OSError as error:
        raise ValueError(f"recipe {shown}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise ValueError(f"recipe {shown}: not UTF-8 text, at byte {error.start}") from None
