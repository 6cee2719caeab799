"""Files and texts that anyone may give, damaged at random: a result of the right kind, or one line. 1,000 of each kind.

`pytest -m slow tests/test_fuzz.py` tries ten times as many, from other seeds. The readers are called as the commands
call them; a case that takes 20 seconds of processor time is a hang.
"""

import contextlib
import copy
import csv
import io
import json
import random
import signal
import struct
from collections import Counter
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from swwae_zoo.config import RunConfig, read_recipe, to_toml
from swwae_zoo.config.schema import parse_model_arg, parse_size
from swwae_zoo.data import load_images
from swwae_zoo.data.exclude import read_exclusions
from swwae_zoo.data.readers.label_file import read_labels
from swwae_zoo.data.readers.pictures import read_picture
from swwae_zoo.hub.config import read_model_config
from swwae_zoo.models._notation import format, parse

SHORT, LONG = 1000, 10_000
SECONDS = 20
TOML_VALUES = [
    "nan", "inf", "-inf", "1e400", "9" * 400, "-1", "0", "1.5", "true", '""', '"\\u001b[2J"', '"\\u0000"', "[]", "{}",
    "[" * 2000, "1979-05-27", '"~nobody/x"', '"../.."', "[1, [2]]", "[nan]", "{a = 1}", '"' + "x" * 5000 + '"',
    '"/dev/zero"', "0x10", "'''a\nb'''", "[-1.0]", '"hf:a/b"', '"folder:"', "1_000", "-0.0", "9223372036854775808",
]  # fmt: skip
JSON_VALUES = [
    None, True, -1, 0, 10**400, 1e308, "", "\x1b[2J", "\0", "\ud800", [], {}, [[]], [[[1]]], {"a": {}}, "x" * 5000,
    [1] * 500, "/etc/passwd", float("nan"), float("inf"), -(2**63), [None], ["\n"], "os.system", 1.5,
]  # fmt: skip
TEXTS = [
    "", "\0", "\x1b]0;x\x07", "\u202e", "é", "²", "٣", "-1", "1e3", "9" * 30, "_", "1_0", "+1", '"', "'", ",", ";",
    "a\nb", "../x.png", "/etc/passwd", "~", "\ufeff", "nan", "\r", "\t", "=", "|", "<b>", "[red]",
]  # fmt: skip


@contextlib.contextmanager
def in_time() -> Iterator[None]:
    """Ends what hangs, by processor time: other work on the machine does not count."""

    def hangs(*_: object) -> None:
        raise TimeoutError(f"took more than {SECONDS} s")

    before = signal.signal(signal.SIGPROF, hangs)
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


def garbled(text: str, rng: random.Random, values: list[str]) -> str:
    """Some characters of a text left out, doubled, moved or replaced."""
    for _ in range(rng.randint(1, 4)):
        at, end = sorted(rng.choices(range(len(text) + 1), k=2))
        end = min(end, at + rng.choice((0, 1, 1, 3, 40)))
        piece = rng.choice(
            ["", text[at:end] * 2, rng.choice(values), chr(rng.randrange(0x3000)), rng.choice("\n\t\"'[]{}=-#()")]
        )
        text = text[:at] + piece + text[end:]
    return text


def damaged(data: bytes, rng: random.Random) -> bytes:
    """Some bytes changed, a run of them overwritten or taken out, or the end cut off."""
    content = bytearray(data)
    for _ in range(rng.randint(1, 4) if data else 0):
        at = rng.randrange(len(content))
        kind = rng.randrange(6)
        if kind < 3:
            content[at] = rng.randrange(256)
        elif kind == 3:  # a length or an offset
            content[at : at + 4] = struct.pack("<I", rng.choice((0, 1, 2**31, 2**32 - 1, rng.randrange(2**32))))
        elif kind == 4 and len(content) > 20:
            del content[at : at + rng.randint(1, 8)]
        elif rng.randrange(4) == 0:
            del content[max(1, at) :]
    return bytes(content)


# ---- one kind each: a function from (random numbers, folder) to a case to try, which tells whether it was read


