"""How a loaded model wants its images: uint8 tensors of a data set, or pictures of any kind and size."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from swwae_zoo.data import Preprocess
from swwae_zoo.data.readers.pictures import check_range, open_picture, pixels_of
from swwae_zoo.data.transforms import MIN_PADDABLE
from swwae_zoo.data.types import with_channels
from swwae_zoo.models._data_config import contrast_of
from swwae_zoo.utils.files import user_path
from swwae_zoo.utils.text import printable

__all__ = ["PictureLike", "Transform", "preprocess_of", "transform_of"]

PictureLike: TypeAlias = "str | os.PathLike[str] | Image.Image | np.ndarray | Tensor"


def preprocess_of(model: nn.Module) -> Preprocess:
    """uint8 images -> the input a model was trained on, contrast normalisation included, which timm's transforms lack.

    Args:
        model: one of ours, made by `timm.create_model`.
    """
    net: Any = model
    cfg: dict[str, Any] = net.pretrained_cfg
    size: tuple[int, int] = tuple(getattr(net, "img_size", cfg["input_size"][1:]))
    return Preprocess(size, mean=cfg["mean"], std=cfg["std"], contrast=contrast_of(cfg))


def transform_of(model: nn.Module) -> Transform:
    """The transform of one of our models, made by `timm.create_model` or trained; see `Transform`."""
    net: Any = model
    return Transform(preprocess_of(net), net.in_chans, net.pretrained_cfg)


class Transform:
    """Pictures -> a model's input, as its training and its evaluation prepare images.

    A picture is a path, a `PIL.Image`, a uint8 tensor `(C, H, W)`, or a uint8 array `(H, W)` or `(H, W, C)`. One
    picture gives `(C, S, T)` float32; a list of pictures, a tensor `(B, C, H, W)` or an array `(B, H, W, C)` gives
    `(B, C, S, T)`. The result is on the CPU, or where the tensors were.

    A file is turned as its EXIF says, transparency becomes white, and colours become grey (or the other way round) as
    the model needs. Then, as the model's pretrained_cfg says that its training images were fitted:

    - "center" (stored in the model's own size, as a folder's images are read): scaled to cover that size, cropped to
      its centre.
    - "border" (stored smaller, and padded with zeros: MNIST): the same with the stored size, then padded.
    - "squash" (stored in another size): scaled to the model's size, whatever the shape.

    Args:
        prepare: of the model, see `preprocess_of`.
        in_chans: of the model.
        cfg: the model's pretrained_cfg.
    """

    def __init__(self, prepare: Preprocess, in_chans: int, cfg: dict[str, Any]):
        self.prepare, self.in_chans = prepare, in_chans
        self._mode, self._pct = cfg.get("crop_mode") or "center", float(cfg.get("crop_pct") or 1.0)

    @property
    def stored_size(self) -> tuple[int, int]:
        """(H, W) to which images that have no common size are read, before they are prepared."""
        height, width = self.prepare.img_size
        if self._mode != "border":
            return height, width
        return max(1, math.floor(height / self._pct)), max(1, math.floor(width / self._pct))

    def __call__(self, pictures: PictureLike | Sequence[PictureLike]) -> Tensor:
        """Pictures -> `(C, S, T)` or `(B, C, S, T)`; see the class.

        Raises:
            ValueError: a file that is no readable image, another type, shape or number of channels; one line.
        """
        single, each = is_single(pictures), list(self.pixels(pictures))
        batch = self.prepare.normalise(self.fit(each))
        return batch[0] if single else batch

    def pixels(self, pictures: PictureLike | Sequence[PictureLike]) -> Iterator[Tensor]:
        """Each picture as `(C, h, w)` uint8 in the model's channels, cropped to what is prepared of it.

        One that is much larger than the model's input, and is scaled as a whole, is `fit` at once: `(C, S, T)` floats.
        """
        height, width = self.prepare.img_size
        for picture in _each(pictures):
            pixels = self._pixels(picture)
            is_large = pixels.shape[1] * pixels.shape[2] > 4 * height * width
            yield self.prepare.fit(pixels[None])[0] if is_large else pixels

    def fit(self, pixels: Sequence[Tensor], device: torch.device | None = None) -> Tensor:
        """What `pixels` gave, one or more -> `(B, C, S, T)` from 0 to 1 on ``device``, not normalised yet."""
        if not pixels:
            raise ValueError("got an empty list of pictures, expected at least one")
        alike = len({(each.shape, each.dtype) for each in pixels}) == 1
        parts = [torch.stack(list(pixels))] if alike else [each[None] for each in pixels]
        parts = [part.to(device or part.device) for part in parts]
        return torch.cat([part if part.is_floating_point() else self.prepare.fit(part) for part in parts])

    def _pixels(self, picture: PictureLike) -> Tensor:
        if isinstance(picture, Tensor):
            return self._of_tensor(picture)
        if isinstance(picture, np.ndarray):
            return self._of_tensor(_tensor_of(picture))
        if self.in_chans not in (1, 3):
            raise ValueError(
                f"got a picture for a model of {self.in_chans} channels: expected a uint8 tensor of as many channels"
            )
        if isinstance(picture, Image.Image):
            return self._of_image(picture, "the picture")
        return self._of_image(user_path(picture), printable(os.fspath(picture)))

    def _of_image(self, picture: Path | Image.Image, name: str) -> Tensor:
        try:
            image, used = open_picture(picture, self.in_chans == 1)
            check_range(used, "read")
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from error
        return torch.from_numpy(pixels_of(image, self._size_for(image.height, image.width)))

    def _of_tensor(self, image: Tensor) -> Tensor:
        if image.dtype != torch.uint8 or image.ndim != 3:
            raise ValueError(
                f"got a tensor of {image.dtype} and shape {tuple(image.shape)}, expected torch.uint8 (0 to 255) and "
                "(C, H, W) or (B, C, H, W)"
            )
        channels, height, width = image.shape
        if channels != self.in_chans and (channels, self.in_chans) not in ((1, 3), (3, 1)):
            raise ValueError(
                f"got a picture of {channels} channels for a model of {self.in_chans}: expected 1 (grey), 3 (RGB), or "
                "as many as the model has; arrays have their channels last, tensors first"
            )
        if min(height, width) == 0:
            raise ValueError(f"got a picture of {height}x{width} pixels, expected at least one")
        image = with_channels(image[None], self.in_chans)[0]
        size = self._size_for(height, width)
        if size in (None, (height, width)) or self.in_chans not in (1, 3):
            return image  # other channels than a picture's: only scaled
        array = image.cpu().permute(1, 2, 0).squeeze(2) if self.in_chans == 1 else image.cpu().permute(1, 2, 0)
        return torch.from_numpy(pixels_of(Image.fromarray(array.numpy()), size)).to(image.device)

    def _size_for(self, height: int, width: int) -> tuple[int, int] | None:
        """(H, W) that a picture is scaled and cropped to before it is prepared; None leaves it as it is."""
        if self._mode == "squash":
            return None
        size = self.stored_size
        have = (height, width)
        if self._mode == "border" and any(h == s for h, s in zip(have, size, strict=True)):
            wanted = self.prepare.img_size  # images that are not square fill the border's square on one side alone
            if all(MIN_PADDABLE * w <= h <= s for h, s, w in zip(have, size, wanted, strict=True)):
                return None
        return size


def is_single(pictures: PictureLike | Sequence[PictureLike]) -> bool:
    """Whether it is one picture, and no batch or list."""
    if isinstance(pictures, Tensor):
        return pictures.ndim == 3
    if isinstance(pictures, np.ndarray):
        return pictures.ndim in (2, 3)
    return isinstance(pictures, (str, os.PathLike, Image.Image))


def _each(pictures: PictureLike | Sequence[PictureLike]) -> Iterator[PictureLike]:
    if is_single(pictures):
        yield pictures  # type: ignore[misc]
    elif isinstance(pictures, (Tensor, np.ndarray)) and pictures.ndim == 4:
        yield from pictures
    elif isinstance(pictures, (list, tuple)):
        for each in pictures:
            if not is_single(each):
                raise ValueError(
                    f"got {_shown(each)} in a list of pictures, expected paths, PIL images, or single ones"
                )
            yield each
    else:
        raise ValueError(
            f"got {_shown(pictures)}, expected a path, a PIL image, a uint8 tensor (C, H, W) or (B, C, H, W), a uint8 "
            "array (H, W), (H, W, C) or (B, H, W, C), or a list of them"
        )


def _tensor_of(array: np.ndarray) -> Tensor:
    """`(H, W)` or `(H, W, C)` -> `(C, H, W)`."""
    if array.dtype != np.uint8:
        raise ValueError(f"got an array of {array.dtype}, expected uint8, 0 to 255")
    tensor = torch.from_numpy(np.ascontiguousarray(array))
    return tensor[None] if array.ndim == 2 else tensor.permute(2, 0, 1).contiguous()


def _shown(value: object) -> str:
    shape = getattr(value, "shape", None)
    return f"a {type(value).__name__}" + (f" of shape {tuple(shape)}" if shape is not None else "")
