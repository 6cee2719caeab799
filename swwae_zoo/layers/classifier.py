"""The classifier on top of the encoder: pooling or flattening, hidden fully connected layers, logits."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.fx
import torch.nn.functional as F
from timm.layers import SelectAdaptivePool2d
from torch import Tensor, nn

__all__ = ["Head"]

GLOBAL_POOLS = (
    "flatten",
    "",
    "avg",
    "max",
    "avgmax",
    "catavgmax",
    "fast",
    "fastavg",
    "fastmax",
    "fastavgmax",
    "fastcatavgmax",
)


def _flatten(x: Tensor, in_chs: int, height: int, width: int, img_size: tuple[int, int]) -> Tensor:
    """(B, in_chs, height, width) -> (B, in_chs*height*width); any other map comes from another image size."""
    if x.shape[2] != height or x.shape[3] != width:
        raise ValueError(
            f"the top map is {x.shape[2]}x{x.shape[3]}, but the classifier was built for {height}x{width} "
            f"(images of {img_size[0]}x{img_size[1]}): resize the images, "
            "or build the model with img_size=... or global_pool='avg'"
        )
    return x.flatten(1)


def _check_pooled(global_pool: str) -> None:
    if global_pool == "":
        raise ValueError(
            "global_pool='' leaves a map, which has no logits: set num_classes=0, or another global_pool "
            "(reset_classifier(10, 'avg'), say)"
        )


torch.fx.wrap("_flatten")  # its check is Python control flow on a shape


class Head(nn.Module):
    """Top what (B, in_chs, h, w) -> logits (B, num_classes).

    Args:
        in_chs: channels of the top what.
        feature_size: (h, w) of the top what for images of ``img_size``.
        img_size: (H, W) of the images.
        hidden: widths of the hidden fully connected layers, each followed by ReLU.
        num_classes: width of the last layer; 0 leaves it out.
        global_pool: "flatten" keeps every position, as in the paper, and so fixes the image size; one of
            timm's global pools takes any size; "" leaves the map as it is, without hidden layers, and needs
            num_classes=0.
        drop_rate: dropout before every fully connected layer.

    Raises:
        ValueError: an unknown global_pool, none of it with a classifier, or a drop_rate outside [0, 1).
    """

    def __init__(
        self,
        in_chs: int,
        feature_size: tuple[int, int],
        img_size: tuple[int, int],
        hidden: Sequence[int] = (),
        num_classes: int = 10,
        global_pool: str = "flatten",
        drop_rate: float = 0.0,
        device=None,
        dtype=None,
    ):
        super().__init__()
        if not 0 <= drop_rate < 1:
            raise ValueError(f"drop_rate is {drop_rate}: expected a share of at least 0 and below 1")
        dd = {"device": device, "dtype": dtype}
        self.in_chs, self.feature_size = in_chs, (feature_size[0], feature_size[1])
        self.img_size = (img_size[0], img_size[1])
        self.hidden_sizes = tuple(hidden)
        self.drop_rate = drop_rate
        self._set_pool(num_classes, global_pool)
        if num_classes > 0:
            _check_pooled(global_pool)
        self._set_hidden(**dd)
        self._set_classifier(num_classes, **dd)

    def _set_pool(self, num_classes: int, global_pool: str) -> None:
        if global_pool not in GLOBAL_POOLS:
            raise ValueError(
                f"global_pool is {global_pool!r}: expected one of {', '.join(repr(p) for p in GLOBAL_POOLS)}"
            )
        if num_classes < 0:
            raise ValueError(f"num_classes is {num_classes}: expected the number of classes, or 0 for no classifier")
        self.pool_type = global_pool
        if global_pool == "flatten":
            self.global_pool = nn.Identity()
            self.pooled_features = self.in_chs * self.feature_size[0] * self.feature_size[1]
        else:
            self.global_pool = SelectAdaptivePool2d(pool_type=global_pool, flatten=bool(global_pool))
            self.pooled_features = self.in_chs * (self.global_pool.feat_mult() if global_pool else 1)

    def _set_hidden(self, device=None, dtype=None) -> None:
        widths = (self.pooled_features, *(self.hidden_sizes if self.pool_type else ()))
        self.hidden = nn.ModuleList(
            nn.Linear(a, b, device=device, dtype=dtype) for a, b in zip(widths, widths[1:], strict=False)
        )
        self.num_features = widths[-1]

    def _set_classifier(self, num_classes: int, device=None, dtype=None) -> None:
        self.num_classes = num_classes
        self.fc = (
            nn.Linear(self.num_features, num_classes, device=device, dtype=dtype) if num_classes > 0 else nn.Identity()
        )

    def reset(self, num_classes: int, global_pool: str | None = None, device=None, dtype=None) -> None:
        """A new classifier, and another pooling if given.

        Hidden layers stay as they are, unless the pooling changes their number of inputs: then they are new as
        well, so that the head is always that of a fresh model with these options.  As with timm's models, a head
        without pooling stays without when only a classifier is asked for; its `forward` then raises.
        """
        if num_classes > 0 and global_pool is not None:
            _check_pooled(global_pool)
        before = self.pooled_features, not self.pool_type
        self._set_pool(num_classes, self.pool_type if global_pool is None else global_pool)
        if before != (self.pooled_features, not self.pool_type):
            self._set_hidden(device=device, dtype=dtype)
        self._set_classifier(num_classes, device=device, dtype=dtype)
        self.train(self.training)

    def rebase(self, in_chs: int, reduction: int) -> None:
        """Takes a shallower stage's map as input; `reset` must follow."""
        self.in_chs = in_chs
        self.feature_size = (self.img_size[0] // reduction, self.img_size[1] // reduction)

    def forward(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        if self.pool_type == "flatten":
            x = _flatten(x, self.in_chs, self.feature_size[0], self.feature_size[1], self.img_size)
        else:
            x = self.global_pool(x)
        for layer in self.hidden:
            x = F.relu(layer(self._drop(x)))
        x = self._drop(x)
        if pre_logits or self.num_classes == 0:
            return x
        _check_pooled(self.pool_type)
        return self.fc(x)

    def _drop(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.drop_rate, self.training) if self.drop_rate > 0 else x
