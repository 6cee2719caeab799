"""The classifier on top of the encoder: pooling or flattening, hidden fully connected layers, logits."""
from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from timm.layers import SelectAdaptivePool2d, register_notrace_function
from torch import Tensor, nn

__all__ = ["Head"]

GLOBAL_POOLS = ("flatten", "", "avg", "max", "avgmax", "catavgmax", "fast", "fastavg", "fastmax", "fastavgmax",
                "fastcatavgmax")


@register_notrace_function  # its check is Python control flow on a shape
def _flatten(x: Tensor, in_chs: int, height: int, width: int, img_size: tuple[int, int]) -> Tensor:
    """(B, in_chs, height, width) -> (B, in_chs*height*width); any other map was made from another image size."""
    if x.shape[2] != height or x.shape[3] != width:
        raise ValueError(
            f"the top map is {x.shape[2]}x{x.shape[3]}, but the classifier was built for {height}x{width} "
            f"(images of {img_size[0]}x{img_size[1]}): resize the images, "
            "or build the model with img_size=... or global_pool='avg'"
        )
    return x.flatten(1)


class Head(nn.Module):
    """Top what (B, in_chs, h, w) -> logits (B, num_classes).

    Args:
        in_chs: channels of the top what.
        feature_size: (h, w) of the top what for images of ``img_size``.
        img_size: (H, W) of the images.
        hidden: widths of the hidden fully connected layers, each followed by ReLU.
        num_classes: width of the last layer; 0 leaves it out.
        global_pool: "flatten" keeps every position, as in the paper, and so fixes the image size; one of
            timm's global pools takes any size; "" leaves the map as it is and needs num_classes=0.
        drop_rate: dropout in front of every fully connected layer.

    Raises:
        ValueError: an unknown global_pool, or none of it with a classifier.
    """

    def __init__(
        self, in_chs: int, feature_size: tuple[int, int], img_size: tuple[int, int], hidden: Sequence[int] = (),
        num_classes: int = 10, global_pool: str = "flatten", drop_rate: float = 0.0, device=None, dtype=None,
    ):
        super().__init__()
        dd = {"device": device, "dtype": dtype}
        self.in_chs, self.feature_size, self.img_size = in_chs, tuple(feature_size), tuple(img_size)
        self.hidden_sizes = tuple(hidden)
        self.drop_rate = drop_rate
        self._set_pool(global_pool)
        widths = (self.pooled_features, *self.hidden_sizes)
        self.hidden = nn.ModuleList(nn.Linear(a, b, **dd) for a, b in zip(widths, widths[1:]))
        self.num_features = widths[-1]
        self._set_classifier(num_classes, **dd)

    def _set_pool(self, global_pool: str) -> None:
        if global_pool not in GLOBAL_POOLS:
            raise ValueError(
                f"global_pool is {global_pool!r}: expected one of {', '.join(repr(p) for p in GLOBAL_POOLS)}")
        self.pool_type = global_pool
        if global_pool == "flatten":
            self.global_pool = nn.Identity()
            self.pooled_features = self.in_chs * self.feature_size[0] * self.feature_size[1]
        else:
            self.global_pool = SelectAdaptivePool2d(pool_type=global_pool, flatten=bool(global_pool))
            self.pooled_features = self.in_chs * (self.global_pool.feat_mult() if global_pool else 1)

    def _set_classifier(self, num_classes: int, device=None, dtype=None) -> None:
        if num_classes > 0 and not self.pool_type:
            raise ValueError("global_pool='' leaves a map, which has no logits: give num_classes=0 or another pool")
        self.fc = nn.Linear(self.num_features, num_classes, device=device, dtype=dtype) if num_classes > 0 else nn.Identity()

    def reset(self, num_classes: int, global_pool: str | None = None, device=None, dtype=None) -> None:
        """A new classifier, and another pooling if given.

        Hidden layers whose input width another pooling changes can't be kept: they are left out.
        """
        if global_pool is not None and global_pool != self.pool_type:
            before = self.pooled_features
            self._set_pool(global_pool)
            if self.pooled_features != before or not global_pool:
                self.hidden_sizes, self.hidden = (), nn.ModuleList()
                self.num_features = self.pooled_features
        self._set_classifier(num_classes, device=device, dtype=dtype)
        self.train(self.training)

    def forward(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        if self.pool_type == "flatten":
            x = _flatten(x, self.in_chs, self.feature_size[0], self.feature_size[1], self.img_size)
        else:
            x = self.global_pool(x)
        for layer in self.hidden:
            x = F.relu(layer(self._drop(x)))
        x = self._drop(x)
        return x if pre_logits else self.fc(x)

    def _drop(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.drop_rate, self.training) if self.drop_rate > 0 else x
