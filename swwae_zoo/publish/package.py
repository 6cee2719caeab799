"""Puts a run's weights into the package itself, where they load with no network:

    python -m swwae_zoo.publish.package RUN TAG        # e.g. runs/mnist-100 mnist_100

makes swwae_zoo/weights/MODEL.TAG/ with the same files that a push sends (weights as they were evaluated, fp32;
config.json; card; picture).  From then on `timm.create_model("MODEL.TAG", pretrained=True)` finds them, and the first
tag of a model is what its bare name means.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import sys
import tempfile
from pathlib import Path

from swwae_zoo.hub.errors import HubError
from swwae_zoo.hub.remote import WEIGHTS
from swwae_zoo.models._pretrained import PACKAGED
from swwae_zoo.publish.folder import PICTURES, build_folder
from swwae_zoo.publish.trained import find_run

__all__ = ["MAX_BYTES", "package"]

MAX_BYTES = 2_000_000  # of model.safetensors: what is larger belongs on the Hub


def package(
    run: str | Path, tag: str, *, weights: str | None = None, force: bool = False, into: Path = PACKAGED
) -> Path:
    """Makes ``into``/MODEL.TAG from a run.

    Args:
        run: a run directory, one of its rounds, or the best/ or last/ of one.
        tag: of timm: letters, digits and underscores.
        weights: "best" or "last" (the default).
        force: replace what is there under that tag.

    Returns:
        The folder made.

    Raises:
        ValueError: the run can't be used, the weights are too large, or the tag is taken.
    """
    from swwae_zoo.models import swwae as _registers_the_models  # noqa: F401

    if not re.fullmatch("[a-z0-9_]+", tag):
        raise HubError(f"tag: got {tag!r}, expected letters, digits and underscores, such as mnist_100")
    trained = find_run(run, weights)
    size = (trained.folder / WEIGHTS).stat().st_size
    if size > MAX_BYTES:
        raise HubError(
            f"{trained.folder}/{WEIGHTS} has {size:,} bytes, expected at most {MAX_BYTES:,}: push it to the Hub instead"
        )
    name = f"{trained.config.model.partition('.')[0]}.{tag}"
    target = into / name
    if target.exists() and not force:
        raise HubError(f"{target} is there already: give another tag, or --force")
    into.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=into, prefix=".") as made:
        whole = Path(made) / "whole"
        whole.mkdir()
        build_folder(trained, whole, name, "mit", PICTURES[:1])  # the licence of the package
        if target.exists():
            shutil.rmtree(target)
        os.rename(whole, target)
    return target


def main(args: list[str]) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m swwae_zoo.publish.package", description="Put a run's weights into the package."
    )
    parser.add_argument("run")
    parser.add_argument("tag")
    parser.add_argument("--weights", choices=("best", "last"))
    parser.add_argument("--force", action="store_true", help="replace what is there under that tag")
    given = parser.parse_args(args)
    try:
        print(package(given.run, given.tag, weights=given.weights, force=given.force))
    except (ValueError, OSError) as error:
        parser.exit(2, f"error: {error}\n")


if __name__ == "__main__":
    main(sys.argv[1:])
