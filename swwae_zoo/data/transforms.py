"""uint8 images to the network's float input, a whole batch at a time, on the batch's device.

Shapes: B images, C channels, H x W as stored, S x T as the network takes them.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

CONTRASTS = ("none", "image")
MIN_CONTRAST = 1e-2  # of the 0..1 range: a flat image is not blown up into noise
MIN_PADDABLE = 0.75  # 28 of 32 is padded with zeros; under three quarters of the size, the image is enlarged


class Preprocess:
    """Fit to size, translate and mirror (training only), then normalise.

    1. To `img_size`: the same size is left alone; smaller by at most a quarter on each side is padded centrally
       with zeros (28 -> 32); anything else is resized, bilinear, antialiased.
    2. With `train=True`: shifted by whole pixels drawn uniformly from `[-translate, translate]` on each axis, zeros
       coming in; then mirrored left to right with probability 1/2 if `mirror`.
    3. `contrast="none"`: `(x / 255 - mean) / std`, channel by channel. `contrast="image"`: each image less its own
       mean, over its own standard deviation (all channels and pixels together, at least `MIN_CONTRAST`).

    Args:
        img_size: S, or (S, T).
        mean: per channel, of the 0..1 range; one number serves all channels. Unused with `contrast="image"`.
        std: likewise, positive.
        contrast: "none" or "image".
        translate: pixels, 0 for none; less than the size.
        mirror: whether to mirror at random.

    Raises:
        ValueError: a value out of these ranges.
    """

    def __init__(
        self,
        img_size: int | Sequence[int],
        *,
        mean: float | Sequence[float],
        std: float | Sequence[float],
        contrast: str = "none",
        translate: int = 0,
        mirror: bool = False,
    ):
        self.img_size = (img_size, img_size) if isinstance(img_size, int) else tuple(img_size)
        if len(self.img_size) != 2 or min(self.img_size) < 1:
            raise ValueError(f"got img_size {img_size}, expected one size or (height, width), in pixels")
        if contrast not in CONTRASTS:
            raise ValueError(f"got contrast {contrast!r}, expected one of {', '.join(CONTRASTS)}")
        if not 0 <= translate < min(self.img_size):
            raise ValueError(f"got translate {translate}, expected 0 to {min(self.img_size) - 1} pixels")
        self.mean, self.std = _per_channel(mean), _per_channel(std)
        if not (self.std > 0).all():
            raise ValueError(f"got std {std}, expected positive numbers")
        self.contrast, self.translate, self.mirror = contrast, translate, mirror

    def __call__(
        self,
        images: Tensor,
        *,
        train: bool = False,
        generator: torch.Generator | None = None,
        share: tuple[int, int, int] | None = None,
    ) -> Tensor:
        """`(B, C, H, W)` uint8 -> `(B, C, S, T)` float32 on the same device.

        Args:
            images: any number of them, 0 too.
            train: whether to translate and mirror; without it nothing is random.
            generator: a CPU generator; random numbers are drawn on the CPU, so that a run sees the same images on
                every device. Needed when something is to be drawn.
            share: (first, count, whole): the images are these `count` of a batch of `whole`. Random numbers are drawn for
                the whole batch, so that it is the same however many processes share it.

        Raises:
            ValueError: not uint8; random numbers are needed and there is no generator; mean or std does not match
                the channels.
        """
        if images.dtype != torch.uint8:
            raise ValueError(f"got {images.dtype} images, expected torch.uint8, 0 to 255")
        images = self._fit(images)
        if train and (self.translate or self.mirror):
            if generator is None:
                raise ValueError("translate and mirror draw random numbers: pass generator=torch.Generator()")
            images = self._shift(images, generator, share or (0, len(images), len(images)))
        return self._normalise(images.float() / 255 if images.dtype == torch.uint8 else images)

    def _fit(self, images: Tensor) -> Tensor:
        """To `img_size`: uint8 stays uint8 where no pixel changes, and becomes 0..1 floats where it is resized."""
        have, want = tuple(images.shape[-2:]), self.img_size
        if have == want:
            return images
        if all(MIN_PADDABLE * w <= h <= w for h, w in zip(have, want, strict=False)):
            top, left = (want[0] - have[0]) // 2, (want[1] - have[1]) // 2
            return F.pad(images, (left, want[1] - have[1] - left, top, want[0] - have[0] - top))
        if len(images) == 0:  # interpolate refuses an empty batch
            return images.new_empty(0, images.shape[1], *want)
        return F.interpolate(images.float() / 255, size=want, mode="bilinear", antialias=True)

    def _shift(self, images: Tensor, generator: torch.Generator, share: tuple[int, int, int]) -> Tensor:
        """Translate, then mirror, by reading each output pixel from where it comes from, `(B, C, S, T)` as given."""
        batch, channels, height, width = images.shape
        t, device = self.translate, images.device
        first, count, whole = share
        own = slice(first, first + count)
        rows, cols = torch.arange(height, device=device)[None], torch.arange(width, device=device)[None]
        if self.mirror:
            flip = torch.randint(0, 2, (whole, 1), generator=generator)[own].bool().to(device, non_blocking=True)
            cols = torch.where(flip, width - 1 - cols, cols)
        if t:
            down, right = torch.randint(-t, t + 1, (2, whole, 1), generator=generator)[:, own].to(
                device, non_blocking=True
            )
            # In a frame of t zeros every place read from exists.
            rows, cols = rows + t - down, cols + t - right
            images = F.pad(images, (t, t, t, t))
        source = rows[:, :, None] * (width + 2 * t) + cols[:, None, :]
        source = source.reshape(-1, 1, height * width).expand(batch, channels, -1)
        return images.flatten(2).gather(2, source).view(batch, channels, height, width)

    def _normalise(self, x: Tensor) -> Tensor:
        if self.contrast == "image":
            centred = x - x.mean(dim=(1, 2, 3), keepdim=True)
            deviation = centred.square().mean(dim=(1, 2, 3), keepdim=True).sqrt()
            return centred / deviation.clamp(min=MIN_CONTRAST)
        for what, values in (("mean", self.mean), ("std", self.std)):
            if len(values) not in (1, x.shape[1]):
                raise ValueError(f"got {len(values)} values of {what} for images of {x.shape[1]} channels")
        self.mean, self.std = self.mean.to(x.device), self.std.to(x.device)  # copied in the first call only
        return (x - self.mean) / self.std


def _per_channel(values: float | Sequence[float]) -> Tensor:
    """One number or one a channel -> `(C, 1, 1)` float32."""
    return torch.as_tensor(values, dtype=torch.float32).reshape(-1, 1, 1)
