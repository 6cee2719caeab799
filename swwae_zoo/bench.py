"""What a SWWAE step costs beside the plain convnet's: time and peak memory on the same batch.

Both steps take every image through encoder and head, make all gradients and update the weights with AdamW; the
SWWAE's also runs the decoder and its losses, so with a decoder of equal size a ratio of about 2 is the floor.
"""
from __future__ import annotations

import statistics
import time
import weakref
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import timm
import torch
from timm.optim import create_optimizer_v2
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from .describe import check_model_name
from .evaluate import Autocast
from .losses import Lambdas
from .swwae import SWWAE
from .task import SWWAETask

__all__ = ["Setting", "bench"]


class LiveBytes(TorchDispatchMode):
    """Bytes of all tensors alive at once, for devices whose allocator does not count them.

    Every storage that an operator returns is counted until it is freed; an operator's own scratch is not seen.

    Args:
        alive: tensors that are there from the start.
    """

    def __init__(self, alive: Iterable[Tensor]):
        super().__init__()
        self.now = self.peak = 0
        self._seen: set[int] = set()
        for tensor in alive:
            self._count(tensor)

    def _count(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key in self._seen:
            return
        self._seen.add(key)
        self.now += size
        self.peak = max(self.peak, self.now)

        def freed() -> None:
            self._seen.discard(key)
            self.now -= size

        weakref.finalize(storage, freed).atexit = False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self._count(leaf)
        return result


class Setting(NamedTuple):
    """How steps are run: images a step, device, mixed precision, memory format, compiled or not."""

    batch_size: int = 128
    device: torch.device = torch.device("cpu")
    amp: str = "off"
    channels_last: bool = True
    compile: bool = False


class Step:
    """One training step on random images; without a decoder's losses the model has no decoder either."""

    def __init__(self, name: str, model_args: Mapping[str, Any], with_decoder: bool, setting: Setting):
        layout = torch.channels_last if setting.channels_last else torch.contiguous_format
        model = timm.create_model(name, **model_args)
        if not isinstance(model, SWWAE) or model.num_classes == 0:
            raise ValueError(f"{name} can't be timed with {dict(model_args)}: expected a SWWAE with a classifier")
        middle = 1.0 if model.num_middles > 0 else 0.0
        lambdas = Lambdas(1.0, 1.0, middle) if with_decoder else Lambdas(1.0, 0.0, 0.0)
        if not with_decoder:
            model.decoder = nn.Identity()
        self.device = setting.device
        model = model.to(self.device, memory_format=layout).train()
        self.task = SWWAETask(model, lambdas, device=self.device)
        if setting.compile:
            self.task.compile()
        self.optimizer = create_optimizer_v2(model, opt="adamw", lr=1e-4)
        self.autocast = Autocast(setting.amp, self.device)
        size = (setting.batch_size, model.in_chans, *model.img_size)
        self.images = torch.rand(size, device=self.device).contiguous(memory_format=layout)
        self.target = torch.randint(model.num_classes, size[:1], device=self.device)

    def __call__(self) -> None:
        with self.autocast():
            loss = self.task(self.images, self.target)["loss"]
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()

    def seconds(self) -> float:
        synchronize(self.device)
        start = time.perf_counter()
        self()
        synchronize(self.device)
        return time.perf_counter() - start

    def peak_bytes(self, before: int) -> int:
        """The most that is alive at once; ``before`` is what was allocated before this object was made."""
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
            self()
            return torch.cuda.max_memory_allocated(self.device) - before
        with LiveBytes(self.tensors()) as live:
            self()
        return live.peak

    def tensors(self) -> Iterator[Tensor]:
        """All that outlives a step."""
        yield from (self.images, self.target, *self.task.parameters(), *self.task.buffers())
        yield from (parameter.grad for parameter in self.task.parameters() if parameter.grad is not None)
        yield from (value for state in self.optimizer.state.values() for value in state.values() if isinstance(value, Tensor))


def bench(
    name: str, model_args: Mapping[str, Any] | None = None, setting: Setting = Setting(), steps: int = 10
) -> dict[str, dict[str, float]]:
    """Times training steps of the convnet and of the SWWAE, turn about; the median counts.

    Args:
        name: as `timm.create_model` takes it.
        model_args: arguments for it.
        setting: see `Setting`.
        steps: timed steps of each.

    Returns:
        "convnet", "swwae" and their "ratio", each with "milliseconds" of a step and "mebibytes" at its peak (weights,
        gradients and optimiser state among them; left out where compiled steps can't be looked into: off CUDA).

    Raises:
        ValueError: an unknown model, or one without a decoder or classifier.
    """
    check_model_name(name)
    cuda = setting.device.type == "cuda"
    results: dict[str, dict[str, float]] = {}
    pair: dict[str, Step] = {}
    for label in ("convnet", "swwae"):
        before = torch.cuda.memory_allocated(setting.device) if cuda else 0
        step = pair[label] = Step(name, model_args or {}, label == "swwae", setting)
        for _ in range(3):  # makes the optimiser's state, chooses kernels, compiles
            step()
        results[label] = {"mebibytes": step.peak_bytes(before) / 2**20} if cuda or not setting.compile else {}
    times = [{label: step.seconds() for label, step in pair.items()} for _ in range(steps)]
    for label in pair:
        results[label]["milliseconds"] = 1000 * statistics.median(turn[label] for turn in times)
    results["ratio"] = {key: value / results["convnet"][key] for key, value in results["swwae"].items()}
    return results


def synchronize(device: torch.device) -> None:
    if device.type in ("cuda", "mps"):
        getattr(torch, device.type).synchronize()
