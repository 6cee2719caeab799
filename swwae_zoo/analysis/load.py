"""A trained model from any of four places, and what one does with it: predict, reconstruct, or use it as it is."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, overload

import numpy as np
import safetensors
import timm
import torch
from PIL import Image
from torch import Tensor

from swwae_zoo.analysis.preprocess import PictureLike, Transform, is_single, transform_of
from swwae_zoo.config import RunConfig
from swwae_zoo.data import Preprocess
from swwae_zoo.hub.config import read_model_config
from swwae_zoo.hub.remote import CONFIG
from swwae_zoo.models._base import SWWAE
from swwae_zoo.training.build import resolve_device
from swwae_zoo.training.figures import reconstruct, reconstruct_without_where
from swwae_zoo.training.places import find_place
from swwae_zoo.training.trainer import lambdas_of
from swwae_zoo.utils.precision import Autocast
from swwae_zoo.utils.text import printable

__all__ = ["Prediction", "Trained", "load"]

BATCH = 64  # pictures of a list that go through the net at once


class Prediction(NamedTuple):
    """A class's name, and its probability from 0 to 1."""

    name: str
    probability: float


@dataclass(frozen=True, repr=False)
class Trained:
    """A trained model, in eval mode, with what its training knew: made by `load`.

    Attributes:
        name: of the place it was loaded from.
        folder: that holds its config.json and model.safetensors.
        model: on `device`; timm's and torch's tools take it as it is.
        transform: pictures -> its input, as in training; see `Transform`.
        label_names: of its classes, in the order of the logits; "0", "1", ... where training knew no names.
        config: the recipe it was trained by; None where only a run would know.
        device: where the model is.
    """

    name: str
    folder: Path
    model: SWWAE
    transform: Transform
    label_names: tuple[str, ...]
    config: RunConfig | None
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    def __repr__(self) -> str:
        classes = f"{self.model.num_classes} classes"
        return f"Trained({printable(self.name)!r}, {printable(self.model.text)!r}, {classes}, on {self.device})"

    @property
    def prepare(self) -> Preprocess:
        """uint8 images (B, C, H, W) of a data set -> the model's input, on their device."""
        return self.transform.prepare

    @property
    def classifies(self) -> bool:
        """Whether there is a classifier, and it was trained as far as is known."""
        trained = self.config is None or lambdas_of(self.config).classifies
        return trained and self.model.num_classes > 0

    @property
    def reconstructs(self) -> bool:
        """Whether there is a decoder, and it was trained as far as is known."""
        trained = self.config is None or lambdas_of(self.config).runs_decoder
        return trained and self.model.decoder is not None

    def autocast(self, amp: str | None = None) -> Autocast:
        """Mixed precision of this model's evaluations: as in its training, where that is known.

        Args:
            amp: another: "auto", "off", "bf16" or "fp16".

        Raises:
            ValueError: another word, or what the device can't do.
        """
        if amp is None:
            amp = "off" if self.config is None else self.config.amp
            if amp == "fp16" and self.device.type == "cpu":  # trained on a GPU
                amp = "off"
        return Autocast(amp, self.device)

    def input(self, x: Tensor) -> Tensor:
        """The model's input on its device, in the memory format of the model."""
        x = x.to(self.device)
        return x.contiguous(memory_format=_layout(self.config))

    @overload
    def predict(
        self, pictures: str | os.PathLike[str] | Image.Image, top: int = 3, amp: str | None = None
    ) -> list[Prediction]: ...
    @overload
    def predict(
        self, pictures: PictureLike | Sequence[PictureLike], top: int = 3, amp: str | None = None
    ) -> list[Any]: ...
    def predict(self, pictures: PictureLike | Sequence[PictureLike], top: int = 3, amp: str | None = None) -> list[Any]:
        """The likeliest classes of pictures: `m.predict("a.png")[0].name`.

        Args:
            pictures: a path, a PIL image, a uint8 tensor (C, H, W) or (B, C, H, W), a uint8 array (H, W), (H, W, C)
                or (B, H, W, C), or a list of single ones.
            top: how many classes, all of them where there are fewer.
            amp: mixed precision, as in training by default.

        Returns:
            Of one picture a list of `Prediction`, likeliest first; of several a list of such lists.

        Raises:
            ValueError: a picture that can't be read, or a model without a (trained) classifier; one line.
        """
        self.check_classifier()
        single, found = is_single(pictures), []
        for pixels in _batches(self.transform.pixels(pictures)):
            found += self.predictions(pixels, top, amp)
        if not found:
            raise ValueError("got an empty list of pictures, expected at least one")
        return found[0] if single else found

    @torch.inference_mode()
    def predictions(self, pixels: Sequence[Tensor], top: int = 3, amp: str | None = None) -> list[list[Prediction]]:
        """`predict` of one batch of what `transform.pixels` gives: (C, h, w) uint8."""
        if top < 1:
            raise ValueError(f"top: got {top}, expected at least 1")
        x = self.input(self.prepare.normalise(self.transform.fit(pixels, self.device)))
        with self.autocast(amp)():
            logits = self.model(x)
        best = logits.float().softmax(dim=1).topk(min(top, self.model.num_classes))
        return [
            [Prediction(self.label_names[place], value) for place, value in zip(places, values, strict=True)]
            for places, values in zip(best.indices.tolist(), best.values.tolist(), strict=True)
        ]

    def check_classifier(self) -> None:
        """Refuses a model whose classes mean nothing.

        Raises:
            ValueError: it has no classifier, or one that was not trained.
        """
        if self.model.num_classes == 0:
            raise ValueError(
                f"{printable(self.name)} has no classifier (num_classes = 0): there are no classes to name"
            )
        if not self.classifies:
            raise ValueError(
                f"{printable(self.name)} learnt without labels (lambda_nll = 0), so its classifier is as it was drawn: "
                "train one on it with `swwae train --init`"
            )

    def check_decoder(self) -> None:
        """Refuses a model whose reconstructions mean nothing.

        Raises:
            ValueError: it has no decoder, or one that was not trained.
        """
        if self.model.decoder is None:
            raise ValueError(f"{printable(self.name)} has no decoder: there is nothing to reconstruct with")
        if not self.reconstructs:
            raise ValueError(
                f"{printable(self.name)} learnt without reconstruction (lambda_rec = lambda_middle = 0), so its "
                "decoder is as it was drawn"
            )

    @overload
    def reconstruct(self, pictures: Tensor, where: bool = True) -> Tensor: ...
    @overload
    def reconstruct(self, pictures: str | os.PathLike[str] | Image.Image, where: bool = True) -> Image.Image: ...
    @overload
    def reconstruct(self, pictures: Any, where: bool = True) -> Any: ...
    def reconstruct(self, pictures: Any, where: bool = True) -> Any:
        """What the net makes of pictures again: `m.reconstruct("a.png").save("again.png")`.

        Args:
            pictures: as for `predict`.
            where: False throws the where away, so that only the what tells where things are.

        Returns:
            Tensors for tensors: float32 from 0 to 1, (C, S, T) or (B, C, S, T), on the model's device. Else a
            `PIL.Image` in the model's size, or a list of them.

        Raises:
            ValueError: a picture that can't be read, or a model without a (trained) decoder; one line.
        """
        self.check_decoder()
        if isinstance(pictures, Tensor):
            parts = [self._again(pixels, where) for pixels in _batches(self.transform.pixels(pictures))]
            return parts[0][0] if is_single(pictures) else torch.cat(parts)
        images: list[Image.Image] = []
        for pixels in _batches(self.transform.pixels(pictures)):
            grey = self._again(pixels, where).mul(255).round().to(torch.uint8).cpu()
            images += [Image.fromarray(np.ascontiguousarray(each.permute(1, 2, 0).squeeze(2).numpy())) for each in grey]
        if not images:
            raise ValueError("got an empty list of pictures, expected at least one")
        return images[0] if is_single(pictures) else images

    def _again(self, pixels: Sequence[Tensor], where: bool) -> Tensor:
        fitted = self.transform.fit(pixels, self.device)
        x = self.input(self.prepare.normalise(fitted))
        made = (reconstruct if where else reconstruct_without_where)(self.model, x)
        return self.prepare.denormalise(made, fitted).clamp(0, 1)


