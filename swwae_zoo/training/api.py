"""`train`: what `swwae train` does, from Python, on data sets by name and on images that are there already."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from swwae_zoo.config import RunConfig, default_recipe, merge, read_recipe
from swwae_zoo.data import Images, ImageSet
from swwae_zoo.models._registry import check_model_name
from swwae_zoo.training.build import input_shape
from swwae_zoo.training.choices import size_for
from swwae_zoo.training.places import rounds_in
from swwae_zoo.training.rounds import out_of, train_rounds
from swwae_zoo.utils.files import user_path

if TYPE_CHECKING:
    from swwae_zoo.models import SWWAE

__all__ = ["Run", "train"]

LABELED, UNLABELED = "python:data", "python:unlabeled"
IMAGE_COLUMNS, LABEL_COLUMNS = ("image", "img"), ("label", "labels", "fine_label")


@dataclass(frozen=True)
class Run:
    """A finished training.

    Attributes:
        path: its run directory.
        results: one dict for each net that was trained, as in result.json: "val_error", "test_error" (%), ...
    """

    path: Path
    results: list[dict[str, Any]]

    @property
    def model(self) -> SWWAE:
        """The trained net (of several rounds the first one's), in eval mode, on the CPU."""
        import timm

        rounds = rounds_in(self.path)
        folder = (rounds[0] if rounds else self.path) / "last"
        return timm.create_model(f"local-dir:{folder}", pretrained=True).eval()  # pyright: ignore[reportReturnType]

    def report(self) -> Path:
        """Writes the run's page, one self-contained HTML file, and gives its path."""
        from importlib import import_module  # a layer above this one

        return import_module("swwae_zoo.publish.report").write_report(self.path)


def train(
    model: str | None = None,
    data: Any = None,
    unlabeled: Any = None,
    *,
    backbone: str | None = None,
    recipe: str | Path | None = None,
    resume: bool = False,
    force: bool = False,
    **options: Any,
) -> Run:
    """Trains a model: `run = swwae_zoo.train(model="swwae_svhn", data="folder:pets", unlabeled="folder:more")`.

    Args:
        model: a registered name.
        data: labelled images: a data set by name ("mnist", "folder:PATH", ...); a pair of a uint8 tensor (N, C, H, W)
            and labels (N,); a `torch.utils.data.Dataset` of (PIL image or tensor, label); or a `datasets.Dataset` of
            Hugging Face with an image and a label column.
        unlabeled: as ``data``, "same" or "none"; a tensor without labels as well; labels are not looked at.
        backbone: a timm backbone to wrap, in place of ``model``.
        recipe: name or path; else the model's own.
        resume: go on with the run in ``out``, which must be given the same images.
        force: start over in a folder that already holds a run.
        options: any key of a recipe (`swwae_zoo.config.RunConfig`): steps, lr, out, model_args, ...

    Raises:
        ValueError: anything that can be set right, in one line.
        Stopped: Ctrl-C; `resume` goes on.
    """
    if backbone is not None:
        if model not in (None, "swwae_wrap"):
            raise ValueError(f"got model {model!r} and backbone {backbone!r}: expected one of them")
        model, options["model_args"] = "swwae_wrap", {**options.get("model_args", {}), "backbone": backbone}
    given: dict[str, Images] = {}
    overrides: dict[str, Any] = {**options, "model": model}
    sources = {"data": (data, LABELED), "unlabeled": (unlabeled, UNLABELED)}
    for key, (source, spec) in sources.items():
        overrides[key] = source if source is None or isinstance(source, str) else spec
    if recipe is None and resume and options.get("out"):
        recipe = user_path(options["out"]) / "config.toml"
    name = model or RunConfig.model
    if recipe is None:
        check_model_name(name)
        recipe = default_recipe(name)
    config = merge(None if recipe is None else read_recipe(recipe), overrides, adapt=not resume)
    for key, (source, spec) in sources.items():
        if source is not None and not isinstance(source, str):
            given[spec] = images_of(source, key, spec, config, labeled=key == "data")
    results = train_rounds(config, resume=resume, force=force, given=given)
    return Run(out_of(config), results)


def images_of(source: Any, key: str, spec: str, config: RunConfig, labeled: bool) -> ImageSet:
    """Images and labels of whatever ``train`` takes, in memory, all of one size.

    Raises:
        ValueError: another kind of object, or images and labels that do not fit; one line that begins with ``key``.
    """
    if isinstance(source, (Tensor, np.ndarray)):
        source = (source, None)
    if isinstance(source, (tuple, list)) and len(source) == 2 and isinstance(source[0], (Tensor, np.ndarray)):
        images, labels = torch.as_tensor(source[0]), source[1]
        names: tuple[str, ...] = ()
    elif hasattr(source, "__getitem__") and hasattr(source, "__len__"):
        images, labels, names = _of_items(source, key, config, labeled)
    else:
        raise ValueError(
            f"{key}: got a {type(source).__name__}, expected a data set's name, (images, labels) as tensors, or a "
            "Dataset of torch or Hugging Face"
        )
    if images.dtype != torch.uint8 or images.ndim != 4 or not len(images):
        raise ValueError(f"{key}: got images {tuple(images.shape)} of {images.dtype}, expected uint8 (N, C, H, W)")
    if not labeled:
        return ImageSet(spec, images)
    if labels is None:
        raise ValueError(f"{key}: got images without labels, expected (images, labels); or give them as unlabeled")
    numbers = torch.as_tensor(labels)
    if numbers.ndim != 1 or len(numbers) != len(images) or numbers.is_floating_point() or int(numbers.min()) < 0:
        raise ValueError(
            f"{key}: got labels {tuple(numbers.shape)} of {numbers.dtype} for {len(images)} images, expected one whole "
            "number of at least 0 for each"
        )
    count = int(numbers.max()) + 1
    names = names if len(names) >= count else tuple(map(str, range(count)))
    return ImageSet(spec, images.contiguous(), numbers.long(), names)


def _of_items(
    source: Any, key: str, config: RunConfig, labeled: bool
) -> tuple[Tensor, list[int] | None, tuple[str, ...]]:
    """Of a Dataset: an item is a pair, an image, or a dict with columns for both."""
    size: tuple[int, int] | None = None
    pixels: list[Tensor] = []
    labels: list[int] = []
    for place in range(len(source)):
        item = source[place]
        image, label = _pair(item, key)
        if labeled and label is None:
            raise ValueError(f"{key}: image {place} has no label, expected (image, label)")
        picture = _pixels(image, f"{key}: image {place}")
        if size is None:
            size = _size(config, picture)
        if size is not None and tuple(picture.shape[1:]) != size:
            picture = torch.from_numpy(np.array(_fitted(picture, size))).reshape(*size, -1).permute(2, 0, 1)
        if pixels and picture.shape != pixels[0].shape:
            raise ValueError(
                f"{key}: image {place} is {tuple(picture.shape)} and the first {tuple(pixels[0].shape)}: expected one "
                "size and number of channels"
            )
        pixels.append(picture)
        if labeled:
            labels.append(int(label))
    if not pixels:
        raise ValueError(f"{key}: got an empty data set")
    return torch.stack(pixels), labels if labeled else None, _names(source)


def _pair(item: Any, key: str) -> tuple[Any, Any]:
    if isinstance(item, Mapping):
        image = next((item[name] for name in IMAGE_COLUMNS if name in item), None)
        label = next((item[name] for name in LABEL_COLUMNS if name in item), None)
        if image is None:
            raise ValueError(f"{key}: got the columns {', '.join(map(str, item))}, expected image and label")
        return image, label
    return (item[0], item[1]) if isinstance(item, (tuple, list)) else (item, None)


def _pixels(image: Any, what: str) -> Tensor:
    """(C, H, W) uint8 of a PIL image, or of a tensor: floats from 0 to 1 as torchvision's ToTensor gives them."""
    if isinstance(image, Image.Image):
        image = image if image.mode in ("L", "RGB") else image.convert("RGB")
        array = np.array(image)
        return torch.from_numpy(array).reshape(*array.shape[:2], -1).permute(2, 0, 1).contiguous()
    if isinstance(image, Tensor) and image.ndim == 3:
        if image.dtype == torch.uint8:
            return image
        if image.is_floating_point() and float(image.min()) >= 0 and float(image.max()) <= 1:
            return (image * 255).round().to(torch.uint8)
        raise ValueError(f"{what}: got {image.dtype} values, expected uint8, or floats from 0 to 1 (not normalised)")
    raise ValueError(f"{what}: got a {type(image).__name__}, expected a PIL image or a tensor (C, H, W)")


def _size(config: RunConfig, first: Tensor) -> tuple[int, int] | None:
    """The size that every image is brought to: the model's, or for a backbone that names none, by the first image."""
    if config.model == "swwae_wrap" and not config.model_args.get("img_size"):
        size = size_for([(int(first.shape[1]), int(first.shape[2]))])
        return (size, size) if isinstance(size, int) else (size[0], size[1]) if size else None
    _, height, width = input_shape(config)
    return height, width


def _fitted(picture: Tensor, size: tuple[int, int]) -> Image.Image:
    from PIL import ImageOps

    array = picture.permute(1, 2, 0).numpy()
    image = Image.fromarray(array[:, :, 0] if array.shape[2] == 1 else array)
    return ImageOps.fit(image, size[::-1], Image.Resampling.BILINEAR)


def _names(source: Any) -> tuple[str, ...]:
    """Of the classes: `classes` of torchvision's data sets, or the names of Hugging Face's ClassLabel."""
    features = getattr(source, "features", None)
    if isinstance(features, Mapping):
        found = next((features[name] for name in LABEL_COLUMNS if name in features), None)
        return tuple(getattr(found, "names", None) or ())
    return tuple(map(str, getattr(source, "classes", None) or ()))
