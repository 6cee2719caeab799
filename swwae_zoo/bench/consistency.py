"""The training step with consistency, from uint8 images to updated weights, ours and as it is commonly written.

Both take a quarter of a batch as labelled images and the rest as unlabelled ones in a weak and a strong view.

    consistency         ours: views in batch on the device, one encoder pass over labelled and strong views
    plain-consistency   plain PyTorch: views by torchvision, image by image in two DataLoader workers; a forward pass
                        each for labelled images, strong views and the teacher's weak views; the moving average in a
                        loop over parameters
"""

from __future__ import annotations

import copy
import time
from collections.abc import Iterator, Mapping
from typing import Any

import timm
import torch
import torch.nn.functional as F
from timm.optim import create_optimizer_v2
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from swwae_zoo.bench.plain import PlainSWWAE
from swwae_zoo.bench.steps import BenchSettings, TimedStep, synchronize
from swwae_zoo.data import AUGMENT, STRONG, RandomView
from swwae_zoo.loss import Lambdas
from swwae_zoo.models import SWWAE
from swwae_zoo.task import SWWAETask
from swwae_zoo.utils.precision import Autocast

__all__ = ["CONSISTENCY_KINDS", "ConsistencyStep"]

CONSISTENCY_KINDS = ("consistency", "plain-consistency")
DECAY, CONFIDENCE = 0.99, 0.95
TURN = 6  # steps timed together, so that work done ahead by other processes is paid for


class ConsistencyStep(TimedStep):
    """One step of either kind; see `TimedStep`.

    Raises:
        ValueError: a model without classifier, or one that the plain PyTorch version does not cover.
    """

    def __init__(self, row: str, name: str, model_args: Mapping[str, Any], settings: BenchSettings):
        self.row, self.kind, self.settings, self.device = row, row, settings, settings.device
        torch.manual_seed(0)
        model = timm.create_model(name, **model_args)
        if not isinstance(model, SWWAE) or model.num_classes == 0:
            raise ValueError(f"{name} can't be timed with {dict(model_args)}: expected a SWWAE with a classifier")
        self.layout = torch.channels_last if settings.channels_last else torch.contiguous_format
        self.size, self.labeled = model.img_size, max(1, settings.batch_size // 4)
        torch.manual_seed(0)
        self.images = torch.randint(256, (settings.batch_size, model.in_chans, *self.size), dtype=torch.uint8)
        self.target = torch.randint(model.num_classes, (self.labeled,), device=self.device)
        self.autocast = Autocast(settings.amp, self.device)
        self.step = 0
        if row == "consistency":
            self.images = self.images.to(self.device)
            task = SWWAETask(model, Lambdas(1.0, 0.0, 0.0, consistency=1.0), device=self.device)
            self.module: nn.Module = task
            task.to(device=self.device, memory_format=self.layout).train()  # pyright: ignore[reportCallIssue]
            task.setup_ema(DECAY)
            photo = model.in_chans == 3
            views = AUGMENT["photo" if photo else "shift"], STRONG["photo" if photo else "grey"]
            self.weak, self.strong = (RandomView(view, self.size) for view in views)
            self.random = torch.Generator().manual_seed(0)
        else:
            self.module = self._plain(model)
            self.module.to(device=self.device, memory_format=self.layout).train()  # pyright: ignore[reportCallIssue]
            self.teacher: Any = copy.deepcopy(self.module).requires_grad_(False)
            self.batches = _torchvision_batches(self.images, self.labeled)
        self.optimizer = create_optimizer_v2(
            [p for p in self.module.parameters() if p.requires_grad],
            opt="adamw",
            lr=1e-4,
            fused=self.device.type in ("cpu", "cuda"),
        )

    def __call__(self) -> None:
        with self.autocast():
            loss = self._our_loss() if self.row == "consistency" else self._plain_loss()
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        self.step += 1
        if isinstance(self.module, SWWAETask):
            self.module.update_ema(self.step)
        else:
            with torch.no_grad():
                for own, average in zip(self.module.parameters(), self.teacher.parameters(), strict=True):
                    average.mul_(DECAY).add_(own, alpha=1 - DECAY)

    def _our_loss(self) -> Tensor:
        images = self.images.float() / 255
        labeled, unlabeled = images[: self.labeled], images[self.labeled :]
        seen = torch.cat([self.weak(labeled, self.random), self.strong(unlabeled, self.random)])
        weak = self.weak(unlabeled, self.random)
        return self.module(self._laid_out(seen), self.target, self._laid_out(weak))["loss"]

    def _plain_loss(self) -> Tensor:
        assert isinstance(self.module, PlainSWWAE)
        labeled, weak, strong = (self._laid_out(part.to(self.device)) for part in next(self.batches))
        loss = F.cross_entropy(self.module.classify(labeled), self.target)
        with torch.no_grad():
            largest, target = self.teacher.classify(weak).float().softmax(1).max(1)
        losses = F.cross_entropy(self.module.classify(strong), target, reduction="none")
        return loss + (losses * (largest >= CONFIDENCE)).mean()

    def _laid_out(self, x: Tensor) -> Tensor:
        return x.contiguous(memory_format=self.layout)

    def seconds(self) -> float:
        synchronize(self.device)
        start = time.perf_counter()
        for _ in range(TURN):
            self()
        synchronize(self.device)
        return (time.perf_counter() - start) / TURN


class _Views(Dataset):
    """Image i of an endless set: a weak and a strong view by torchvision, or the weak one alone."""

    def __init__(self, images: Tensor):
        from torchvision import transforms as T

        photo, side = images.shape[1] == 3, min(images.shape[2:])
        shift = (4 if photo else 2) * side // 32
        flip = [T.RandomHorizontalFlip()] if photo else []
        self.weak = T.Compose([T.ToPILImage(), *flip, T.RandomCrop(images.shape[2:], padding=shift), T.ToTensor()])
        colour = [T.ColorJitter(0.4, 0.6, 0.8)] if photo else []
        affine = T.RandomAffine(20, (0.1, 0.1), (0.85, 1.15), (-11, 11, 0, 0), T.InterpolationMode.BILINEAR)
        erase = [T.RandomErasing(1.0, (0.16, 0.16), (1, 1))] if photo else []
        self.strong = T.Compose([T.ToPILImage(), *flip, affine, *colour, T.ToTensor(), *erase])
        self.images = images

    def __len__(self) -> int:
        return 1 << 30

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        image = self.images[index % len(self.images)]
        return self.weak(image), self.strong(image)


def _torchvision_batches(images: Tensor, labeled: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Endless (labelled, weak, strong) batches from two worker processes."""
    loader = DataLoader(_Views(images), batch_size=len(images), num_workers=2, persistent_workers=True)
    for weak, strong in loader:
        yield weak[:labeled], weak[labeled:], strong[labeled:]
