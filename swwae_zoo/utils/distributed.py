"""Many processes as one run: who this process is, its part of each batch, and the few things all of them agree on.

A launcher such as torchrun tells each process its place in the environment.  Without one `World()` is a world of
one process, in which every method here gives back what it was given.

Numbers and objects go between processors over gloo, whatever the device; only the gradients and the losses of a
GPU go over NCCL.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, NamedTuple, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

__all__ = ["LostProcess", "Share", "World", "connected"]

Result = TypeVar("Result")
DEFAULT_TIMEOUT = 600.0  # seconds; rank 0 alone writes and draws while the others wait


class LostProcess(ConnectionError):
    """Another process of this run is gone, or did not answer in time."""


class Share(NamedTuple):
    """A process's part of a batch: ``count`` images from ``first`` on, of ``whole``."""

    first: int
    count: int
    whole: int

    @property
    def slice(self) -> slice:
        return slice(self.first, self.first + self.count)


@dataclass(frozen=True)
class World:
    """The processes of one run, as one of them sees them.

    rank: this process, 0 to size - 1; rank 0 writes, logs and draws.
    size: how many there are.
    local_rank: this process among those of its machine.
    job: names the launch, the same in all its restarts; "" without a launcher.
    restarts: how often the launcher has started the processes anew.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    job: str = ""
    restarts: int = 0

    @classmethod
    def from_environment(cls) -> World:
        """The processes that torchrun, or any launcher that sets RANK and WORLD_SIZE, describes; else one process."""
        environ = os.environ
        if "RANK" not in environ or "WORLD_SIZE" not in environ:
            return cls()
        job = environ.get("TORCHELASTIC_RUN_ID", "")
        if job == "none":  # torchrun's word where nobody named the job; the parent lives as long as the job does
            job = f"parent {os.getppid()}"
        return cls(
            int(environ["RANK"]),
            int(environ["WORLD_SIZE"]),
            int(environ.get("LOCAL_RANK", environ["RANK"])),
            job,
            int(environ.get("TORCHELASTIC_RESTART_COUNT", 0)),
        )

    @property
    def first(self) -> bool:
        """Whether this is rank 0."""
        return self.rank == 0

    @property
    def launched(self) -> bool:
        """Whether a launcher started this process, and passes signals on to it."""
        return self.job != ""

    def share(self, whole: int, what: str = "images") -> Share:
        """This process's part of a batch of ``whole``; parts differ by one at most, lower ranks have the larger.

        Raises:
            ValueError: there are more processes than images.
        """
        if whole < self.size:
            raise ValueError(
                f"got {whole} {what} a step for {self.size} processes, expected at least one for each: "
                "start fewer, or take a larger batch"
            )
        count, more = divmod(whole, self.size)
        return Share(self.rank * count + min(self.rank, more), count + (self.rank < more), whole)

    def weight(self, share: Share) -> float:
        """What a mean over ``share`` counts, so that the mean over processes is the mean over the whole batch."""
        return self.size * share.count / share.whole

    def wrap(self, task: nn.Module, device: torch.device) -> nn.Module:
        """``task`` with gradients averaged over processes while backward runs; parameters no loss reaches keep none."""
        if self.size == 1:
            return task
        known = inspect.signature(DistributedDataParallel.__init__).parameters
        buffers = (
            "forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers"
        )  # its name before torch 2.14
        return DistributedDataParallel(
            task,
            device_ids=[device] if device.type == "cuda" else None,
            **cast(Any, {buffers: False}),
            gradient_as_bucket_view=True,
            static_graph=True,
        )

    def mean(self, values: dict[str, Tensor]) -> dict[str, Tensor]:
        """Scalars averaged over processes, on their device and without waiting for it."""
        if self.size == 1:
            return values
        stacked = torch.stack([value.float() for value in values.values()])
        dist.all_reduce(stacked)
        return dict(zip(values, (stacked / self.size).unbind(), strict=False))

    def sum(self, value: float) -> float:
        return self._reduce(value, dist.ReduceOp.SUM)

    def maximum(self, value: int) -> int:
        return int(self._reduce(value, dist.ReduceOp.MAX))

    def _reduce(self, value: float, how: dist.ReduceOp.RedOpType) -> float:
        if self.size == 1:
            return value
        tensor = torch.tensor(value, dtype=torch.float64)
        dist.all_reduce(tensor, how)
        return float(tensor)

    def gather(self, value: Any) -> list[Any]:
        """Every process's value, by rank."""
        values = [value] * self.size
        if self.size > 1:
            dist.all_gather_object(values, value)
        return values

    def from_first(self, make: Callable[[], Result]) -> Result:
        """What ``make`` gives in rank 0, where alone it is called."""
        box = [make() if self.first else None]
        if self.size > 1:
            dist.broadcast_object_list(box)
        return box[0]  # type: ignore[return-value]

    def copy_buffers(self, module: nn.Module) -> None:
        """Rank 0's buffers for all: each process's batch norm has seen its own part of each batch only."""
        if self.size > 1:
            for buffer in module.buffers():
                dist.broadcast(buffer, 0)

    def barrier(self) -> None:
        """Wait until every process is here."""
        self.maximum(0)

    @contextmanager
    def one_per_machine_first(self) -> Iterator[None]:
        """Inside, the first process of each machine goes ahead: it downloads what the others then find."""
        if self.local_rank > 0:
            self.barrier()
        yield
        if self.local_rank == 0:
            self.barrier()


