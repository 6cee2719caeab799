"""Saved weights for images of other channels: the decoder's last convolution follows the encoder's first."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

__all__ = ["fit_image_channels"]


def fit_image_channels(state_dict: dict[str, Tensor], own: Mapping[str, Tensor], layer: str, in_chans: int) -> None:
    """Fits ``layer``, which makes the image, to ``in_chans`` channels, in place.

    timm fits the first convolution: for one channel it sums the weights over the channels, so that a grey image is
    treated as an RGB image of equal channels; for more channels it repeats them. Here, so that the reconstruction is an
    image of the same kind: for one channel the mean of the channels, for more the channels repeated.

    Args:
        state_dict: saved weights; left as they are where they fit already or differ in more than that.
        own: the model's own state.
        layer: a convolution with in_chans * p outputs, p the pixels that it makes at each position, channel by channel.
    """
    for key in (f"{layer}.weight", f"{layer}.bias"):
        saved = state_dict.get(key)
        if (
            saved is None
            or key not in own
            or saved.shape[0] == own[key].shape[0]
            or saved.shape[1:] != own[key].shape[1:]
        ):
            continue
        pixels = own[key].shape[0] // in_chans
        chans = saved.unflatten(0, (-1, pixels))
        turns = [c % len(chans) for c in range(in_chans)]
        state_dict[key] = (chans.mean(0, keepdim=True) if in_chans == 1 else chans[turns]).flatten(0, 1)
