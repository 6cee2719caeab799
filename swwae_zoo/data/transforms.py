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
    """Fit to size, then normalise; between the two is the place for random views (see `views.py`).

    1. `fit`, to `img_size`: the same size is left alone; smaller by at most a quarter on each side is padded centrally
       with zeros (28 -> 32); anything else is resized, bilinear, antialiased.
    2. `normalise`. `contrast="none"`: `(x - mean) / std`, channel by channel. `contrast="image"`: each image less its
       own mean, over its own standard deviation (all channels and pixels together, at least `MIN_CONTRAST`).

    Args:
        img_size: S, or (S, T).
        mean: per channel, of the 0..1 range; one number serves all channels. Unused with `contrast="image"`.
        std: likewise, positive.
        contrast: "none" or "image".

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
    ):
        self.img_size = (img_size, img_size) if isinstance(img_size, int) else tuple(img_size)
        if len(self.img_size) != 2 or min(self.img_size) < 1:
            raise ValueError(f"got img_size {img_size}, expected one size or (height, width), in pixels")
        if contrast not in CONTRASTS:
            raise ValueError(f"got contrast {contrast!r}, expected one of {', '.join(CONTRASTS)}")
        self.mean, self.std = _per_channel(mean), _per_channel(std)
        if not (self.std > 0).all():
            raise ValueError(f"got std {std}, expected positive numbers")
        self.contrast = contrast

    def __call__(self, images: Tensor) -> Tensor:
        """`(B, C, H, W)` uint8 -> `(B, C, S, T)` float32 on the same device, fitted and normalised.

        Raises:
            ValueError: not uint8; mean or std does not match the channels.
        """
        return self.normalise(self.fit(images))

    def fit(self, images: Tensor) -> Tensor:
        """`(B, C, H, W)` uint8, any number of them, 0 too -> `(B, C, S, T)` float32 from 0 to 1."""
        if images.dtype != torch.uint8:
            raise ValueError(f"got {images.dtype} images, expected torch.uint8, 0 to 255")
        have, want = tuple(images.shape[-2:]), self.img_size
        if have == want:
            return images.float() / 255
        if all(MIN_PADDABLE * w <= h <= w for h, w in zip(have, want, strict=True)):
            top, left = (want[0] - have[0]) // 2, (want[1] - have[1]) // 2
            return F.pad(images, (left, want[1] - have[1] - left, top, want[0] - have[0] - top)).float() / 255
        if len(images) == 0:  # interpolate refuses an empty batch
            return torch.empty(0, images.shape[1], *want, device=images.device)
        return F.interpolate(images.float() / 255, size=want, mode="bilinear", antialias=True)

    def normalise(self, x: Tensor) -> Tensor:
        """`(B, C, S, T)` floats from 0 to 1 -> the network's input, of the same shape."""
        if self.contrast == "image":
            centred = x - x.mean(dim=(1, 2, 3), keepdim=True)
            deviation = centred.square().mean(dim=(1, 2, 3), keepdim=True).sqrt()
            return centred / deviation.clamp(min=MIN_CONTRAST)
        for what, values in (("mean", self.mean), ("std", self.std)):
            if len(values) not in (1, x.shape[1]):
                raise ValueError(f"got {len(values)} values of {what} for images of {x.shape[1]} channels")
        self.mean, self.std = self.mean.to(x.device), self.std.to(x.device)  # copied in the first call only
        return (x - self.mean) / self.std

    def denormalise(self, x: Tensor, fitted: Tensor) -> Tensor:
        """Undoes `normalise`: what a decoder gives, `(B, C, S, T)`, back in the 0 to 1 range of the images.

        Args:
            fitted: the images that `x` belongs to, `(B, C, S, T)` from 0 to 1: with `contrast="image"`, mean and
                deviation are theirs.
        """
        if self.contrast == "image":
            mean = fitted.mean(dim=(1, 2, 3), keepdim=True)
            deviation = (fitted - mean).square().mean(dim=(1, 2, 3), keepdim=True).sqrt()
            return x * deviation.clamp(min=MIN_CONTRAST) + mean
        return x * self.std.to(x.device) + self.mean.to(x.device)


def _per_channel(values: float | Sequence[float]) -> Tensor:
    """One number or one a channel -> `(C, 1, 1)` float32."""
    return torch.as_tensor(values, dtype=torch.float32).reshape(-1, 1, 1)
