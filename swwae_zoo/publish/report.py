"""`swwae report`: a run as one HTML page, which needs no network, no JavaScript and no other file."""

from __future__ import annotations

import math
import os
import re
import shlex
import statistics
import time
from collections.abc import Callable
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any, NamedTuple

import jinja2
import torch
from torch import Tensor

from swwae_zoo.analysis.evaluate import images_of
from swwae_zoo.analysis.load import load
from swwae_zoo.config import RunConfig, read_run_recipe, toml_line
from swwae_zoo.data import Images, Preprocess
from swwae_zoo.loss import TERMS
from swwae_zoo.models._base import SWWAE
from swwae_zoo.publish.judgement import Judgement, judge
from swwae_zoo.publish.report_pictures import drawing, photo, plot_calibration
from swwae_zoo.publish.trained import read_provenance, read_result
from swwae_zoo.training.figures import (
    SWWAE_COLOUR,
    TWIN_COLOUR,
    Curve,
    across_classes,
    plot_errors,
    plot_losses,
    reconstruct,
    reconstruct_without_where,
)
from swwae_zoo.training.places import CHOICES, rounds_in
from swwae_zoo.training.run_directory import RunDirectory
from swwae_zoo.training.trainer import Trainer, lambdas_of
from swwae_zoo.utils.files import atomic_write, user_path
from swwae_zoo.utils.precision import Autocast
from swwae_zoo.utils.text import printable

__all__ = ["PAGE", "Pages", "write_report"]

PAGE = "report.html"
MOST, MOST_WHILE_TRAINING = 10_000, 1_000  # images that are judged
SHARE = 0.02  # of the time of a training that its pages may take
SHOWN = 16  # pictures of a kind
MATRIX = 20  # classes: more of them don't fit on a page as a matrix
CLASSES = 60  # of more, those with the highest error
FIGURES = (
    ("test_error", "test error", 2, " %"),
    ("val_error", "validation error", 2, " %"),
    ("test_rec", "test L2rec", 5, ""),
)


class Source(NamedTuple):
    """The model of a run, and images to show it with.

    input: what `prepare` gives -> as the model takes it.
    split: which images they are, in words.
    judged: whether errors on them mean something: not of training images.
    """

    model: SWWAE
    prepare: Preprocess
    input: Callable[[Tensor], Tensor]
    autocast: Autocast
    images: Images
    split: str
    judged: bool


def write_report(run: str | Path) -> Path:
    """Writes RUN/report.html, at any time of a run; of several rounds a page of each, and one of all at the top.

    Args:
        run: what `swwae train --out` was given, or one of its rounds.

    Returns:
        The page's path.

    Raises:
        ValueError: no run there; one line.
    """
    home = user_path(run)
    if Path(os.path.abspath(home)).name in CHOICES and not (home / "config.toml").exists():
        home = home.parent
    rounds = rounds_in(home)
    if not rounds and not (home / "config.toml").is_file():
        raise ValueError(f"{printable(run)} holds no run: expected the folder that `swwae train` wrote")
    for each in rounds or [home]:
        source, notes = _source_of(each)
        _write_round(each, source, notes, MOST)
    return _write_overview(home) if rounds else home / PAGE


class Pages:
    """Keeps the pages of a training current: give it to `train_rounds` as ``observe``.

    While a net is trained its page is refreshed as long as all refreshes together take at most a fiftieth of the time;
    at its end the page is always written.
    """

    def __init__(self) -> None:
        self._spent: dict[Path, float] = {}

    def __call__(self, trainer: Trainer, done: bool) -> None:
        home = trainer.directory.path
        if not done and self._spent.get(home, 0.0) > SHARE * trainer.seconds:
            return
        start = time.perf_counter()
        _write_round(home, _source_in(trainer, done), [], MOST if done else MOST_WHILE_TRAINING)
        above = _above(home)
        if above is not None:
            _write_overview(above)
        self._spent[home] = self._spent.get(home, 0.0) + time.perf_counter() - start


