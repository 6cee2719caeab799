"""Image data sets of the Hugging Face Hub, through the `datasets` library: `hf:ORG/NAME[@REVISION][:CONFIG]`."""

from __future__ import annotations

import logging
import os
import re
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import parse_qsl

import numpy as np
import torch
from torch import Tensor

from swwae_zoo.data.bounds import checked_labels
from swwae_zoo.data.readers.parquet import IMAGES, LABELS, decoded
from swwae_zoo.data.readers.pictures import check_range, refuse_or_skip
from swwae_zoo.data.readers.shelf import Shelf
from swwae_zoo.data.split_names import split_of_file
from swwae_zoo.data.types import Images, NoSuchSplit, Request
from swwae_zoo.utils.text import printable

logger = logging.getLogger(__name__)

FORM = "hf:ORG/NAME[@REVISION][:CONFIG][?image=COLUMN&label=COLUMN]"
_SPEC = re.compile(
    r"(?P<repo>[\w.-]+/[\w.-]+)(?:@(?P<revision>[\w./-]+))?(?::(?P<config>[^?]+))?(?:\?(?P<columns>.+))?", re.ASCII
)
_COMMIT = re.compile(r"[0-9a-f]{40}")
_UNKNOWN = 1 << 62  # images of a set that does not say how many it has


class Place(NamedTuple):
    """A spec taken apart; "" is what it leaves out."""

    repo: str
    revision: str = ""
    config: str = ""
    image: str = ""
    label: str = ""


def parse(spec: str) -> Place:
    """`parse("hf:ann/pets@v1:small?label=breed")`.

    Raises:
        ValueError: another form.
    """
    match = _SPEC.fullmatch(spec.removeprefix("hf:"))
    columns = dict(parse_qsl(match["columns"] or "", keep_blank_values=True)) if match else {}
    if match is None or set(columns) - {"image", "label"} or ("?" in spec and not columns):
        raise ValueError(f"got {spec!r}, expected {FORM}, the name as the data set's page has it")
    return Place(match["repo"], match["revision"] or "", match["config"] or "", **columns)


def pinned(spec: str) -> str:
    """The spec with the commit that its revision is now, so that it names the same images for ever.

    Any other source's spec is returned as it is, and so is one that names a commit.

    Raises:
        ValueError: no such data set or revision, no access, no network; in one line.
    """
    if spec.partition(":")[0] != "hf":
        return spec
    place = parse(spec)
    if _COMMIT.fullmatch(place.revision):
        return spec
    _library()
    from huggingface_hub import HfApi

    with _explained(place):
        commit = HfApi(library_name="swwae_zoo").dataset_info(place.repo, revision=place.revision or None).sha
    if not commit or not _COMMIT.fullmatch(commit):
        raise ValueError(f"{place.repo}: the Hub names no commit for it: HF_ENDPOINT may be no Hub")
    named = f"hf:{place.repo}" + (f"@{place.revision}" if place.revision else "")
    return f"hf:{place.repo}@{commit}{spec.removeprefix(named)}"


def unpinned(spec: str) -> str:
    """The spec without the commit: `unpinned(pinned(spec)) == spec` for one that names no revision."""
    return re.sub(r"^(hf:[^@:?]+)@[0-9a-f]{40}", r"\1", spec)


def hf(request: Request) -> Images:
    """Images of one split of a data set on the Hub, in the order that `datasets` gives them.

    Splits belong to ours by `split_names.py`; a split of another name is training data where none is called so, and
    unlabelled data always. A set that fits in memory is downloaded once to the library's cache; one that does not is
    read as it comes from the Hub and unpacked to a store.

    Raises:
        ValueError: no `datasets` library, no such data set, revision, configuration or column, several columns to
            choose from, no access, no network, unreadable images, unequal sizes.
        NoSuchSplit: no test or validation images.
    """
    request = request._replace(spec=pinned(request.spec))
    place = parse(request.spec)
    datasets = _library()
    with _explained(place):
        builder = _builder(datasets, place)
        splits = _splits_of(builder)
    names = _wanted(place, splits, request.split)
    key = Path("/", request.spec, request.split)  # a path like no other: the shelf names its file by it
    with Shelf(request, [key]) as shelf:
        images = shelf.found()
        if images is None:
            with _explained(place):
                streams = _is_large(builder, place, names, request)
                rows = [_opened(builder, name, streams) for name in names]
                image_key, label_key = _columns(rows[0].features, place, request.split)
                expected = _UNKNOWN if streams else sum(len(part) for part in rows)
                kept = [key for key in (image_key, label_key) if key]
                parts = [_undecoded(datasets, part.select_columns(kept), image_key) for part in rows]
                cells = _fill(shelf, request, (row for part in parts for row in part), image_key, label_key, expected)
                if not shelf.count:
                    raise ValueError(f"{request.spec} holds no images")
                feature = rows[0].features[label_key] if label_key else None
                classes = lambda: _text_classes(builder, place, splits, label_key, streams)  # noqa: E731
                labels, class_names = _labels(datasets, request, cells, feature, classes)
            images = shelf.close(labels, class_names)
    images.notes = (f"{request.spec} ({', '.join(names)}): {images.count:,} images",)
    return images


