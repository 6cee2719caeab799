"""The training steps that are timed, on the same random images.

Each runs every image through encoder and head, computes all gradients and updates the weights with AdamW:

    convnet    the plain convnet: every lambda but lambda_nll is 0
    swwae      ours: eq. (1) with its decoder
    upsample   ours, with a decoder that copies each what to its whole window, the paper's ablation
    plain      a SWWAE in plain PyTorch, with torch's own pools (see `plain.py`)

and each under torch.compile, as "convnet-compiled" and so on.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import timm
import torch
from timm.optim import create_optimizer_v2
from torch import Tensor, nn

from swwae_zoo.bench.memory import LiveBytes
from swwae_zoo.bench.plain import PlainSWWAE
from swwae_zoo.loss import Lambdas
from swwae_zoo.models._base import SWWAE
from swwae_zoo.task.swwae_task import SWWAETask
from swwae_zoo.utils.precision import Autocast

__all__ = ["STEP_KINDS", "BenchSettings", "TimedStep", "synchronize"]

STEP_KINDS = tuple(kind + suffix for kind in ("convnet", "swwae", "upsample", "plain") for suffix in ("", "-compiled"))


class BenchSettings(NamedTuple):
    """How steps are run.

    batch_size: images per step.
    amp: mixed precision, "off", "bf16" or "fp16".
    """

    batch_size: int = 128
    device: torch.device = torch.device("cpu")
    amp: str = "off"
    channels_last: bool = True


class TimedStep:
    """One training step on random images.

    Args:
        row: one of STEP_KINDS.
        name: a registered model with a classifier.
        model_args: its arguments.
        settings: see `BenchSettings`.

    Raises:
        ValueError: a model without decoder or classifier, or one that the plain PyTorch version does not cover.
    """

    def __init__(self, row: str, name: str, model_args: Mapping[str, Any], settings: BenchSettings):
        kind, _, compiled = row.partition("-")
        self.row, self.kind, self.settings, self.device = row, kind, settings, settings.device
        torch.manual_seed(0)
        model = timm.create_model(name, **{**model_args, **({"unpool": "upsample"} if kind == "upsample" else {})})
        if not isinstance(model, SWWAE) or model.num_classes == 0:
            raise ValueError(f"{name} can't be timed with {dict(model_args)}: expected a SWWAE with a classifier")
        layout = torch.channels_last if settings.channels_last else torch.contiguous_format
        size = (settings.batch_size, model.in_chans, *model.img_size)
        torch.manual_seed(0)  # again, so that every kind gets the same images
        self.images = torch.rand(size, device=self.device).contiguous(memory_format=layout)
        self.target = torch.randint(model.num_classes, size[:1], device=self.device)
        self.autocast = Autocast(settings.amp, self.device)
        self.module = self._plain(model) if kind == "plain" else self._ours(model)
        self.module.to(device=self.device, memory_format=layout).train()  # pyright: ignore[reportCallIssue]
        self.loss = self.module
        if compiled and kind == "plain":
            self.loss = torch.compile(self.module)
        elif compiled:
            self.module.compile()
        self.optimizer = create_optimizer_v2(
            self.module, opt="adamw", lr=1e-4, fused=self.device.type in ("cpu", "cuda")
        )

    def _ours(self, model: SWWAE) -> nn.Module:
        if self.kind == "convnet":
            model.decoder = nn.Identity()
            return SWWAETask(model, Lambdas(1.0, 0.0, 0.0))
        return SWWAETask(model, Lambdas(1.0, 1.0, 1.0 if model.num_middles else 0.0))

    def _plain(self, model: SWWAE) -> nn.Module:
        batch_norm = any(isinstance(module, nn.BatchNorm2d) for module in model.modules())
        plain = PlainSWWAE(model.text, model.in_chans, model.img_size[0], batch_norm)
        mine, theirs = (sum(p.numel() for p in net.parameters()) for net in (model, plain))
        if mine != theirs:
            raise ValueError(
                f"the plain PyTorch version has {theirs} parameters, this model {mine}: leave the row plain out"
            )
        return plain

    def __call__(self) -> None:
        with self.autocast():
            loss = self.loss(self.images, self.target)
        if self.kind != "plain":
            loss = loss["loss"]
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()

    def seconds(self) -> float:
        synchronize(self.device)
        start = time.perf_counter()
        self()
        synchronize(self.device)
        return time.perf_counter() - start

    def peak_bytes(self, before: int) -> int | None:
        """Peak bytes of live tensors in a step, with weights and optimiser state; None for compiled steps off CUDA.

        Args:
            before: bytes that were allocated on the device before this object was made.
        """
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
            self()
            return torch.cuda.max_memory_allocated(self.device) - before
        if self.row.endswith("-compiled"):
            return None
        with LiveBytes(self.tensors()) as live:
            self()
        return live.peak

    def tensors(self) -> Iterator[Tensor]:
        """Every tensor that outlives a step."""
        yield from (self.images, self.target, *self.module.parameters(), *self.module.buffers())
        yield from (parameter.grad for parameter in self.module.parameters() if parameter.grad is not None)
        yield from (
            value for state in self.optimizer.state.values() for value in state.values() if isinstance(value, Tensor)
        )


def synchronize(device: torch.device) -> None:
    if device.type in ("cuda", "mps"):
        getattr(torch, device.type).synchronize()