def _source_in(trainer: Trainer, done: bool) -> Source:
    sets = [(trainer.test, "test")] if done else []
    sets = [
        (images, split) for images, split in (*sets, (trainer.val, "validation")) if images is not None and images.count
    ]
    images, split = next((each for each in sets if each[0].labels is not None), (trainer.labeled, "training"))
    layout = torch.channels_last if trainer.config.channels_last else torch.contiguous_format
    return Source(
        trainer.final_model,
        trainer.prepare,
        lambda x: x.contiguous(memory_format=layout),
        trainer.autocast,
        images,
        split,
        split != "training",
    )


def _source_of(home: Path) -> tuple[Source | None, list[str]]:
    """From the files of a run, and what could not be had."""
    try:
        trained = load(home)
    except ValueError as error:
        return None, [f"No pictures of what the net does: {printable(error, 300)}"]
    assert trained.config is not None
    splits = [("test", "test")] if (home / "result.json").exists() else []
    splits += [("val", "validation")] if trained.config.num_val else []
    why = ""
    for split, name in (*splits, ("train", "training")):
        try:
            images = images_of(trained, split=split)
        except (ValueError, OSError) as error:
            why = why or printable(error, 300)
            continue
        source = Source(
            trained.model, trained.prepare, trained.input, trained.autocast(), images, name, name != "training"
        )
        return source, []
    return None, [f"No pictures of what the net does: {why}"]


# --- one run --------------------------------------------------------------------------------------------


def _write_round(home: Path, source: Source | None, notes: list[str], most: int) -> Path:
    start = time.perf_counter()
    config = read_run_recipe(home / "config.toml")
    notes = list(notes)
    classifies, result = lambdas_of(config).classifies, _or_note(read_result, home / "result.json", notes) or {}
    metrics = _metrics(home, classifies)
    judgement = None
    if source is not None and source.judged and classifies:

        def prepare(images: Tensor) -> Tensor:
            return source.input(source.prepare(images))

        judgement = judge(source.model, source.images, prepare, source.autocast, most)
    is_twin = home.name.endswith("-twin")
    partner = home.with_name(home.name.removesuffix("-twin") if is_twin else home.name + "-twin")
    has_partner = _above(home) is not None and (partner / "config.toml").is_file()
    curves = [(is_twin, metrics)]
    if has_partner:
        curves = sorted([*curves, (not is_twin, _metrics(partner, True))], key=lambda each: each[0])
    headline = [*_errors(result, metrics, classifies)]
    if has_partner and not is_twin:
        other = _or_note(read_result, partner / "result.json", notes) or {}
        headline += [(value, f"{name} of the twin") for value, name in _errors(other, [], True) if "error" in name]
    if judgement is not None:
        headline.append((f"{judgement.calibration_error():.3f}", "calibration error (ECE)"))
    steps = max((line["step"] for line in metrics), default=0)
    headline.append((f"{result.get('steps') or steps:,}", "steps"))
    state = (
        "Finished." if result else f"Not finished: step {steps:,}" + (f" of {config.steps:,}." if config.steps else ".")
    )
    if result.get("seconds"):
        headline.append((_duration(result["seconds"]), "of training"))
    if not classifies:
        notes.append("It learnt without labels (lambda_nll = 0): there is no trained classifier, and no error.")
    return _render(
        home,
        config,
        start,
        notes,
        state=("The twin: the same net and recipe, every λ but that of NLL 0. " if is_twin else "") + state,
        above=_above(home) is not None,
        headline=headline,
        drawings=_drawings(curves, metrics),
        judged=_judged(source, judgement) if source is not None and judgement is not None else None,
        reconstructions=_reconstructions(source) if source is not None and lambdas_of(config).runs_decoder else None,
    )


def _errors(result: dict[str, Any], metrics: list[dict[str, Any]], classifies: bool) -> list[tuple[str, str]]:
    """Headline figures: those of the result, else the last validation error."""
    found = []
    for key, name, digits, unit in FIGURES:
        value = result.get(key)
        if value is not None and (classifies or key == "test_rec"):
            found.append((f"{value:.{digits}f}{unit}", name))
    errors = [line["val_error"] for line in metrics if "val_error" in line]
    if errors and not result:
        found.append((f"{errors[-1]:.2f} %", "validation error"))
    return found


