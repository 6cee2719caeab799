"""The two-stream training step: one encoder pass over labelled and unlabelled images, eq. (1) on top."""

from __future__ import annotations

from typing import Any

import torch
from timm.task import TrainingTask
from torch import Tensor, nn

from swwae_zoo.loss.objective import Lambdas, l1_penalty, middle_losses, nll_loss, reconstruction_loss, total_loss
from swwae_zoo.models._base import SWWAE

__all__ = ["SWWAETask"]


class SWWAETask(TrainingTask):
    """Supervised, semi-supervised or unsupervised learning of a SWWAE, chosen by the lambdas alone.

    A term whose lambda is 0 costs nothing: without L2rec and L2M the decoder is not run, and without L1
    either, the unlabelled images are not even encoded: the step is the plain convnet's.

    Args:
        model: the net; its `forward_swwae` parts are used, so that the head sees labelled images only.
        lambdas: weights of the terms of eq. (1).
        detach_targets: whether L2M leaves the encoder's whats alone.

    Raises:
        ValueError: lambdas.middle does not fit the model's number of middles.
    """

    def __init__(self, model: SWWAE, lambdas: Lambdas, detach_targets: bool = False, device=None, dtype=None):
        super().__init__(device=device, dtype=dtype, verbose=False)
        lambdas.per_middle(model.num_middles)  # a wrong number of lambdas must not wait for the first step
        self.trainable_module = model
        self.lambdas = lambdas
        self.detach_targets = detach_targets
        self._losses = self._eager_losses

    @property
    def uses_unlabeled(self) -> bool:
        """Whether unlabelled images enter any term."""
        return self.lambdas.uses_unlabeled

    def compile(self, backend: str = "inductor", mode: str | None = None, **compile_kwargs: Any) -> nn.Module:
        """Compile the whole step (nets and losses) into one graph; evaluation stays eager."""
        self._losses = torch.compile(self._eager_losses, backend=backend, mode=mode, fullgraph=True, **compile_kwargs)
        return self.trainable_module

    def forward(self, input: Tensor, target: Tensor) -> dict[str, Tensor]:
        """Loss parts of one batch.

        Args:
            input: (L + U, C, H, W) images, the L labelled ones first.
            target: (L,) int64 classes.

        Returns:
            "loss": eq. (1); "nll", "rec", "middle" (sum over middles, unweighted), "l1": its parts, those that
            were computed; "output": logits (L, num_classes).  The loss alone carries a gradient.
        """
        if not self.uses_unlabeled:
            input = input[: target.shape[0]]
        return self._losses(input, target)

    def _eager_losses(self, input: Tensor, target: Tensor) -> dict[str, Tensor]:
        model, lambdas = self.trainable_module, self.lambdas
        labeled = target.shape[0]
        parts: dict[str, Tensor] = {}
        if not self.uses_unlabeled:
            logits = model(input)
            parts["nll"] = nll_loss(logits, target)
            return self._result(total_loss(lambdas, parts["nll"]), logits, parts)

        encoding = model.forward_encoder(input)
        logits = model.forward_head(encoding.features[:labeled])
        parts["nll"] = nll_loss(logits, target)
        middles: list[Tensor] = []
        if lambdas.runs_decoder:
            decoding = model.forward_decoder(encoding)
            parts["rec"] = reconstruction_loss(decoding.reconstruction, input)
            middles = middle_losses(decoding.middles, self.detach_targets)
            if middles:
                parts["middle"] = torch.stack(middles).sum()
        if lambdas.l1 > 0:
            parts["l1"] = l1_penalty(encoding.whats)
        loss = total_loss(lambdas, parts["nll"], parts.get("rec"), middles, parts.get("l1"))
        return self._result(loss, logits, parts)

    @staticmethod
    def _result(loss: Tensor, logits: Tensor, parts: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"loss": loss, "output": logits.detach(), **{name: part.detach() for name, part in parts.items()}}