# --- the library, and what it raises ----------------------------------------------------------------------


def _library() -> Any:
    try:
        import datasets
    except ImportError:
        raise ValueError("hf: needs datasets: pip install 'swwae_zoo[hf]'") from None
    if not sys.stderr.isatty():
        datasets.disable_progress_bars()
    return datasets


@contextmanager
def _explained(place: Place) -> Iterator[None]:
    """What the Hub and the library refuse, in one line of our own: theirs may hold addresses, and a token."""
    try:
        yield
    except ValueError as error:
        if type(error) is ValueError or isinstance(error, NoSuchSplit):
            line = _line(error, place)
            raise (error if line is None else ValueError(line)) from None
        raise ValueError(_line(error, place) or _other(error, place)) from None
    except (KeyboardInterrupt, MemoryError):
        raise
    except Exception as error:
        raise ValueError(_line(error, place) or _other(error, place)) from None


def _line(error: BaseException, place: Place) -> str | None:
    """What to do about a known error, or about what it was raised from."""
    from huggingface_hub import constants, get_token
    from huggingface_hub import errors as hub

    causes: list[BaseException] = []
    cause: BaseException | None = error
    while cause is not None and cause not in causes:
        causes.append(cause)
        cause = cause.__cause__ or cause.__context__
    text = " ".join(str(cause) for cause in causes)
    names = {base.__name__ for cause in causes for base in type(cause).__mro__}
    login = "`hf auth login` stores a token, or set HF_TOKEN"
    repo, status = place.repo, next((c.response.status_code for c in causes if isinstance(c, hub.HfHubHTTPError)), None)
    if "scripts are no longer supported" in text:
        return (
            f"{repo} is a data set with a loading script, which is not run: use one with Parquet files, or try "
            f"hf:{repo}@refs/convert/parquet"
        )
    if constants.HF_HUB_OFFLINE and names & {"OfflineModeIsEnabled", "ConnectionError", "FileNotFoundError"}:
        return (
            f"{repo}: HF_HUB_OFFLINE is set, and what is needed is not in the cache: unset it, or name the commit "
            "of an earlier run (hf:ORG/NAME@COMMIT, as its config.toml has it)"
        )
    if "GatedRepoError" in names or "gated dataset" in text:
        how = "ask for access on its page" + ("" if get_token() else f", and give a token ({login})")
        return f"{repo} is gated, and this account has no access to it: {how}"
    if "RevisionNotFoundError" in names or "doesn't exist on the Hub" in text and "Revision" in text:
        return f"{repo} has no revision {place.revision or 'main'!r}: give a branch, tag or commit that it has"
    if status == 401 and get_token() and "RepositoryNotFoundError" not in names:
        return f"{repo}: the Hub refused the token: it is wrong or was withdrawn; {login}"
    if names & {"RepositoryNotFoundError", "DatasetNotFoundError", "HFValidationError"}:
        seen = "this token may not see it" if get_token() else f"no token was given ({login})"
        return f"there is no data set {repo} on the Hub, or it is private and {seen}: check the name"
    if "EmptyDatasetError" in names or "DataFilesNotFoundError" in names:
        return f"{repo} holds no data files that `datasets` reads: expected Parquet files or folders of images"
    if status is not None:
        return f"{repo}: the Hub refused with HTTP {status}: try again later"
    if (
        names & {"ConnectError", "ConnectionError", "TimeoutException", "TransportError", "RequestException"}
        or "Couldn't reach" in text
    ):
        return f"{repo}: the Hub does not answer: check the network, and run it again"
    return None


def _other(error: BaseException, place: Place) -> str:
    """An error with no line of its own: its kind, and its text less what could be a token or a signed address."""
    text = re.sub(r"hf_\w{4,}|Bearer \S+|(?<=\?)\S+", "<hidden>", " ".join(str(error).split()))
    return f"{place.repo}: {type(error).__name__}: {printable(text, 300)}"


# --- what of a data set is read ---------------------------------------------------------------------------


