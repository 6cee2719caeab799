"""Random views of a batch of images: one set of numbers for each image, drawn on the CPU, applied on the device.

Shapes: B images, C channels (1 or 3), H x W pixels. Images are floats from 0 to 1, views too.

Each view is made in at most four passes over the batch: geometry (shift and mirror alone are exact, by gather; anything
more is one affine grid and one `grid_sample`), colour (one 3x4 matrix an image), cut-out, noise. An amount of 0 leaves
its part out, and a pass with nothing to do is not made.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["AUGMENT", "STRONG", "Augmentation", "RandomView", "augmentation"]

_LUMA = (0.299, 0.587, 0.114)  # weights of red, green and blue in the grey value, as ITU-R BT.601 has them
_DRAWS: tuple[str, ...] = (
    "right", "down", "mirror", "rotation", "scale", "shear", "crop_area", "crop_ratio", "crop_x", "crop_y",
    "contrast", "brightness", "saturation", "cutout_x", "cutout_y", "noise",
)  # fmt: skip
_MOST = {
    "rotation": 180.0,
    "shear": 1.0,
    "elastic": 0.1,
    "contrast": 1.0,
    "brightness": 1.0,
    "saturation": 1.0,
    "noise": math.inf,
}
_KNOTS = 5  # of the elastic grid, on each axis: fewer is an affine map, more tears strokes apart
_BORDERS = {"zeros": "zeros", "reflect": "reflection"}  # our name: the name `grid_sample` has


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


@dataclass(frozen=True)
class Augmentation:
    """Largest amounts of one kind of view. Each image draws its own amounts, uniformly, up to these. 0 turns one off.

    Args:
        shift: pixels, from -shift to shift on each axis; whole ones where nothing but shift and mirror is on.
        mirror: whether half of the images are mirrored left to right.
        rotation: degrees, 0 to 180, either way.
        scale: 0 to below 1; the image is enlarged or reduced by a factor from 1 / (1 + scale) to 1 + scale.
        shear: 0 to 1, pixels sideways for each pixel down, either way.
        crop: 0 to below 1; a random resized crop that leaves out up to this share of the area, with an aspect ratio
            from 3:4 to 4:3, enlarged to the whole image.
        elastic: 0 to 0.1; a smooth warp that moves each point of a grid of 5x5 over the image by up to this share of
            the side, either way on each axis, and what lies between smoothly with them.
        contrast: 0 to 1; each pixel's distance from the image's mean grey value times 1 - contrast to
            1 + contrast.
        brightness: 0 to 1; each pixel times 1 - brightness to 1 + brightness.
        saturation: 0 to 1; the distance of each colour from its grey value likewise. Grey images have none.
        cutout: 0 to below 1, side of one square, as a share of the image's shorter side; its centre is anywhere in the
            image, and it is filled with the image's mean colour, or with 0 if `border` is "zeros".
        noise: standard deviation of Gaussian noise; each image draws its own, from 0 to this.
        border: what comes in from outside the image: "zeros", or "reflect", the image mirrored at its edge.

    Raises:
        ValueError: a number outside these ranges, or an unknown border.
    """

    shift: int = 0
    mirror: bool = False
    rotation: float = 0.0
    scale: float = 0.0
    shear: float = 0.0
    crop: float = 0.0
    elastic: float = 0.0
    contrast: float = 0.0
    brightness: float = 0.0
    saturation: float = 0.0
    cutout: float = 0.0
    noise: float = 0.0
    border: str = "zeros"

    def __post_init__(self) -> None:
        if self.border not in _BORDERS:
            raise ValueError(f"border: got {self.border!r}, expected one of {', '.join(_BORDERS)}")
        if not isinstance(self.mirror, bool):
            raise ValueError(f"mirror: got {self.mirror!r}, expected true or false")
        if not isinstance(self.shift, int) or isinstance(self.shift, bool) or self.shift < 0:
            raise ValueError(f"shift: got {self.shift!r}, expected a whole number of pixels, 0 for none")
        for name, most in _MOST.items():
            value = getattr(self, name)
            if not _is_number(value) or not 0 <= value <= most or not math.isfinite(value):
                upto = f"a number from 0 to {most:g}" if math.isfinite(most) else "a finite number of at least 0"
                raise ValueError(f"{name}: got {value!r}, expected {upto}; 0 turns it off")
        for name in ("scale", "crop", "cutout"):
            value = getattr(self, name)
            if not _is_number(value) or not 0 <= value < 1:
                raise ValueError(f"{name}: got {value!r}, expected a number of at least 0 and below 1; 0 turns it off")

    @property
    def is_warped(self) -> bool:
        """Whether the geometry needs interpolation."""
        return max(self.rotation, self.scale, self.shear, self.crop, self.elastic) > 0

    @property
    def is_random(self) -> bool:
        """Whether anything is on."""
        return self != Augmentation(border=self.border)


AUGMENT: dict[str, Augmentation] = {
    "none": Augmentation(),
    "shift": Augmentation(shift=2),
    "photo": Augmentation(shift=4, mirror=True, border="reflect"),
}
"""Weak views by name: what a label certainly survives."""

STRONG: dict[str, Augmentation] = {
    "none": Augmentation(),
    "grey": Augmentation(shift=2, rotation=10, scale=0.1, shear=0.1, elastic=0.05),
    "photo": Augmentation(
        shift=4, mirror=True, rotation=15, scale=0.2, shear=0.15, contrast=0.6, brightness=0.4, saturation=0.8,
        cutout=0.4, border="reflect",
    ),
}  # fmt: skip
"""Strong views by name: as much as the class can be recognised through."""


def augmentation(name: str, presets: dict[str, Augmentation], **amounts: object) -> Augmentation:
    """A preset, with some of its amounts replaced.

    Args:
        name: a key of `presets`.
        presets: `AUGMENT` or `STRONG`.
        amounts: fields of `Augmentation`; None keeps the preset's.

    Raises:
        ValueError: an unknown name, or amounts out of range.
    """
    if name not in presets:
        raise ValueError(f"got {name!r}, no augmentation by that name; expected one of {', '.join(presets)}")
    known = {field.name for field in fields(Augmentation)}
    unknown = sorted(set(amounts) - known)
    if unknown:
        raise ValueError(
            f"got {unknown[0]!r}, no amount of an augmentation; expected one of {', '.join(sorted(known))}"
        )
    return replace(presets[name], **{key: value for key, value in amounts.items() if value is not None})


class RandomView:
    """Makes one random view of every image of a batch.

    All numbers of a batch come from one draw of a CPU generator, whatever is on, so that the state of the generator is
    all a resumed run needs, every device sees the same views, and turning one amount on leaves the others' draws alone.

    Args:
        settings: what to draw.
        img_size: (H, W) of the images, to refuse amounts that are too large for them.

    Raises:
        ValueError: a shift as wide as the image.
    """

    def __init__(self, settings: Augmentation, img_size: tuple[int, int]):
        if settings.shift >= min(img_size):
            raise ValueError(
                f"shift: got {settings.shift} pixels for images of {img_size[0]}x{img_size[1]}, expected at most "
                f"{min(img_size) - 1}; lower it, a tenth of the side is usual"
            )
        self.settings, self.img_size = settings, (img_size[0], img_size[1])

    def __call__(self, images: Tensor, generator: torch.Generator, share: tuple[int, int, int] | None = None) -> Tensor:
        """`(B, C, H, W)` floats from 0 to 1 -> views, new tensors of the same shape, type and device.

        The images themselves are left as they are; with nothing on, they are returned.

        Args:
            images: any number of them, 0 too.
            generator: a CPU generator.
            share: (first, count, whole): the images are these `count` of a batch of `whole`. Numbers are drawn for the
                whole batch, so that it is the same however many processes share it.

        Raises:
            ValueError: images that are not floats of the size given; channels other than 1 or 3 where colours change.
        """
        if images.ndim != 4 or tuple(images.shape[2:]) != self.img_size or not images.is_floating_point():
            raise ValueError(
                f"got images of shape {tuple(images.shape)}, {images.dtype}; expected floats from 0 to 1 of shape "
                f"(B, C, {self.img_size[0]}, {self.img_size[1]})"
            )
        settings = self.settings
        if not settings.is_random or len(images) == 0:
            return images
        first, count, whole = share or (0, len(images), len(images))
        table = torch.rand(len(_DRAWS), whole, generator=generator)  # one row for each name
        table = table[:, first : first + count].mul(2).sub(1)  # from -1 to 1
        draw = dict(zip(_DRAWS, table.to(images.device, non_blocking=True), strict=True))
        if settings.is_warped:
            view = self._warp(images, draw, generator, (first, count, whole))
        elif settings.shift or settings.mirror:
            view = self._move(images, draw)
        else:
            view = images
        view = self._colour(view, draw)
        if settings.cutout:
            view = self._cut(view, draw)
        if settings.noise:
            view = self._noise(view, draw, generator, (first, count, whole))
        return view

    # --- geometry -----------------------------------------------------------------------------------

    def _move(self, images: Tensor, draw: dict[str, Tensor]) -> Tensor:
        """Shift by whole pixels, then mirror: every pixel of the view is one of the image, or 0."""
        shift, height, width = self.settings.shift, *self.img_size
        rows = torch.arange(height, device=images.device).expand(len(images), height)
        cols = torch.arange(width, device=images.device).expand(len(images), width)
        if self.settings.mirror:
            cols = torch.where((draw["mirror"] > 0)[:, None], width - 1 - cols, cols)
        if shift:
            rows = rows - _whole(draw["down"], shift)[:, None]
            cols = cols - _whole(draw["right"], shift)[:, None]
        if shift and self.settings.border == "zeros":
            images = F.pad(images, (shift, shift, shift, shift))  # in this frame every place read from exists
            rows, cols = rows + shift, cols + shift
        elif shift:
            rows, cols = _reflected(rows, height), _reflected(cols, width)
        source = rows[:, :, None] * images.shape[3] + cols[:, None, :]
        source = source.flatten(1)[:, None].expand(-1, images.shape[1], -1)
        return images.flatten(2).gather(2, source).unflatten(2, self.img_size)

    def _warp(
        self, images: Tensor, draw: dict[str, Tensor], generator: torch.Generator, share: tuple[int, int, int]
    ) -> Tensor:
        """Everything geometric in one bilinear resampling."""
        first, count, whole = share
        grid = F.affine_grid(self._matrix(draw).to(images.dtype), list(images.shape), align_corners=False)
        if self.settings.elastic:
            moves = torch.rand(whole, 2, _KNOTS, _KNOTS, generator=generator)[first : first + count]
            moves = moves.sub(0.5).mul(4 * self.settings.elastic).to(images, non_blocking=True)
            rows, cols = (_spread(size, images) for size in self.img_size)
            grid = grid + (rows @ moves @ cols.T).permute(0, 2, 3, 1)
        border = _BORDERS[self.settings.border]
        return F.grid_sample(images, grid, mode="bilinear", padding_mode=border, align_corners=False)

    def _matrix(self, draw: dict[str, Tensor]) -> Tensor:
        """From a place in the view to the place in the image, `(B, 2, 3)`, both from -1 to 1, x first.

        In pixels around the centre it is: mirror * (rotation * shear / scale) * (crop * place) + shift.
        """
        settings, (height, width) = self.settings, self.img_size
        one = torch.ones_like(draw["right"])
        angle = draw["rotation"] * math.radians(settings.rotation)
        zoom = (draw["scale"] * math.log1p(settings.scale)).exp()
        cos, sin = angle.cos() / zoom, angle.sin() / zoom
        shear = draw["shear"] * settings.shear
        a, b, c, d = cos, shear * cos - sin, sin, shear * sin + cos  # [[a, b], [c, d]]: rotation * shear / scale
        if settings.mirror:
            sign = torch.where(draw["mirror"] > 0, -one, one)
            a, b = sign * a, sign * b
        x, y = -settings.shift * draw["right"], -settings.shift * draw["down"]
        if settings.crop:
            area = 1 - settings.crop * (draw["crop_area"] + 1) / 2
            ratio = (draw["crop_ratio"] * (math.log(4 / 3) / 2)).exp()
            wide, high = (area.sqrt() * ratio).clamp(max=1), (area.sqrt() / ratio).clamp(max=1)
            left, top = (1 - wide) * draw["crop_x"] * (width / 2), (1 - high) * draw["crop_y"] * (height / 2)
            x, y = x + a * left + b * top, y + c * left + d * top
            a, b, c, d = a * wide, b * high, c * wide, d * high
        rows = (a, b * (height / width), x * (2 / width), c * (width / height), d, y * (2 / height))
        return torch.stack(rows, dim=1).unflatten(1, (2, 3))

    # --- pixels -------------------------------------------------------------------------------------

    def _colour(self, view: Tensor, draw: dict[str, Tensor]) -> Tensor:
        """Saturation, contrast and brightness of each image as one affine map of its colours, `(C, C + 1)`."""
        settings, channels = self.settings, view.shape[1]
        if not (settings.contrast or settings.brightness or (settings.saturation and channels > 1)):
            return view
        if channels not in (1, 3):
            raise ValueError(f"got images of {channels} channels, expected 1 or 3 to change colours; turn contrast, "
                             "brightness and saturation off")  # fmt: skip
        contrast = (1 + settings.contrast * draw["contrast"]).to(view.dtype)
        brightness = (1 + settings.brightness * draw["brightness"]).to(view.dtype)
        mean = view.mean(dim=(2, 3))  # (B, C)
        if channels == 1:
            factor, offset = contrast * brightness, (1 - contrast) * brightness * mean[:, 0]
            return torch.addcmul(offset[:, None, None, None], factor[:, None, None, None], view).clamp_(0, 1)
        luma = view.new_tensor(_LUMA)
        saturation = (1 + settings.saturation * draw["saturation"]).to(view.dtype)[:, None, None]
        matrix = saturation * torch.eye(3, dtype=view.dtype, device=view.device) + (1 - saturation) * luma
        matrix = matrix * (contrast * brightness)[:, None, None]
        offset = ((1 - contrast) * brightness * (mean @ luma))[:, None, None]
        return torch.baddbmm(offset, matrix, view.flatten(2)).clamp_(0, 1).unflatten(2, self.img_size)

    def _cut(self, view: Tensor, draw: dict[str, Tensor]) -> Tensor:
        """One square of each image filled; it may reach over the edge."""
        height, width = self.img_size
        half = self.settings.cutout * min(height, width) / 2
        rows = torch.arange(height, device=view.device) + 0.5
        cols = torch.arange(width, device=view.device) + 0.5
        inside = ((rows - (draw["cutout_y"][:, None] + 1) * (height / 2)).abs() < half)[:, None, :, None] & (
            (cols - (draw["cutout_x"][:, None] + 1) * (width / 2)).abs() < half
        )[:, None, None, :]
        if self.settings.border == "zeros":
            return view.masked_fill(inside, 0)
        return torch.where(inside, view.mean(dim=(2, 3), keepdim=True), view)

    def _noise(
        self, view: Tensor, draw: dict[str, Tensor], generator: torch.Generator, share: tuple[int, int, int]
    ) -> Tensor:
        """Gaussian noise, drawn on the device by a generator whose seed comes from the CPU generator."""
        first, count, whole = share
        seed = int(torch.randint(0, 1 << 31, (), generator=generator))
        own = torch.Generator(view.device).manual_seed(seed)
        noise = torch.randn(whole, *view.shape[1:], generator=own, device=view.device)[first : first + count]
        deviation = (draw["noise"] + 1) * (self.settings.noise / 2)
        return torch.addcmul(view, deviation[:, None, None, None].to(view.dtype), noise.to(view.dtype)).clamp_(0, 1)


def _whole(draw: Tensor, most: int) -> Tensor:
    """Numbers from -1 to 1 -> whole numbers from -most to most, all equally likely, int64."""
    return ((draw + 1) * ((2 * most + 1) / 2)).long().clamp_(max=2 * most) - most


def _spread(size: int, like: Tensor) -> Tensor:
    """How much each of the knots counts at each pixel, `(size, _KNOTS)`: cubic interpolation."""
    knots = torch.eye(_KNOTS, dtype=like.dtype, device=like.device)[None, None]
    return F.interpolate(knots, (size, _KNOTS), mode="bicubic", align_corners=True)[0, 0]


def _reflected(index: Tensor, size: int) -> Tensor:
    """Indices up to `size` outside -> inside, mirrored at the edge: -1 is 0, `size` is `size - 1`."""
    index = torch.where(index < 0, -1 - index, index)
    return torch.where(index >= size, 2 * size - 1 - index, index)