def _store(world: World, timeout: float) -> dict[str, Any]:
    """Where the processes find each other: the launcher's store, under names of this restart's own.

    torchrun keeps its store across restarts on one machine, so a process that asks early would get a dead one's
    address. With several machines each counts its own restarts, so there the launcher's way is taken.
    """
    if world.restarts == 0 or os.environ.get("LOCAL_WORLD_SIZE") != str(world.size):
        return {}
    store, rank, size = next(dist.rendezvous("env://", timeout=timedelta(seconds=timeout)))
    return {"store": dist.PrefixStore(f"restart {world.restarts}", store), "rank": rank, "world_size": size}


@contextmanager
def connected(world: World, device: torch.device) -> Iterator[None]:
    """Inside, the processes of ``world`` can reach each other.

    SWWAE_TIMEOUT: seconds after which a process that does not answer counts as dead; 600 by default.

    Args:
        device: where this process computes; gradients go over NCCL between CUDA devices, else over gloo.

    Raises:
        LostProcess: another process is gone.
        ValueError: SWWAE_TIMEOUT is no number above 0.
    """
    if world.size == 1:
        yield
        return
    timeout, lost = _timeout(), False
    if device.type == "cuda":
        torch.cuda.set_device(device)
    try:
        dist.init_process_group(
            "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo",
            timeout=timedelta(seconds=timeout),
            **_store(world, timeout),
        )
        yield
    except RuntimeError as error:
        lost = _tells_of_a_lost_process(error)
        if not lost:
            raise
        reason = " ".join(str(error).split())
        raise LostProcess(
            f"process {world.rank} of {world.size} stops: another one is gone, or did not answer within {timeout:g} s; "
            f"the last checkpoint is kept, --resume goes on ({reason:.120})"
        ) from error
    finally:
        if dist.is_initialized() and not lost:  # saying goodbye to the dead can take forever
            dist.destroy_process_group()


def _timeout() -> float:
    text = os.environ.get("SWWAE_TIMEOUT", "")
    try:
        seconds = float(text or DEFAULT_TIMEOUT)
    except ValueError:
        seconds = 0.0
    if not seconds > 0:
        raise ValueError(f"SWWAE_TIMEOUT: got {text!r}, expected seconds, a number above 0")
    return seconds


def _tells_of_a_lost_process(error: RuntimeError) -> bool:
    """gloo's errors are plain RuntimeErrors, known by their words."""
    if isinstance(error, dist.DistError):
        return True
    text = str(error).lower()
    return "gloo" in text or any(
        words in text for words in ("connection closed", "connection reset", "timed out", "broken pipe")
    )
