"""A folder of one's own, from `train` to `predict` to `export`: each model, on photos of several sizes and formats.

    python benchmarks/own_folder.py [--data DATA] [--models NAME,...] [--sets NAME,...] [--steps 3] [--out FILE.md]

Each set is 160 labelled photos in 4 classes, 600 without labels, and 8 new ones, made from CIFAR-10 (32x32 pixels) or
Imagenette (96x64), as PNG or JPEG. The three commands are those of the README, with few steps; then the ONNX file's
probabilities of the new photos are compared with those of `swwae predict --amp off`. DATA holds cifar-10-batches-py,
imagenette96 and pretrained/tf_efficientnet_lite0.safetensors; without it the photos are generated, and nothing is
pretrained. The table says what came of it.
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageOps
from typer.testing import CliRunner

from swwae_zoo.cli.main import app
from swwae_zoo.data import load_images
from swwae_zoo.data.readers.pictures import open_picture, pixels_of

CLASSES, LABELED, UNLABELED, NEW = 4, 160, 600, 8
CHECKPOINT = "pretrained/tf_efficientnet_lite0.safetensors"
MODELS = {
    **{name: ["--model", name] for name in ("swwae_mnist", "swwae_svhn", "swwae_stl10", "swwae_cifar_vgg")},
    "swwae_stl10_vgg": ["--model", "swwae_stl10_vgg"],
    "swwae_wrap": ["--model", "swwae_wrap"],
    "resnet18": ["--backbone", "resnet18"],
    "tf_efficientnet_lite0, pretrained": ["--backbone", "tf_efficientnet_lite0", "--checkpoint", CHECKPOINT],
}
SOURCES = ("cifar10", "imagenette", "generated")
SETS = {f"{source}-{kind}": (source, kind) for source in SOURCES for kind in ("png", "jpg")}


class Outcome(NamedTuple):
    """size: (C, H, W) that the ONNX file takes. seconds: of train, predict and export. difference: of a probability."""

    size: tuple[int, ...]
    seconds: tuple[float, ...]
    difference: float


def swwae(args: Sequence[object]) -> str:
    """Runs the command in this process; its standard output. Raises RuntimeError with what it said."""
    done = CliRunner().invoke(app, [str(arg) for arg in args])
    if done.exit_code:
        raise RuntimeError(f"swwae {' '.join(map(str, args))}: exit code {done.exit_code}: {done.stderr.strip()}")
    return done.stdout


def photos(source: str, data: Path | None) -> Iterator[list[Image.Image]]:
    """For each class an iterator of photos; "generated" needs no data."""
    for label in range(CLASSES):
        if source == "generated":
            rng = np.random.default_rng(label)
            small = (Image.fromarray(rng.integers(64 * label, 256, (6, 4, 3), np.uint8)) for _ in range(10_000))
            yield (each.resize((64, 96), Image.Resampling.BICUBIC) for each in small)  # type: ignore[misc]
        elif source == "cifar10":
            assert data is not None
            images = load_images("cifar10", "train", data_dir=data)
            chosen = (images.images[i] for i in (images.labels == label).nonzero()[:, 0])
            yield (Image.fromarray(each.permute(1, 2, 0).numpy()) for each in chosen)  # type: ignore[misc]
        else:
            assert data is not None
            folder = sorted(path for path in (data / "imagenette96/train").iterdir() if path.is_dir())[label]
            files = sorted(path for path in folder.iterdir() if path.is_file())
            opened = (Image.open(path).convert("RGB") for path in files)
            yield (ImageOps.fit(each, (64, 96)) for each in opened)  # type: ignore[misc]


def make_folder(folder: Path, source: str, suffix: str, data: Path | None, each: Sequence[int]) -> None:
    """FOLDER/pets/CLASS/, FOLDER/more/ and FOLDER/new/ with so many photos."""
    for label, images in enumerate(photos(source, data)):
        for part, count in zip((f"pets/class {label}", "more", "new"), each, strict=True):
            (folder / part).mkdir(parents=True, exist_ok=True)
            for number, image in enumerate(islice(images, count // CLASSES)):
                image.save(folder / part / f"{label}-{number:04}.{suffix}")


def story(folder: Path, name: str, flags: Sequence[object]) -> Outcome:
    """Train, predict and export; `flags` of the training. Raises where something is refused or comes out otherwise."""
    import onnxruntime

    out, onnx, seconds = folder / "runs" / name, folder / f"{name}.onnx", []
    new = sorted((folder / "new").iterdir())
    said = []
    for args in (
        ["train", "--data", f"folder:{folder / 'pets'}", "--unlabeled", f"folder:{folder / 'more'}", "--out", out]
        + list(flags),
        ["predict", *new, "--model", out, "--json", "--amp", "off", "--top", CLASSES],
        ["export", out, "--format", "onnx", "--out", onnx],
    ):
        start = time.perf_counter()
        said.append(swwae(args))
        seconds.append(time.perf_counter() - start)
    assert "error" in said[0] and said[2].strip() == str(onnx), said
    assert (out / "report.html").is_file()
    told = json.loads(said[1])
    names = [f"class {label}" for label in range(CLASSES)]
    assert [each["file"] for each in told] == list(map(str, new)), told
    session = onnxruntime.InferenceSession(onnx.read_bytes(), providers=["CPUExecutionProvider"])
    facts = session.get_modelmeta().custom_metadata_map
    assert json.loads(facts["class_names"]) == names
    size = json.loads(facts["preprocessing"])["input_size"]
    [probabilities] = session.run(None, {"images": np.stack([pixels(path, size) for path in new])})
    by_name = [{part["name"]: part["probability"] for part in each["predictions"]} for each in told]
    predicted = np.array([[each[name] for name in names] for each in by_name])
    difference = float(np.abs(probabilities - predicted).max())
    assert difference < 1e-4, (probabilities, predicted)
    return Outcome(tuple(size), tuple(seconds), difference)


def pixels(path: Path, size: Sequence[int]) -> np.ndarray:
    """What the file's metadata ask for: a picture that covers H x W, cropped to its centre."""
    image, _ = open_picture(path, size[0] == 1)
    return pixels_of(image, (size[1], size[2]))


