"""timm's optimisers and schedulers as a recipe asks for them, counted in steps."""

from __future__ import annotations

import difflib
from typing import Any

from timm.optim import create_optimizer_v2, get_optimizer_info, list_optimizers
from timm.scheduler import create_scheduler_v2
from timm.scheduler.scheduler import Scheduler
from torch import nn
from torch.optim import Optimizer

from swwae_zoo.config import RunConfig
from swwae_zoo.optim.finetune import parameter_groups

__all__ = ["create_optimizer", "create_scheduler"]

FUSED = ("adam", "adamw", "sgd")  # torch's own with a kernel that passes over the weights once


def create_optimizer(config: RunConfig, model: nn.Module) -> Optimizer:
    """timm's optimiser by its name; weight decay leaves biases and norms alone, as timm has it.

    Raises:
        ValueError: no such optimiser (with the nearest), or one that does not take what the recipe gives.
    """
    infos = {str(name): get_optimizer_info(str(name)) for name in list_optimizers()}
    own = infos.get(config.opt.lower().removeprefix("lookahead_"))
    if own is not None and own.second_order:  # torch's convolutions would have to keep the graph of each gradient
        raise ValueError(f"opt: {config.opt!r} needs second derivatives, which training does not keep; choose adamw")
    names = [name for name, info in infos.items() if not info.second_order]
    if config.opt.lower().removeprefix("lookahead_") not in names:
        near = difflib.get_close_matches(config.opt.lower(), names, n=1)
        hint = f"did you mean {near[0]}?" if near else f"expected one of {', '.join(names)}"
        raise ValueError(f"opt: got {config.opt!r}, no optimiser of timm's; {hint}")
    if config.opt_betas and own is not None and not own.has_betas:
        raise ValueError(f"opt_betas: got {config.opt_betas}, but {config.opt} has none: leave them out")
    betas: dict[str, Any] = {"betas": tuple(config.opt_betas)} if config.opt_betas else {}
    fused: dict[str, Any] = {"fused": True} if config.opt.lower() in FUSED else {}
    try:
        groups = model  # timm's own grouping, unless learning rates differ
        if config.lr_encoder or config.layer_decay < 1:
            groups = parameter_groups(model, config.weight_decay, config.lr, config.lr_encoder, config.layer_decay)
        return create_optimizer_v2(
            groups,
            opt=config.opt,
            lr=config.lr,
            weight_decay=config.weight_decay,
            momentum=config.momentum,
            **betas,
            **fused,
        )
    except (ValueError, TypeError, ImportError, AssertionError, RuntimeError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(
            f"opt: {config.opt!r} can't be built: {reason:.200}; choose another, or other opt_betas"
        ) from error


def create_scheduler(config: RunConfig, optimizer: Optimizer, steps: int) -> Scheduler:
    """The learning rate of each step: a linear rise to ``lr`` over warmup_steps, then from ``lr`` down to ``min_lr``.

    Step number warmup_steps (the first is 0) is taken with ``lr``; ``min_lr`` is reached when the last step is done.

    Args:
        steps: of the whole run, the warm-up included.

    Raises:
        ValueError: the warm-up leaves no step for the schedule.
    """
    warmup = config.warmup_steps if config.warmup_steps >= 0 else steps // 20
    if warmup >= steps:
        raise ValueError(f"warmup_steps: got {warmup}, expected fewer than the run's {steps} steps")
    scheduler, _ = create_scheduler_v2(
        optimizer,
        sched=config.sched,
        num_epochs=steps - warmup,
        min_lr=config.min_lr,
        warmup_epochs=warmup,
        warmup_lr=config.lr / (warmup + 1),
        warmup_prefix=True,
        step_on_epochs=False,
        updates_per_epoch=1,
    )
    assert isinstance(scheduler, Scheduler), config.sched
    return scheduler