def _builder(datasets: Any, place: Place) -> Any:
    names = datasets.get_dataset_config_names(place.repo, revision=place.revision)
    default = datasets.get_dataset_default_config_name(place.repo, revision=place.revision)
    config = place.config or default or (names[0] if len(names) == 1 else "")
    if config not in names:
        listed = ", ".join(printable(name, 60) for name in names[:20])
        got = f"it has none called {place.config!r}" if place.config else "none was named"
        raise ValueError(f"{place.repo} has the configurations {listed}, and {got}: write hf:{place.repo}:CONFIG")
    return datasets.load_dataset_builder(place.repo, config, revision=place.revision)


def _splits_of(builder: Any) -> list[str]:
    """Names of its splits, from its card or its files."""
    if builder.info.splits:
        return [str(name) for name in builder.info.splits]
    return [str(name) for name in builder.config.data_files or ()]


def _wanted(place: Place, splits: list[str], split: str) -> list[str]:
    """Which of its splits make up one of ours; as for `parquet:`, a set without test images is judged by `val`."""
    ours = {name: split_of_file(Path(name)) for name in splits}
    kinds = set(ours.values())
    train = ("train",) if "train" in kinds else (None,)
    wanted = {"train": train, "unlabeled": ("train", "unlabeled", None), "val": ("val",), "test": ("test",)}
    if "test" not in kinds:
        wanted |= {"test": ("val",), "val": ()}
    found = [name for name in splits if ours[name] in wanted[split]]
    if not found:
        kind = NoSuchSplit if split in ("test", "val") else ValueError
        raise kind(f"{place.repo} has no {split} images; its splits are {', '.join(printable(s, 60) for s in splits)}")
    return found


def _is_large(builder: Any, place: Place, names: list[str], request: Request) -> bool:
    """Whether the decoded images, or the files where the card does not say how many they are, exceed the limit."""
    if request.limit == float("inf"):
        return False
    counts = [builder.info.splits[name].num_examples for name in names] if builder.info.splits else [0]
    if all(counts) and request.img_size is not None:
        return sum(counts) * request.img_size[0] * request.img_size[1] * (request.in_chans or 3) > request.limit
    from huggingface_hub import HfApi, constants

    if constants.HF_HUB_OFFLINE:  # what is in the cache was downloaded
        return False
    info = HfApi().dataset_info(place.repo, revision=place.revision, files_metadata=True)
    return sum(file.size or 0 for file in info.siblings or ()) > request.limit


def _opened(builder: Any, name: str, streams: bool) -> Any:
    if streams:
        rows = builder.as_streaming_dataset(split=name)
        return rows if rows.features else rows._resolve_features()  # of files whose card does not list their columns
    builder.download_and_prepare()
    return builder.as_dataset(split=name)


def _columns(features: Any, place: Place, split: str) -> tuple[str, str | None]:
    """The image column, and the label column where there is one and labels are asked for."""
    kinds = {name: type(feature).__name__ for name, feature in features.items()}
    images = [name for name, kind in kinds.items() if kind == "Image"]
    images = images or [name for name in kinds if name.lower() in IMAGES]
    image = _chosen(place, "image", images, list(kinds))
    if image is None:
        raise ValueError(
            f"{place.repo} has no image column: its columns are {_listed(kinds)}; "
            f"name one as hf:{place.repo}?image=COLUMN"
        )
    if split == "unlabeled":
        return image, None
    labels = [name for name, kind in kinds.items() if kind == "ClassLabel"]
    if not labels:
        scalar = [name for name, feature in features.items() if _is_scalar(feature)]
        labels = [name for name in scalar if name.lower() in (*LABELS, "target", "category")]
    label = _chosen(place, "label", labels, list(kinds))
    if label is not None and kinds[label] != "ClassLabel" and not _is_scalar(features[label]):
        raise ValueError(f"{place.repo}: column {label!r} is {kinds[label]}, expected classes, whole numbers or text")
    return image, label


def _chosen(place: Place, what: str, candidates: list[str], columns: list[str]) -> str | None:
    named = getattr(place, what)
    if named:
        if named not in columns:
            raise ValueError(f"{place.repo} has no column {named!r}; expected one of {_listed(columns)}")
        return named
    if len(candidates) > 1:
        raise ValueError(
            f"{place.repo} has {len(candidates)} {what} columns, {_listed(candidates)}: choose one, such as "
            f"hf:{place.repo}?{what}={printable(candidates[0], 60)}"
        )
    return candidates[0] if candidates else None


def _listed(names: Iterable[str]) -> str:
    return ", ".join(printable(name, 60) for name in names)