def recipes(rng: random.Random, folder: Path) -> Callable[[], bool]:
    lines = to_toml(RunConfig(model_args={"drop_rate": 0.5, "pool": "soft"}, steps=3), rng.random() < 0.1).splitlines()
    for _ in range(rng.randint(0, 3)):
        at = rng.randrange(len(lines))
        name = lines[at].partition("=")[0] if "=" in lines[at] else rng.choice(TEXTS)
        lines[at] = f"{name} = {rng.choice(TOML_VALUES)}"
    text = "\n".join(lines)
    if rng.random() < 0.6:
        text = garbled(text, rng, TOML_VALUES)
    path = folder / "recipe.toml"
    path.write_bytes(damaged(text.encode(), rng) if rng.random() < 0.1 else text.encode("utf-8", "replace"))

    def read() -> bool:
        config = read_recipe(path)
        again = folder / "again.toml"
        again.write_text(to_toml(config), encoding="utf-8")
        assert read_recipe(again) == config
        return True

    return read


def notations(rng: random.Random, folder: Path) -> Callable[[], bool]:
    text = "-".join(rng.choice(("(64)3c", "(8)5c", "2p", "3p", "10fc", "(1)1c")) for _ in range(rng.randint(1, 9)))
    text = garbled(text, rng, TEXTS) if rng.random() < 0.7 else text

    def read() -> bool:
        layers = parse(text)
        assert parse(format(layers)) == layers
        return True

    return read


def arguments(rng: random.Random, folder: Path) -> Callable[[], bool]:
    text = garbled(rng.choice(("beta=100", "drop_rate=0.5", "img_size=64x96", "pool=soft", "a=true")), rng, TEXTS)

    def read() -> bool:
        parse_model_arg(text)
        return bool(parse_size(text.partition("=")[2]))

    return read


def configs(rng: random.Random, folder: Path) -> Callable[[], bool]:
    content: Any = {
        "architecture": "swwae_mnist",
        "num_classes": 10,
        "model_args": {
            "notation": "(8)3c-2p-10fc",
            "in_chans": 1,
            "img_size": [32, 32],
            "batch_norm": True,
            "beta": 1.5,
        },
        "pretrained_cfg": {
            "input_size": [1, 32, 32],
            "mean": [0.5],
            "std": [0.5],
            "classifier": "head.fc",
            "crop_pct": 1,
        },
        "label_names": ["a", "b"],
    }
    if rng.random() < 0.3:
        content["architecture"], content["model_args"] = (
            "swwae_wrap",
            {"backbone": "resnet18", "stages": ["layer1"], "x": 1},
        )
    for _ in range(rng.randint(0, 3)):
        table = rng.choice([content, *(value for value in content.values() if isinstance(value, dict))])
        table[rng.choice([*table, rng.choice(TEXTS)])] = copy.deepcopy(rng.choice(JSON_VALUES))
    text = json.dumps(content if rng.random() < 0.95 else rng.choice(JSON_VALUES))
    if rng.random() < 0.3:
        text = garbled(text, rng, ["[" * 3000, "NaN", "1e999", "9" * 5000, '"a":', "\\ud800"])
    path = folder / "config.json"
    path.write_bytes(damaged(text.encode(), rng) if rng.random() < 0.1 else text.encode("utf-8", "replace"))
    local = rng.random() < 0.5
    return lambda: bool(read_model_config(path, local=local).architecture)


def images(rng: random.Random, folder: Path) -> Callable[[], bool]:
    data, grey, size = damaged(rng.choice(PICTURES), rng), rng.random() < 0.3, rng.choice([(8, 8), None])

    def read() -> bool:
        pixels = read_picture(BytesIO(data), grey, size).pixels
        assert pixels.dtype == np.uint8 and pixels.ndim == 3 and pixels.shape[0] == (1 if grey else 3)
        assert size is None or pixels.shape[1:] == size
        return True

    return read


def archives(rng: random.Random, folder: Path) -> Callable[[], bool]:
    return _set("npz", rng, folder)


def parquet_files(rng: random.Random, folder: Path) -> Callable[[], bool]:
    pytest.importorskip("pyarrow")
    return _set("parquet", rng, folder)


def label_files(rng: random.Random, folder: Path) -> Callable[[], bool]:
    text = io.StringIO()
    writer = csv.writer(text, delimiter=rng.choice(",,,,;\t"))
    writer.writerow(rng.choice((("file", "label"), ("file", "label", "split"), ("label", "file"), TEXTS[:3])))
    for i in range(rng.randint(0, 5)):
        writer.writerow([rng.choice((f"{i}.png", rng.choice(TEXTS))), rng.choice(("cat", rng.choice(TEXTS))), "train"])
    raw = text.getvalue()
    raw = garbled(raw, rng, TEXTS) if rng.random() < 0.5 else raw
    path = folder / "labels.csv"
    path.write_bytes(damaged(raw.encode(), rng) if rng.random() < 0.2 and raw else raw.encode())
    return lambda: read_labels(folder) is not None


