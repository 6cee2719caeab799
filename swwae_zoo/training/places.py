"""Where a trained model lies: in a run directory, in a folder, on the Hub, or under a registered tag.

Whichever it is, `find_place` ends in one folder with config.json and model.safetensors, which timm's local-dir: loads.
"""

from __future__ import annotations

import difflib
import os
import re
from pathlib import Path
from typing import NamedTuple

import timm

from swwae_zoo.config import RunConfig, read_run_recipe
from swwae_zoo.hub.building import build_on_meta
from swwae_zoo.hub.fetch import locate
from swwae_zoo.hub.remote import CONFIG, WEIGHTS, split_revision
from swwae_zoo.models import swwae as _registers_the_models  # noqa: F401
from swwae_zoo.models._pretrained import place_of_weights
from swwae_zoo.models._registry import model_names
from swwae_zoo.utils.files import user_path, utf8_path
from swwae_zoo.utils.text import printable

__all__ = ["CHOICES", "HUB", "Place", "find_place", "is_registered", "rounds_in"]

CHOICES = ("last", "best")  # weights of a run; the first by default: result.json states their test error
HUB, LOCAL = "hf-hub:", "local-dir:"


class Place(NamedTuple):
    """A trained model that was found.

    name: what messages call it.
    kind: "run", "folder", "hub" or "tag".
    folder: holds config.json and, unless only the net was asked for, model.safetensors.
    config: the recipe it was trained by, which a run alone knows.
    """

    name: str
    kind: str
    folder: Path
    config: RunConfig | None = None


def find_place(place: str | os.PathLike[str], weights: str | None = None, *, net_only: bool = False) -> Place:
    """Finds a trained model.

    Args:
        place: a run directory of `swwae train`, a round of it, or its last/ or best/; a folder with config.json and
            model.safetensors (of `swwae pull`, or of timm's `save_for_hf`); "hf-hub:ORG/NAME[@REVISION]"; or a
            registered name with weights, such as "swwae_mnist.mnist_100".
        weights: "last" (the default) or "best" of a run; the other places hold one set of weights.
        net_only: do without the weights: from the Hub, config.json alone is fetched.

    Raises:
        ValueError: none of the four, several rounds of which one has to be chosen, weights that are not there (yet),
            or `HubError`; one line.
    """
    name = os.fspath(place)
    if weights is not None and weights not in CHOICES:
        raise ValueError(f"weights: got {printable(weights, 50)!r}, expected one of {', '.join(CHOICES)}")
    if name.startswith(HUB):
        found = Place(name, "hub", _fetched(name.removeprefix(HUB), net_only))
    elif is_registered(name):
        found = _tag(name, net_only)
    else:
        path = user_path(name.removeprefix(LOCAL))
        found = _run(path, weights, net_only) or _folder(path, name, net_only)
    if weights is not None and found.kind != "run":
        raise ValueError(
            f"weights: got {weights!r}, but {printable(name)} holds one set of weights and no run: leave it out"
        )
    if not net_only:
        utf8_path(found.folder)
    return found


def is_registered(name: str) -> bool:
    """Whether it is a registered model's name, with a tag or without."""
    return "/" not in name and name.partition(".")[0] in model_names()


def rounds_in(home: Path) -> list[Path]:
    """The folders seed0/, seed0-twin/, ... of the rounds in a run directory, sorted; none where it is one run alone."""
    found = (path.parent for path in home.glob("seed*/config.toml"))
    return sorted(path for path in found if re.fullmatch(r"seed\d+(-twin)?", path.name))


def _fetched(repo: str, net_only: bool) -> Path:
    found = locate(*split_revision(repo))
    if not net_only:
        found.weights_for(build_on_meta(found.config, found.where))
    return found.folder


def _tag(name: str, net_only: bool) -> Place:
    """A registered name, in the package or on the Hub.

    Raises:
        ValueError: no such tag, no weights, or a folder of that name lies here too.
    """
    if Path(name).is_dir():
        raise ValueError(f"{name} is a registered name and a folder here: write ./{name} for the folder")
    weights = place_of_weights(name)
    folder = weights if isinstance(weights, Path) else _fetched(weights, net_only)
    return Place(name, "tag", folder)


def _run(path: Path, weights: str | None, net_only: bool) -> Place | None:
    """The weights of a run; None where ``path`` is none."""
    absolute = Path(os.path.abspath(path))  # "." has no name
    if absolute.name in CHOICES and (path / os.pardir / "config.toml").is_file():
        home, folder = path.parent if path.name else absolute.parent, path
        if weights not in (None, absolute.name):
            raise ValueError(f"weights: got {weights!r} and {printable(path)}, which says {absolute.name}: give one")
    elif (path / "config.toml").is_file() or rounds_in(path):
        home, folder = path, path / (weights or CHOICES[0])
    else:
        return None
    rounds = rounds_in(home)
    if rounds:
        raise ValueError(
            f"{printable(home)} holds {len(rounds)} runs: choose one of "
            + ", ".join(printable(each) for each in rounds)
        )
    config = read_run_recipe(home / "config.toml")
    missing = next((each for each in (CONFIG, WEIGHTS) if not (folder / each).is_file()), None)
    if missing is not None and not (net_only and missing == WEIGHTS):
        raise ValueError(
            f"{printable(folder)} has no {missing}: the run has not come to its first checkpoint, or give another "
            "--weights"
        )
    return Place(str(folder), "run", folder, config)


def _folder(path: Path, name: str, net_only: bool) -> Place:
    if path.is_dir() and (path / CONFIG).is_file():
        if not (path / WEIGHTS).is_file() and not net_only:
            raise ValueError(
                f"{printable(path)} has config.json, but no {WEIGHTS}: weights are read from nothing else; timm's "
                "save_for_hf writes it with safe_serialization=True"
            )
        return Place(str(path), "folder", path)
    raise ValueError(f"got {printable(name) or repr(name)}, which {_fault(path, name)}; expected {_expected()}")


def _fault(path: Path, name: str) -> str:
    if path.is_dir():
        lacks = "has no config.json" if (path / WEIGHTS).is_file() else "is a folder without a model"
        return f"{lacks}, and holds no run"
    if path.exists():
        return "is a file"
    near = difflib.get_close_matches(name, [*timm.list_pretrained("swwae*"), *model_names()], n=1, cutoff=0.75)
    if near:
        return f"is none of them, did you mean {near[0]}?"
    if re.fullmatch(r"[\w.-]+/[\w.-]+(@[\w./-]+)?", name, re.ASCII):
        return f"is not there (a repository on the Hub is {HUB}{name})"
    return "is not there"


def _expected() -> str:
    tags = [tag for tag in timm.list_pretrained("swwae*") if "." in tag]
    return (
        "a run directory of `swwae train`, a folder with config.json and model.safetensors, "
        f"{HUB}ORG/NAME, or a tag ({', '.join(tags)})"
    )