def _is_scalar(feature: Any) -> bool:
    kind = getattr(feature, "dtype", "")
    return type(feature).__name__ == "Value" and ("int" in kind or kind in ("string", "large_string", "bool"))


def _undecoded(datasets: Any, rows: Any, image_key: str) -> Any:
    """Rows with the images as the files have them: `read_picture` is who decodes here."""
    if not isinstance(rows.features[image_key], datasets.Image):
        return rows
    return rows.decode(False) if hasattr(rows, "decode") else rows.cast_column(image_key, datasets.Image(decode=False))


# --- reading ----------------------------------------------------------------------------------------------


def _fill(
    shelf: Shelf, request: Request, rows: Iterable[dict[str, Any]], image_key: str, label_key: str | None, expected: int
) -> list[Any]:
    """Puts every readable image on the shelf -> their labels, if there are any."""
    repo = parse(request.spec).repo
    cells, bad, used, total = [], [], 0.0, 0
    for total, row in enumerate(rows, 1):
        try:
            picture = decoded(f"image {total - 1}", _with_bytes(row[image_key], repo), request)
        except ValueError as error:
            bad.append(str(error))
            continue
        if shelf.count and picture.pixels.shape != shelf.shape:
            _, height, width = picture.pixels.shape
            raise ValueError(
                f"{request.spec}: images of {height}x{width} and {shelf.shape[1]}x{shelf.shape[2]} "
                "(height x width); expected one size: pass img_size, and they are scaled and cropped to it"
            )
        used = max(used, picture.used)
        shelf.add(picture.pixels, expected)
        if label_key:
            cells.append(row[label_key])
    refuse_or_skip(bad, total, request.spec, request.bad_images == "skip" and shelf.count > 0)
    if shelf.count:
        check_range(used, request.spec)
    return cells


def _with_bytes(cell: Any, repo: str) -> Any:
    """An image that the set keeps as a file beside its table: what is in that file, here or on the Hub.

    A table may name any file of this machine or any address, so only the set's own files are opened.
    """
    if not isinstance(cell, dict) or cell.get("bytes") is not None or not cell.get("path"):
        return cell
    from datasets.utils.file_utils import xopen

    path = str(cell["path"])
    archive = path.rpartition("::")[2]  # zip://IMAGE::ARCHIVE
    if not (archive.startswith(f"hf://datasets/{repo}@") or _in_cache(archive)):
        return {"bytes": None}
    with xopen(path, "rb") as file:
        return {"bytes": file.read()}


def _in_cache(path: str) -> bool:
    """Whether a file lies where the library puts its downloads."""
    from datasets import config
    from huggingface_hub import constants

    caches = [config.HF_DATASETS_CACHE, config.DOWNLOADED_DATASETS_PATH, constants.HF_HUB_CACHE]
    real = os.path.realpath(path)
    return any(real.startswith(os.path.realpath(cache) + os.sep) for cache in caches)


def _labels(
    datasets: Any, request: Request, cells: list[Any], feature: Any, text_classes: Any
) -> tuple[Tensor | None, tuple[str, ...]]:
    """Labels and class names; None where the set withholds them, as -1 or as nothing, for its test images."""
    if feature is None or request.split == "test" and all(cell in (None, -1) for cell in cells):
        return None, ()
    if None in cells or isinstance(feature, datasets.ClassLabel) and -1 in cells:
        raise ValueError(f"{request.spec}: labels are missing ({request.split}); expected one for each image")
    if isinstance(feature, datasets.ClassLabel):
        labels = checked_labels(f"{request.spec}: the labels", np.array(cells))
        return labels, tuple(feature.names)
    if isinstance(cells[0], str):
        order = {name: label for label, name in enumerate(text_classes())}
        strange = next((cell for cell in cells if cell not in order), None)
        if strange is not None:
            raise ValueError(f"{request.spec}: {request.split} image of class {strange!r}, which is no training class")
        return torch.tensor([order[cell] for cell in cells]), tuple(order)
    labels = checked_labels(f"{request.spec}: the labels", np.array(cells, np.int64))
    return labels, tuple(map(str, range(int(labels.max()) + 1)))


def _text_classes(builder: Any, place: Place, splits: list[str], label_key: str | None, streams: bool) -> list[str]:
    """Classes of labels that are text: those of the training images, sorted, whatever split is read."""
    found: set[str] = set()
    for name in _wanted(place, splits, "train"):
        found.update(row[label_key] for row in _opened(builder, name, streams).select_columns([label_key]))
    found.discard(None)  # pyright: ignore[reportArgumentType]
    return sorted(found)
