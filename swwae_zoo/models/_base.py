"""Base class of every Stacked What-Where Auto-Encoder (SWWAE), whatever its encoder.

    image -> encoder -> features -> head -> logits
                | switches  |
    image~ <- decoder <-----'

`forward` is the plain convnet and returns logits, so a SWWAE works wherever a timm model does;
`forward_swwae` adds the reconstruction and the middles that eq. (1) needs.  No call leaves state on a
module.  `swwae.py` builds the encoder from the paper's notation, `wrapped/` takes any backbone.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

__all__ = ["SWWAE", "Decoding", "Encoding", "SWWAEOutput", "pair_of", "select_features"]


class Encoding(NamedTuple):
    """Output of the encoder, each field shallow to deep.

    whats: pooled values of stage m, (B, C_m, h_m, w_m); of a stage without a pool its plain output.
    switches: where of stage m: uint8 (B, C_m, h_m, w_m), soft (B, C_m, 2, h_m, w_m), None without a pool.
    sizes: (H, W) of the map that stage m pooled, so that unpooling returns the exact size.
    features: the top what, (B, C, h, w): input of the head and of the decoder.
    """

    whats: tuple[Tensor, ...]
    switches: tuple[Tensor | None, ...]
    sizes: tuple[tuple[int, int], ...]
    features: Tensor


class Decoding(NamedTuple):
    """Output of the decoder.

    reconstruction: x~, (B, in_chans, H, W), linear (not clipped to the pixels' range).
    middles: pairs (encoder's what of stage m, decoder's activation just before stage m unpools),
        both (B, C_m, h_m, w_m), shallow to deep; one for each stage but the topmost.
    """

    reconstruction: Tensor
    middles: tuple[tuple[Tensor, Tensor], ...]


class SWWAEOutput(NamedTuple):
    """Output of `forward_swwae`.

    logits: (B, num_classes).
    reconstruction: x~, (B, in_chans, H, W).
    middles: pairs (encoder's what, decoder's activation), shallow to deep.
    """

    logits: Tensor
    reconstruction: Tensor
    middles: tuple[tuple[Tensor, Tensor], ...]


def explain_norms(forward: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    """Decorator: adds the remedy to torch's error for a batch norm of one value."""

    @functools.wraps(forward)
    def explained(self: Any, x: Any) -> Any:
        try:
            return forward(self, x)
        except ValueError as error:
            if not str(error).startswith("Expected more than 1 value per channel"):
                raise
            shape = str(error).rpartition("torch.Size(")[2].rstrip(")")
            raise ValueError(
                f"batch norm in training got a map of shape {shape}, one value per channel, and needs more: use a "
                "larger batch or larger images, or freeze the norms"
            ) from None

    return explained


class SWWAE(nn.Module):
    """A classifier with a mirrored decoder.

    Subclasses implement `forward_encoder`, `forward_features` and `forward_head`.

    Attributes:
        in_chans: channels of the images and of the reconstruction.
        num_classes: width of the logits, 0 without a classifier.
        decoder: encoding -> `Decoding`; None after pruning.
        grad_checkpointing: save few activations for the backward pass and recompute the others.
    """

    __jit_unused_properties__ = ["img_size", "num_middles", "text"]

    if TYPE_CHECKING:  # TorchScript reads annotations that stand here, and does not know these
        in_chans: int
        num_classes: int
        decoder: nn.Module | None
        grad_checkpointing: bool
        pretrained_cfg: dict[str, Any]

        def forward_features(self, x: Tensor) -> Any: ...

        def forward_head(self, x: Any, pre_logits: bool = False) -> Tensor: ...

    def train(self, mode: bool = True) -> SWWAE:
        """As `nn.Module.train`; norms that `finetune.freeze` froze stay in evaluation mode."""
        super().train(mode)
        for module in getattr(self, "_stilled", ()):
            module.eval()
        return self

    @property
    def img_size(self) -> tuple[int, int]:
        """(H, W) of the images that the model was built for."""
        raise NotImplementedError

    @property
    def num_middles(self) -> int:
        """Number of middles, and so of values of lambda_middle."""
        raise NotImplementedError

    @property
    def text(self) -> str:
        """The net in one line: its notation, or the backbone it wraps."""
        raise NotImplementedError

    @torch.jit.unused
    def forward_encoder(self, x: Tensor) -> Any:
        """Images (B, in_chans, H, W) -> encoding: whats, switches, sizes and features, see `Encoding`."""
        raise NotImplementedError

    @torch.jit.unused
    @explain_norms
    def forward_decoder(self, encoding: Any) -> Any:
        """Encoding -> `Decoding`: reconstruction (B, in_chans, H, W) and middles.

        Raises:
            ValueError: the decoder was pruned away.
        """
        if self.decoder is None:
            raise ValueError("this model was pruned to its first stages and has no decoder: rebuild it to reconstruct")
        return self.decoder(encoding, checkpointing=self.grad_checkpointing)

    @torch.jit.unused
    def forward_swwae(self, x: Tensor) -> SWWAEOutput:
        """Images (B, in_chans, H, W) -> logits, reconstruction and middles; the encoder runs once."""
        encoding = self.forward_encoder(x)
        return SWWAEOutput(self.forward_head(encoding.features), *self.forward_decoder(encoding))

    def forget_where(self, encoding: Any) -> Any:
        """The encoding with every where replaced by the middle of its window, so that only the whats carry position."""
        raise NotImplementedError

    def with_where(self, encoding: Any, other: Any) -> Any:
        """The encoding with the wheres of another one: what of one view, where of another.

        The decoder starts from ``encoding``'s top what; the middles compare with the whats of ``other``.

        Args:
            encoding, other: of two views of the same images.
        """
        return other._replace(whats=(*other.whats[:-1], encoding.whats[-1]), features=encoding.features)

    def with_targets(self, encoding: Any, other: Any) -> Any:
        """The encoding with the whats of another one as targets of the middles: those of the clean image, say.

        Args:
            encoding, other: of two views of the same images.
        """
        return encoding._replace(whats=(*other.whats[:-1], encoding.whats[-1]))


def select_features(features: Any, images: slice) -> Any:
    """The features of some of the images of a batch; features may be any structure of tensors (B, ...).

    Example: ``model.forward_head(select_features(encoding.features, slice(0, num_labeled)))``.
    """
    return tree_map_only(Tensor, lambda tensor: tensor[images], features)


def pair_of(img_size: int | tuple[int, int]) -> tuple[int, int]:
    """(height, width) of one number or two.

    Raises:
        ValueError: any other number of them.
    """
    pair = (img_size, img_size) if isinstance(img_size, int) else tuple(img_size)
    if len(pair) != 2:
        raise ValueError(f"img_size is {img_size}: expected one number, or (height, width)")
    return pair