def _short(name: str) -> str:
    return name.partition(",")[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder of the data sets; without it photos are generated")
    parser.add_argument("--models", metavar="NAME,...", help=f"of {', '.join(_short(name) for name in MODELS)}")
    parser.add_argument("--sets", metavar="NAME,...", help=f"of {', '.join(SETS)}; by default those of --data")
    parser.add_argument("--steps", type=int, default=3, help="of each training")
    parser.add_argument("--out", type=Path, help="Markdown file for the table")
    args = parser.parse_args()
    data = args.data.resolve() if args.data else None
    usable = {_short(name): name for name in MODELS if data or CHECKPOINT not in MODELS[name]}
    possible = [name for name, (source, _) in SETS.items() if data or source == "generated"]
    default = [name for name in possible if not data or SETS[name][0] != "generated"]
    models = args.models.split(",") if args.models else list(usable)
    sets = args.sets.split(",") if args.sets else default
    for got, names in ((models, usable), (sets, possible)):
        if unknown := [name for name in got if name not in names]:
            without = "" if data else " without --data"
            parser.error(f"got {', '.join(unknown)}, expected some of {', '.join(names)}{without}")
    wanted = [usable[name] for name in models]
    rows, failed = [], 0
    with tempfile.TemporaryDirectory() as home:
        for each in sets:
            make_folder(Path(home) / each, SETS[each][0], SETS[each][1], data, (LABELED, UNLABELED, NEW))
        for name in wanted:
            flags = [str(data / flag) if data and flag == CHECKPOINT else flag for flag in MODELS[name]]
            row = [name]
            for each in sets:
                try:
                    outcome = story(Path(home) / each, _short(name), [*flags, "--steps", args.steps])
                except (RuntimeError, AssertionError) as error:
                    print(f"{name}, {each}: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
                    row.append("refused")
                    failed += 1
                    continue
                size = "×".join(map(str, outcome.size))
                row.append(
                    f"{size}; {', '.join(f'{each:.0f}' for each in outcome.seconds)} s; {outcome.difference:.0e}"
                )
                print(f"{name}, {each}: {row[-1]}", file=sys.stderr, flush=True)
            rows.append(row)
    lines = [f"| {' | '.join(row)} |" for row in [["model", *sets], ["---"] * (len(sets) + 1), *rows]]
    table = "\n".join(lines) + "\n"
    print(table)
    if args.out:
        args.out.write_text(table, encoding="utf-8")
    raise SystemExit(failed > 0)


if __name__ == "__main__":
    main()
