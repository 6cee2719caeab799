"""What a run must remember to go on as if it had never stopped."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from swwae_zoo.data import seeded

if TYPE_CHECKING:
    from swwae_zoo.training.trainer import Trainer

__all__ = ["capture", "restore"]


def capture(trainer: Trainer) -> dict[str, Any]:
    """Everything that decides what comes next: weights, average, optimiser, scaler, both streams, every random state.

    The scheduler is a function of the step and needs no state.  Every process calls this: dropout is drawn in each.
    """
    task = trainer.task
    return {
        "step": trainer.step,
        "seconds": trainer.seconds,
        "val_error": trainer.val_error,
        "best_error": trainer.best_error,
        "best_step": trainer.best_step,
        "images": _image_counts(trainer),
        "meter": trainer.meter.state_dict(),
        **task.get_checkpoint_state(),
        **(task.get_checkpoint_state(ema=True) if task.has_ema() else {}),
        "optimizer": trainer.optimizer.state_dict(),
        "scaler": trainer.scaler.state_dict(),
        "labeled_stream": trainer.labeled_stream.state_dict(),
        "unlabeled_stream": trainer.unlabeled_stream.state_dict(),
        "labeled_random": trainer.labeled_random.get_state(),
        "unlabeled_random": trainer.unlabeled_random.get_state(),
        "random": trainer.world.gather(_random_state(trainer.device)),
    }


def restore(trainer: Trainer, state: dict[str, Any], name: str) -> None:
    """Put ``trainer`` where ``state`` was captured.

    Args:
        name: the checkpoint's, for errors.

    Raises:
        ValueError: it is of another model, another optimiser or other data.
    """
    task = trainer.task
    try:
        task.load_checkpoint_state(state["state_dict"])
        if task.has_ema():
            task.load_checkpoint_state(state["state_dict_ema"], ema=True)
        trainer.optimizer.load_state_dict(state["optimizer"])
    except (RuntimeError, KeyError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{name} is of another model or optimiser than config.toml says: {reason:.200}") from error
    if state["images"] != _image_counts(trainer):
        raise ValueError(
            f"{name} was made with (labelled, unlabelled) images {state['images']}, got {_image_counts(trainer)}: "
            "give the data the run was begun with, or start over with --force"
        )
    trainer.scaler.load_state_dict(state["scaler"])
    trainer.labeled_stream.load_state_dict(state["labeled_stream"])
    trainer.unlabeled_stream.load_state_dict(state["unlabeled_stream"])
    trainer.labeled_random.set_state(state["labeled_random"])
    trainer.unlabeled_random.set_state(state["unlabeled_random"])
    if len(state["random"]) == trainer.world.size:
        _set_random_state(state["random"][trainer.world.rank], trainer.device)
    else:  # the batches are the same, but what each process drew for dropout cannot be continued
        trainer.progress.say(
            f"{name} is of {len(state['random'])} processes and goes on with {trainer.world.size}: the same "
            "batches, dropout drawn anew"
        )
        torch.manual_seed(seeded(trainer.config.seed, "dropout", state["step"], trainer.world.rank).initial_seed())
    trainer.step, trainer.seconds, trainer.val_error = state["step"], state["seconds"], state["val_error"]
    trainer.best_error, trainer.best_step = state["best_error"], state["best_step"]
    trainer.meter.load_state_dict(state["meter"], trainer.device)
    trainer.scheduler.step_update(trainer.step)


def _random_state(device: torch.device) -> dict[str, torch.Tensor]:
    state = {"cpu": torch.get_rng_state()}
    return {**state, "cuda": torch.cuda.get_rng_state(device)} if device.type == "cuda" else state


def _set_random_state(state: dict[str, torch.Tensor], device: torch.device) -> None:
    torch.set_rng_state(state["cpu"])
    if device.type == "cuda" and "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"], device)


def _image_counts(trainer: Trainer) -> list[int]:
    return [trainer.labeled_stream.n, trainer.unlabeled_stream.n]