def exclusions(rng: random.Random, folder: Path) -> Callable[[], bool]:
    path = folder / rng.choice(("list.txt", "list.npy"))
    if path.suffix == ".npy":
        file = BytesIO()
        np.save(file, np.arange(6).astype(rng.choice(("u1", "i8", "f4", "U3", "?", "u8"))))
        path.write_bytes(damaged(file.getvalue(), rng) if rng.random() < 0.8 else file.getvalue())
    else:
        text = "\n".join(rng.choice((str(rng.randint(-2, 12)), rng.choice(TEXTS))) for _ in range(rng.randint(0, 6)))
        path.write_bytes(text.encode("utf-8", "replace"))
    return lambda: read_exclusions(f"{rng.randint(0, 1)}-based:{path}", 10).dtype == np.int64


def _set(kind: str, rng: random.Random, folder: Path) -> Callable[[], bool]:
    path = folder / f"set.{kind}"
    path.write_bytes(damaged(rng.choice(SETS[kind]), rng))
    limit = 0 if rng.random() < 0.1 else float("inf")  # 0: unpacked to disk

    def read() -> bool:
        found = load_images(f"{kind}:{path}", rng.choice(("train", "unlabeled")), limit=limit, data_dir=folder / "data")
        assert found.count == len(found.images) and found.images.shape[1] in (1, 3)
        assert found.labels is None or len(found.labels) == found.count
        return True

    return read


def _pictures() -> list[bytes]:
    rng = np.random.default_rng(0)
    image = Image.fromarray(rng.integers(0, 256, (12, 10, 3), dtype=np.uint8))
    ramp = Image.fromarray((np.arange(120, dtype=np.uint16) * 500).reshape(12, 10))
    kinds = ("PNG", "JPEG", "GIF", "TIFF", "WEBP", "BMP", "TGA", "QOI", "PPM", "AVIF", "JPEG2000", "ICO", "PCX", "DDS")
    found = []
    for one, kind in [*((image, kind) for kind in kinds), (ramp, "PNG"), (ramp, "TIFF"), (image.convert("P"), "GIF")]:
        file = BytesIO()
        one.save(file, kind)
        found.append(file.getvalue())
    return found


def _sets() -> dict[str, list[bytes]]:
    pixels, labels = np.arange(48, dtype=np.uint8).reshape(3, 4, 4), np.arange(3)
    found: dict[str, list[bytes]] = {"npz": [], "parquet": []}
    for save, names in ((np.savez, {}), (np.savez_compressed, {"class_names": np.array(["a", "b", "c"])})):
        file = BytesIO()
        save(file, images=pixels, labels=labels, **names)
        found["npz"].append(file.getvalue())
    with contextlib.suppress(ImportError):
        import pyarrow as pa
        import pyarrow.parquet as pq

        encoded = [{"bytes": PICTURES[0], "path": None}] * 3
        for column in (pixels.tolist(), encoded, [PICTURES[1]] * 3):
            file = BytesIO()
            pq.write_table(pa.table({"image": column, "label": labels.tolist()}), file)
            found["parquet"].append(file.getvalue())
    return found


PICTURES = _pictures()
SETS = _sets()
KINDS = [recipes, notations, arguments, configs, images, archives, parquet_files, label_files, exclusions]


def fuzz(
    kind: Callable[[random.Random, Path], Callable[[], bool]], count: int, seed: int, folder: Path
) -> Counter[str]:
    """Tries so many; every error is a ValueError of one short printable line."""
    rng, told = random.Random(seed), Counter[str]()
    for turn in range(count):
        case = kind(rng, folder)
        try:
            with in_time():
                told["read" if case() else "nothing"] += 1
        except ValueError as error:
            told["refused"] += 1
            line = str(error).partition("\n  ")[0]  # a notation shows the place below
            assert line.isprintable() and len(line) < 1300, (turn, str(error))
        except Exception as error:
            raise AssertionError(
                f"{kind.__name__}, seed {seed}, turn {turn}: {type(error).__name__}: {error}"
            ) from error
    return told


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("kind", KINDS)
def test_fuzz(kind: Callable[..., Any], tmp_path: Path) -> None:
    told = fuzz(kind, SHORT, 0, tmp_path)
    assert told["refused"] > SHORT // 20 and told["read"] > SHORT // 50, told


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("kind", KINDS)
def test_fuzz_longer(kind: Callable[..., Any], tmp_path: Path) -> None:
    for seed in range(1, 1 + LONG // SHORT):
        print(kind.__name__, seed, dict(fuzz(kind, SHORT, seed, tmp_path)))