def load(place: str | os.PathLike[str], weights: str | None = None, device: str | torch.device = "auto") -> Trained:
    """Loads a trained model: `m = swwae_zoo.load("runs/x"); m.predict("a.png")`.

    Args:
        place: a run directory of `swwae train`, one of its rounds, or the last/ or best/ of one; a folder with
            config.json and model.safetensors; "hf-hub:ORG/NAME[@REVISION]"; or a tag ("swwae_mnist.mnist_100").
        weights: of a run: "last" (the default, whose test error its result.json states) or "best".
        device: "auto" (a GPU where there is one), "cpu", "cuda", "cuda:N" or "mps".

    Raises:
        ValueError: none of the four, nothing there yet, several rounds of which one has to be chosen, or weights that
            can't be read or belong to another net; one line.
    """
    on = device if isinstance(device, torch.device) else resolve_device(device)
    found = find_place(place, weights)
    try:
        known = read_model_config(found.folder / CONFIG, local=True)  # timm would stumble over another JSON
        model = timm.create_model(f"local-dir:{found.folder}", pretrained=True)
    except (OSError, RuntimeError, ValueError, TypeError, KeyError, safetensors.SafetensorError) as error:
        line = printable(" ".join(str(error).split()), 300)
        raise ValueError(
            f"{printable(found.folder)}/model.safetensors can't be loaded into the model of its config.json: {line}"
        ) from error
    if not isinstance(model, SWWAE):
        raise ValueError(f"{printable(found.name)}: got a {type(model).__name__}, expected a SWWAE")
    layout = _layout(found.config)
    model = model.eval().to(device=on, memory_format=layout)  # pyright: ignore[reportCallIssue]
    names = tuple(known.pretrained_cfg.get("label_names") or ())[: model.num_classes]
    names += tuple(str(place) for place in range(len(names), model.num_classes))
    return Trained(found.name, found.folder, model, transform_of(model), names, found.config, on)


def _layout(config: RunConfig | None) -> torch.memory_format:
    """That of the training, so that evaluation gives its figures; channels-last, which is faster, where unknown."""
    return torch.channels_last if config is None or config.channels_last else torch.contiguous_format


def _batches(pixels: Any) -> Any:
    """Lists of up to `BATCH` of them."""
    batch: list[Tensor] = []
    for each in pixels:
        batch.append(each)
        if len(batch) == BATCH:
            yield batch
            batch = []
    if batch:
        yield batch
