"""The training loop of one run: two seeded streams, one optimiser step on eq. (1), checkpoints to resume from."""
from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from timm.optim import create_optimizer_v2
from timm.scheduler import create_scheduler_v2
from torch import Tensor

from . import pictures
from .config import RunConfig
from .data import IndexStream, Preprocess, ResidentImages, Splits, seeded
from .evaluate import Autocast, classification_error, mean_reconstruction_loss
from .interrupt import Interrupt
from .losses import Lambdas
from .progress import Progress
from .run_directory import RunDirectory
from .swwae import SWWAE
from .task import SWWAETask

__all__ = ["Trainer"]

PARTS = ("loss", "nll", "rec", "middle", "l1")


class Trainer:
    """One run, from its first step or its last checkpoint to its result.

    The checkpoint holds everything that decides what comes next (model, average, optimiser, scaler, both
    streams, every random state), so a resumed run ends in the weights an unbroken one has, bit for bit on
    the same CPU.

    Args:
        config: the recipe of this one run.
        model: the net, freshly initialised.
        splits: labelled, unlabelled, validation and test images.
        directory: where everything is written.
        device: where it runs.
        progress: told what happens.

    Raises:
        ValueError: an optimiser timm does not know, lambdas that don't fit the model, a checkpoint of another net.
    """

    def __init__(
        self, config: RunConfig, model: SWWAE, splits: Splits, directory: RunDirectory, device: torch.device,
        progress: Progress,
    ):
        self.config, self.directory, self.device, self.progress = config, directory, device, progress
        self.autocast = Autocast(config.amp, device)
        self.model = model.to(device, memory_format=torch.channels_last if config.channels_last else torch.contiguous_format)
        middle = config.lambda_middle
        lambdas = Lambdas(config.lambda_nll, config.lambda_rec, tuple(middle) if isinstance(middle, list) else middle, config.lambda_l1)
        self.task = SWWAETask(self.model, lambdas, config.detach_targets, device=device)
        if config.ema:
            self.task.setup_ema(config.ema, use_warmup=True)
        if config.compile:
            self.task.compile()
        self._set_data(splits)
        self.steps = config.steps or config.epochs * self.steps_per_epoch
        self._set_optimizer()
        self.scaler = torch.amp.GradScaler(device.type, enabled=config.amp == "fp16")
        self.step, self.seconds = 0, 0.0
        self.best_error, self.best_step = math.inf, 0
        self.save_every = config.save_every or math.ceil(self.steps / 10)
        self.eval_every = config.eval_every or math.ceil(self.steps / 10)
        self.log_every = config.log_every or math.ceil(self.steps / 50)

    def _set_data(self, splits: Splits) -> None:
        config, cfg = self.config, self.model.pretrained_cfg
        self.prepare = Preprocess(
            self.model.head.img_size, mean=cfg["mean"], std=cfg["std"], contrast=config.contrast,
            translate=config.translate, mirror=config.mirror,
        )
        self.labeled = ResidentImages(splits.labeled, self.device)
        self.val, self.test = (s and ResidentImages(s, self.device) for s in (splits.val, splits.test))
        uses_unlabeled = self.task.uses_unlabeled and splits.unlabeled is not None
        self.unlabeled = ResidentImages(splits.unlabeled, self.device) if uses_unlabeled else None
        # an epoch is a pass over the unlabelled images, for the twin too, which does not look at them
        stream_length, batch = len(self.labeled), config.labeled_batch
        if splits.unlabeled is not None:
            stream_length, batch = splits.unlabeled.images.shape[0], config.batch_size
        self.steps_per_epoch = math.ceil(stream_length / batch)
        self.labeled_stream = IndexStream(len(self.labeled), min(config.labeled_batch, len(self.labeled)), config.seed)
        self.labeled_random = seeded(config.seed, "augment labelled")
        self.unlabeled_stream = IndexStream(stream_length, batch, config.seed + 1)
        self.unlabeled_random = seeded(config.seed, "augment unlabelled")

    def _set_optimizer(self) -> None:
        config = self.config
        betas = {"betas": tuple(config.opt_betas)} if config.opt_betas else {}
        try:
            self.optimizer = create_optimizer_v2(
                self.model, opt=config.opt, lr=config.lr, weight_decay=config.weight_decay, momentum=config.momentum, **betas)
        except (ValueError, TypeError) as error:
            raise ValueError(f"opt is {config.opt!r}: {error}; timm.optim.list_optimizers() shows them all") from error
        self.scheduler, _ = create_scheduler_v2(
            self.optimizer, sched=config.sched, num_epochs=self.steps, warmup_epochs=config.warmup_steps,
            warmup_lr=config.lr / (config.warmup_steps + 1), min_lr=config.min_lr, step_on_epochs=False, updates_per_epoch=1,
        )

    # --- one step -----------------------------------------------------------------------------------

    def next_batch(self) -> tuple[Tensor, Tensor]:
        """(L + U, C, H, W) images, labelled first, and (L,) targets."""
        images, target = self.labeled.batch(self.labeled_stream.next())
        x = self.prepare(images, train=True, generator=self.labeled_random)
        if self.unlabeled is not None:
            images, _ = self.unlabeled.batch(self.unlabeled_stream.next())
            x = torch.cat([x, self.prepare(images, train=True, generator=self.unlabeled_random)])
        if self.config.channels_last:
            x = x.contiguous(memory_format=torch.channels_last)
        return x, target

    def train_step(self) -> dict[str, Tensor]:
        """One update of the weights; gives the loss parts, detached."""
        x, target = self.next_batch()
        with self.autocast():
            parts = self.task(x, target)
        self.optimizer.zero_grad(set_to_none=True)
        self.scaler.scale(parts["loss"]).backward()
        if self.config.clip_grad:
            self.scaler.unscale_(self.optimizer)
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.config.clip_grad)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.step += 1
        self.task.update_ema(self.step)
        self.scheduler.step_update(self.step)
        return {name: parts[name].detach() for name in PARTS if name in parts}

    # --- the loop -----------------------------------------------------------------------------------

    def run(self) -> dict[str, Any]:
        """Train to the end; gives the result that is also written to result.json.

        Raises:
            ValueError: the loss is not finite any more; the last checkpoint before that is kept.
            KeyboardInterrupt: SIGINT or SIGTERM came; the state is saved.
        """
        done = self.directory.read_json("result.json")
        if done is not None:
            self.progress.say(f"{self.directory.path}: finished already")
            return done
        state = self.directory.load_checkpoint()
        if state is None:
            self.directory.write_start(self.config)
            self.directory.cut_metrics(-1)
        else:
            self._load(state)
            self.progress.say(f"{self.directory.path}: going on behind step {self.step}")
        self.model.train()
        with Interrupt() as interrupt, self.progress.run(str(self.directory.path), self.steps, self.step):
            while self.step < self.steps:
                self._train_until_next_stop(interrupt)
                if self.step % self.eval_every == 0 or self.step == self.steps:
                    self._evaluate()
                if self.step % self.save_every == 0 or self.step == self.steps or interrupt:
                    self._save()
                if interrupt:
                    raise interrupt.stopped(f"stopped at step {self.step}; go on with: swwae train --resume --out {self.config.out}")
        return self._finish()

    def _train_until_next_stop(self, interrupt: Interrupt) -> None:
        """Steps up to the next line of the log, evaluation, or checkpoint."""
        start, first, totals, images = time.perf_counter(), self.step, {}, 0
        while True:
            parts = self.train_step()
            images += self.labeled_stream.batch_size + (self.unlabeled_stream.batch_size if self.unlabeled is not None else 0)
            for name, value in parts.items():
                totals[name] = totals.get(name, 0.0) + value
            if self.device.type == "cpu" and not math.isfinite(parts["loss"]):
                break  # elsewhere each look at the loss would wait for the device
            at = self.step
            if at == self.steps or interrupt or any(at % every == 0 for every in (self.log_every, self.eval_every, self.save_every)):
                break
        means = {name: float(value) / (self.step - first) for name, value in totals.items()}
        seconds = time.perf_counter() - start
        self.seconds += seconds
        if not math.isfinite(means["loss"]):
            self._stop_for_nan(means, first)
        rate = images / seconds
        lr = self.optimizer.param_groups[0]["lr"]
        epoch = self.step / self.steps_per_epoch
        self.directory.log(step=self.step, epoch=round(epoch, 4), lr=lr, **means, images_per_second=round(rate, 1))
        self.progress.step(self.step, means, rate)

    def _stop_for_nan(self, means: dict[str, float], first: int) -> None:
        bad = [name for name, value in means.items() if name != "loss" and not math.isfinite(value)] or ["loss"]
        saved = self.directory.load_checkpoint()
        kept = f"the checkpoint of step {saved['step']} is kept" if saved else "there was no checkpoint yet"
        raise ValueError(
            f"the loss is no longer finite ({', '.join(bad)}; between steps {first + 1} and {self.step}): {kept} in "
            f"{self.directory.path}; try a lower --lr, --clip-grad 1, --amp bf16 or off, or smaller lambdas"
        )

    # --- evaluation, saving ---------------------------------------------------------------------------

    @property
    def final_model(self) -> SWWAE:
        """The model that is judged and kept: the average where there is one."""
        return self.task.trainable_module_ema.module if self.task.has_ema() else self.model

    def error_on(self, images: ResidentImages) -> float:
        return classification_error(self.final_model, images.images, images.labels, self._prepare_eval, self.autocast)

    @property
    def _prepare_eval(self) -> Callable[[Tensor], Tensor]:
        layout = torch.channels_last if self.config.channels_last else torch.contiguous_format
        return lambda images: self.prepare(images).contiguous(memory_format=layout)

    def _evaluate(self) -> None:
        """Validation error, and best/ where it is the lowest so far.  Test images are not looked at."""
        if self.val is None:
            return
        error = self.error_on(self.val)
        self.directory.log(step=self.step, val_error=error)
        self.progress.evaluated(self.step, error)
        if error < self.best_error:
            self.best_error, self.best_step = error, self.step
            self.directory.save_model("best", self.final_model)

    def _save(self) -> None:
        self.directory.save_model("last", self.final_model)
        self.directory.save_checkpoint(self._state())

    def _finish(self) -> dict[str, Any]:
        """Test error, pictures, result.json.  Without validation images, best/ is last/."""
        if self.val is None:
            self.directory.save_model("best", self.final_model)
        result: dict[str, Any] = {
            "model": self.config.model, "steps": self.step, "seconds": round(self.seconds, 1),
            "val_error": self.error_on(self.val) if self.val is not None else None,
            "best_val_error": self.best_error if self.val is not None else None,
            "best_step": self.best_step if self.val is not None else self.step,
            "test_error": self.error_on(self.test) if self.test is not None and self.test.labels is not None else None,
        }
        shown = self.test or self.val or self.labeled
        if self.task.lambdas.runs_decoder:
            result["test_rec"] = mean_reconstruction_loss(self.final_model, shown.images[:2000], self._prepare_eval, self.autocast)
            self.directory.draw("reconstructions.png", lambda path: pictures.draw_reconstructions(
                path, self.final_model, self._prepare_eval(shown.images[:16])))
        self.directory.draw("curves.png", lambda path: pictures.draw_curves(path, self.directory.metrics()))
        self.directory.write_json("result.json", result)
        return result

    def _state(self) -> dict[str, Any]:
        """Everything that decides what comes next."""
        return {
            "step": self.step, "seconds": self.seconds, "best_error": self.best_error, "best_step": self.best_step,
            **self.task.get_checkpoint_state(), **(self.task.get_checkpoint_state(ema=True) if self.task.has_ema() else {}),
            "optimizer": self.optimizer.state_dict(), "scaler": self.scaler.state_dict(),
            "labeled_stream": self.labeled_stream.state_dict(), "unlabeled_stream": self.unlabeled_stream.state_dict(),
            "labeled_random": self.labeled_random.get_state(), "unlabeled_random": self.unlabeled_random.get_state(),
            "torch_random": torch.get_rng_state(),
            "cuda_random": torch.cuda.get_rng_state(self.device) if self.device.type == "cuda" else None,
        }

    def _load(self, state: dict[str, Any]) -> None:
        try:
            self.task.load_checkpoint_state(state["state_dict"])
            if self.task.has_ema():
                self.task.load_checkpoint_state(state["state_dict_ema"], ema=True)
            self.optimizer.load_state_dict(state["optimizer"])
        except (RuntimeError, KeyError, ValueError) as error:
            raise ValueError(f"{self.directory.path}/checkpoint.pt is of another model or optimiser: {str(error).splitlines()[0]}") from error
        self.scaler.load_state_dict(state["scaler"])
        self.labeled_stream.load_state_dict(state["labeled_stream"])
        self.unlabeled_stream.load_state_dict(state["unlabeled_stream"])
        self.labeled_random.set_state(state["labeled_random"])
        self.unlabeled_random.set_state(state["unlabeled_random"])
        torch.set_rng_state(state["torch_random"])
        if self.device.type == "cuda" and state["cuda_random"] is not None:
            torch.cuda.set_rng_state(state["cuda_random"], self.device)
        self.step, self.seconds = state["step"], state["seconds"]
        self.best_error, self.best_step = state["best_error"], state["best_step"]
        self.scheduler.step_update(self.step)
        self.directory.cut_metrics(self.step)