def _drawings(curves: list[tuple[bool, list[dict[str, Any]]]], metrics: list[dict[str, Any]]) -> list[dict[str, str]]:
    """Validation error of SWWAE and twins on one picture, and the losses of one run by part."""
    named, shown = set(), []
    thin = len(curves) > 2
    for is_twin, lines in curves:
        if any("val_error" in line for line in lines):
            label = "" if is_twin in named else "twin, every λ but NLL's 0" if is_twin else "SWWAE"
            named.add(is_twin)
            shown.append(Curve(label, TWIN_COLOUR if is_twin else SWWAE_COLOUR, lines, thin))
    made = []
    if shown:
        made.append({"image": drawing(plot_errors, shown), "alt": "Validation error over steps"})
    if any(term in line for line in metrics for term in TERMS):
        made.append({"image": drawing(plot_losses, metrics), "alt": "Losses by part, on training images"})
    return made


def _judged(source: Source, judgement: Judgement) -> dict[str, Any]:
    names, labels, predicted = _names(source), judgement.labels, judgement.predicted
    confusion, confidence = judgement.confusion(), judgement.confidence
    counts = confusion.sum(1)
    wrong = counts - confusion.diagonal()
    errors = wrong / counts.clamp(min=1)
    count, total = len(labels), source.images.count
    some = "" if count == total else f" of {total:,}, spread evenly"

    def item(place: int) -> dict[str, Any]:
        position = int(judgement.index[place])
        said, true = int(predicted[place]), int(labels[place])
        verdict = f"is {names[true]}" if said != true else "right"
        lines = [f"{100 * float(confidence[place]):.1f} % sure; {verdict}"]
        if source.images.files:
            lines.append(printable(source.images.files[position], 80))
        return {"name": names[said], "lines": lines, "images": [photo(source.images.read(torch.tensor([position]))[0])]}

    order = [place for place in errors.argsort(descending=True, stable=True).tolist() if counts[place]]
    off = confusion - torch.diag(confusion.diagonal())
    frequent = off.flatten().argsort(descending=True, stable=True)[:15].tolist() if len(names) > MATRIX else []
    widest = max(float(errors.max()), 1e-9)
    right = 100 * float(confidence.mean())
    return {
        "how": f"{int(wrong.sum()):,} of {count:,} {source.split} images{some} are wrong: {judgement.error:.2f} %.",
        "classes": names,
        "numbered": names != [str(place) for place in range(len(names))],
        "matrix": _matrix(confusion) if len(names) <= MATRIX else None,
        "confusions": [
            {"true": names[each // len(names)], "taken": names[each % len(names)], "count": int(off.flatten()[each])}
            for each in frequent
            if off.flatten()[each]
        ],
        "left_out": f"The {CLASSES} of {len(order)} classes with the highest error." if len(order) > CLASSES else "",
        "by_class": [
            {
                "name": names[each],
                "width": round(100 * float(errors[each]) / widest, 1),
                "text": f"{100 * float(errors[each]):.1f} % ({int(wrong[each])} of {int(counts[each])})",
            }
            for each in order[:CLASSES]
        ],
        "calibration": f"On average it is {right:.1f} % sure and {100 - judgement.error:.1f} % right. Expected "
        f"calibration error (ECE, ten bins of equal width): {judgement.calibration_error():.3f}.",
        "diagram": drawing(plot_calibration, judgement.bins()),
        "errors": [item(place) for place in judgement.surest_errors(SHOWN)],
        "unsure": [item(place) for place in judgement.least_sure(SHOWN)],
    }


def _matrix(confusion: Tensor) -> list[list[dict[str, Any]]]:
    shares = confusion / confusion.sum(1, keepdim=True).clamp(min=1)
    return [
        [
            {
                "count": int(count),
                "share": round(0.7 * float(shares[row, column]), 3),
                "kind": "hit" if row == column else "miss",
            }
            for column, count in enumerate(line)
        ]
        for row, line in enumerate(confusion.tolist())
    ]


@torch.no_grad()
def _reconstructions(source: Source) -> dict[str, Any]:
    images, names = source.images, _names(source)
    index = across_classes(images.labels, images.count, SHOWN)
    fitted = source.prepare.fit(images.read(index))
    x = source.input(source.prepare.normalise(fitted))
    rows = [
        fitted,
        *(source.prepare.denormalise(f(source.model, x), fitted) for f in (reconstruct, reconstruct_without_where)),
    ]
    items = []
    for place, position in enumerate(index.tolist()):
        name = names[int(images.labels[position])] if images.labels is not None else ""
        items.append({"name": name, "lines": [], "images": [photo(row[place]) for row in rows]})
    return {"how": f"{len(items)} {source.split} images, across the classes.", "pictures": items}


def _names(source: Source) -> list[str]:
    names = [printable(name, 150) for name in source.model.pretrained_cfg.get("label_names") or ()]
    return names + [str(place) for place in range(len(names), source.model.num_classes)]


# --- several rounds --------------------------------------------------------------------------------------


def _write_overview(home: Path) -> Path:
    start, notes = time.perf_counter(), []
    rounds = rounds_in(home)
    config = read_run_recipe((home if (home / "config.toml").is_file() else rounds[0]) / "config.toml")
    classifies = lambdas_of(config).classifies
    results = {each: _or_note(read_result, each / "result.json", notes) or {} for each in rounds}
    metrics = {each: _metrics(each, classifies) for each in rounds}
    finished = [result for result in results.values() if result]
    known = [
        figure
        for figure in FIGURES
        if (classifies or figure[0] == "test_rec")
        and any(result.get(figure[0]) is not None for each, result in results.items() if not _is_twin(each))
    ]
    seeds = sorted({each.name.removesuffix("-twin") for each in rounds}, key=lambda name: int(name[4:]))
    twins = any(_is_twin(each) for each in rounds)
    pages = {each.name: f"{each.name}/{PAGE}" for each in rounds if (each / PAGE).is_file()}
    table, headline = _table(seeds, results, twins, known[0] if known else None, pages)
    expected = config.rounds * (2 if config.twin else 1)
    first = next((each for each in rounds if not _is_twin(each)), rounds[0])
    return _render(
        home,
        config,
        start,
        notes,
        state=f"{len(finished)} of {expected} nets are finished.",
        above=False,
        headline=headline,
        rounds=table,
        drawings=_drawings([(_is_twin(each), lines) for each, lines in metrics.items()], metrics[first]),
    )


def _table(
    seeds: list[str],
    results: dict[Path, dict[str, Any]],
    twins: bool,
    figure: tuple[str, str, int, str] | None,
    pages: dict[str, str],
) -> tuple[dict[str, Any], list[tuple[str, str]]]:
    """Figures of all rounds, their means and deviations, and the gains over the twins of the same seed."""
    key, name, digits, unit = figure or ("", "", 2, "")
    values = {each.name: result.get(key) for each, result in results.items()}
    columns: dict[str, list[float]] = {"SWWAE": [], "twin": [], "gain": []} if twins else {"SWWAE": []}

    def text(numbers: list[float], sign: str = "") -> str:
        if not numbers:
            return "–"
        spread = f" ± {statistics.stdev(numbers):.{digits}f}" if len(numbers) > 1 else ""
        return f"{statistics.mean(numbers):{sign}.{digits}f}{spread}{unit}"

    rows = []
    for seed in seeds:
        mine, twin = values.get(seed), values.get(f"{seed}-twin")
        gain = twin - mine if mine is not None and twin is not None else None
        cells = []
        for column, value, page in (
            ("SWWAE", mine, pages.get(seed)),
            ("twin", twin, pages.get(f"{seed}-twin")),
            ("gain", gain, None),
        ):
            if column in columns:
                numbers = [value] if value is not None else []
                columns[column] += numbers
                shown = text(numbers, "+" if column == "gain" else "")
                cells.append(("page" if page and not numbers else shown, page))
        rows.append({"name": seed, "cells": cells})
    means = {column: text(numbers, "+" if column == "gain" else "") for column, numbers in columns.items()}
    rows.append({"name": "mean", "cells": [(mean, None) for mean in means.values()]})
    headline = []
    how = "Each figure leads to the page of its net."
    if figure is not None:
        how = f"{name[0].upper()}{name[1:]}; mean ± sample standard deviation, labels drawn anew for each round. {how}"
        headline = [(means["SWWAE"], name)]
        if twins:
            how += " The twin: same net and seed, every λ but that of NLL 0; a gain is its figure less the SWWAE's."
            headline.append((means["twin"], f"{name} of the twins"))
        if columns.get("gain"):
            better = sum(gain > 0 for gain in columns["gain"])
            headline.append((means["gain"], f"paired gain; better in {better} of {len(columns['gain'])}"))
    return {"how": how, "columns": list(columns), "rows": rows}, headline


# --- parts of both ---------------------------------------------------------------------------------------


def _render(home: Path, config: RunConfig, start: float, notes: list[str], **parts: Any) -> Path:
    about = _or_note(read_provenance, home / "run.json", notes) or {}
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("swwae_zoo.publish", "."), autoescape=True, undefined=jinja2.StrictUndefined
    )
    given = {"rounds": None, "judged": None, "reconstructions": None, **parts}
    again = shlex.join(["swwae", "train", "--recipe", str(home / "config.toml"), "--out", f"{home}-again"])
    text = environment.get_template("report.html.jinja").render(
        title=printable(f"{home.name or 'run'}: {config.model} on {config.data}", 120),
        notes=notes,
        facts=_facts(config, about),
        again=printable(again, 4000),
        recipe=_deviations(config),
        made=f"Written by swwae_zoo in {time.perf_counter() - start:.1f} s; it needs no other file and no network.",
        **given,
    )
    page = home / PAGE
    with atomic_write(page) as part:
        part.write_text(text, encoding="utf-8")
    return page


def _facts(config: RunConfig, about: dict[str, Any]) -> list[tuple[str, str]]:
    machine, versions = about.get("machine") or {}, about.get("versions") or {}
    labels = f"{config.num_labels:,} labels" if config.num_labels else "all labels"
    seeds = ", ".join(str(seed) for seed in range(config.seed, config.seed + config.rounds))
    facts = {
        "model": config.model,
        "data": f"{config.data}, {labels}; unlabelled: {config.unlabeled}; {config.num_val:,} held out for validation",
        "seeds": seeds,
        "command": about.get("command"),
        "commit": about.get("commit"),
        "versions": ", ".join(f"{name} {version}" for name, version in versions.items()),
        "machine": ", ".join(
            f"{value} {name}" if name in ("cores", "threads") else str(value)
            for name, value in machine.items()
            if value
        ),
    }
    return [(name, printable(value, 4000)) for name, value in facts.items() if value]


def _deviations(config: RunConfig) -> str:
    """The keys that are not at their defaults, as a recipe has them; tables last."""
    lines, tables = [], []
    for key in fields(config):
        default = key.default if key.default_factory is MISSING else key.default_factory()
        value = getattr(config, key.name)
        if value == default:
            continue
        if isinstance(value, dict):
            tables += ["", f"[{key.name}]", *(toml_line(name, each) for name, each in value.items())]
        else:
            lines.append(toml_line(key.name, value))
    return "\n".join([*lines, *tables]).strip()


def _metrics(home: Path, classifies: bool) -> list[dict[str, Any]]:
    """Lines of metrics.jsonl, of which finite numbers alone are kept; no error of a head that never learnt."""
    lines = []
    for line in RunDirectory(home, resume=True).metrics():
        lines.append(
            {
                key: value
                for key, value in line.items()
                if type(value) in (int, float) and math.isfinite(value) and (classifies or key != "val_error")
            }
        )
    return [line for line in lines if "step" in line]


def _or_note(read: Callable[[Path], Any], path: Path, notes: list[str]) -> Any:
    """What ``read`` finds; None, and a line for the page, where the file is not as it was written."""
    try:
        return read(path)
    except (ValueError, OSError) as error:
        notes.append(printable(error, 300))
        return None


def _is_twin(home: Path) -> bool:
    return home.name.endswith("-twin")


def _above(home: Path) -> Path | None:
    """The folder of all rounds that this one belongs to."""
    above = Path(os.path.abspath(home)).parent
    is_round = re.fullmatch(r"seed\d+(-twin)?", Path(os.path.abspath(home)).name)
    return home.parent if is_round and home.name and (above / "config.toml").is_file() else None


def _duration(seconds: float) -> str:
    for unit, size in (("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} s"
