"""The training loop of one run: two seeded streams, one optimiser step on eq. (1), checkpoints to resume from."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor

from swwae_zoo.config import RunConfig, check_two_views, fixed_keys, lambdas
from swwae_zoo.data import AUGMENT, STRONG, Images, IndexStream, Preprocess, RandomView, Splits, augmentation, seeded
from swwae_zoo.layers.sync_batch_norm import with_sync_batch_norm
from swwae_zoo.loss import TERMS, Lambdas, TermOptions
from swwae_zoo.models import SWWAE
from swwae_zoo.models._data_config import describe_training_data
from swwae_zoo.models._pretrained import verify_saved
from swwae_zoo.optim.finetune import freeze
from swwae_zoo.optim.optimizer import create_optimizer, create_scheduler
from swwae_zoo.task import SWWAETask
from swwae_zoo.training import figures
from swwae_zoo.training.evaluate import classification_error, mean_reconstruction_loss
from swwae_zoo.training.meter import Meter
from swwae_zoo.training.progress import Progress
from swwae_zoo.training.run_directory import RunDirectory
from swwae_zoo.training.signals import Interrupt, Stopped
from swwae_zoo.utils.distributed import Share, World
from swwae_zoo.utils.json_files import digest_of
from swwae_zoo.utils.precision import Autocast
from swwae_zoo.utils.text import printable

__all__ = ["Observer", "Trainer", "lambdas_of", "view_of"]

Observer = Callable[["Trainer", bool], None]


def lambdas_of(config: RunConfig) -> Lambdas:
    """The weights of eq. (1) as the recipe gives them."""
    return Lambdas(**lambdas(config))


def view_of(config: RunConfig, which: str, img_size: tuple[int, int]) -> RandomView:
    """The random views of a recipe.

    Args:
        which: "weak" or "strong".
        img_size: (H, W) of the network's input.

    Raises:
        ValueError: an amount out of range or too large for the images, or mirroring where the recipe forbids it.
    """
    key, presets = ("augment", AUGMENT) if which == "weak" else ("strong", STRONG)
    try:
        settings = augmentation(getattr(config, key), presets, **getattr(config, f"{key}_args"))
        view = RandomView(settings, img_size)
    except ValueError as error:
        raise ValueError(f"{key}_args: {error}") from None
    if settings.mirror and not config.mirror:
        raise ValueError(
            f"{key}: {getattr(config, key)!r} mirrors images, but mirror = false says that a mirrored image may be of "
            f"another class: give --mirror, or --{key}-arg mirror=false"
        )
    return view


class Trainer:
    """One run, from its first step or its last checkpoint to its result.

    The checkpoint holds everything that decides what comes next (model, average, optimiser, scaler, both
    streams, every random state), so a resumed run ends in the weights an unbroken one has, bit for bit on
    the same CPU with as many threads and processes (run.json tells how many).

    With many processes each takes its part of every batch of both streams, weighted so that the average over
    processes is the mean over the batch; the run is the same, within rounding, however many there are.

    Args:
        config: the recipe of this one run.
        model: the net, freshly initialised.
        splits: labelled, unlabelled, validation and test images, on the device (`Splits.to`).
        directory: where everything is written.
        device: where it runs.
        progress: told what happens.
        world: the processes that share the run; one alone by default.
        observe: called in rank 0 after each evaluation, and at the end, with the trainer and whether it is the end.

    Raises:
        ValueError: batches with fewer images than processes, an optimiser timm does not know, lambdas that don't fit
            the model, too few classes, more warm-up than steps, a shift wider than the image, a precision that the
            device does not have.
    """

    def __init__(
        self,
        config: RunConfig,
        model: SWWAE,
        splits: Splits,
        directory: RunDirectory,
        device: torch.device,
        progress: Progress,
        world: World = World(),
        observe: Observer | None = None,
    ):
        self.observe = observe
        self.config, self.directory, self.device, self.progress = config, directory, device, progress
        self.world = world
        self.autocast = Autocast(config.amp, device)
        if config.sync_bn and world.size > 1:
            model = cast(SWWAE, with_sync_batch_norm(model, device, config.compile))
            freeze(model, config.freeze_stages, config.norm_eval)  # the norms are other modules now
        layout = torch.channels_last if config.channels_last else torch.contiguous_format
        self.model: SWWAE = model.to(device=device, memory_format=layout)  # pyright: ignore[reportCallIssue]
        self.lambdas = lambdas_of(config)
        for term in self.lambdas.active:  # those from outside too, of which the configuration knows the weight alone
            if term.needs & {"strong view", "teacher"}:
                check_two_views(config, f"lambda_{term.name}")
        self._set_data(splits)
        self._set_task()
        self.steps = config.steps or config.epochs * self.steps_per_epoch
        self.optimizer = create_optimizer(config, self.model)
        self.scheduler = create_scheduler(config, self.optimizer, self.steps)
        self.scaler = torch.amp.GradScaler(device.type, enabled=config.amp == "fp16")
        self.meter = Meter()
        self.step, self.seconds, self._verified, self._owes_evaluation = 0, 0.0, False, False
        self.interrupt = Interrupt()
        self.val_error, self.best_error, self.best_step = None, math.inf, 0
        self.save_every = config.save_every or math.ceil(self.steps / 10)
        self.eval_every = config.eval_every or math.ceil(self.steps / 10)
        self.log_every = config.log_every or math.ceil(self.steps / 50)

    def _set_task(self) -> None:
        """The task with this process's weight in each mean, and its gradients averaged over processes."""
        config = self.config
        own = {
            name: tuple(self.weights[name] * part for part in weight)
            if isinstance(weight, tuple)
            else self.weights[name] * weight
            for name, weight in self.lambdas.items()
        }
        # Without a classification loss it is reconstruction that the encoder learns from, to the end.
        fade, decoder_only = (config.fade, config.rec_trains == "decoder") if self.lambdas.classifies else (0.0, False)
        options = TermOptions(
            config.detach_targets, config.confidence, decoder_only, config.noise, config.pseudo_labels
        )
        self.task = SWWAETask(
            self.model, Lambdas(**own), options, config.ramp, fade, self._class_shares(), device=self.device
        )
        if config.ema:
            self.task.setup_ema(config.ema, use_warmup=True)
            self.task.trainable_module_ema.requires_grad_(False)
        if config.compile:
            self.task.compile(mode=config.compile_mode)
        self.losses = self.world.wrap(self.task, self.device)

    def _class_shares(self) -> Tensor:
        """Share of each class among the labelled images, each taken as having one image more."""
        assert self.labeled.labels is not None
        counts = self.labeled.labels.cpu().bincount(minlength=self.model.num_classes) + 1
        return counts / counts.sum()

    def _set_data(self, splits: Splits) -> None:
        config, labeled = self.config, splits.labeled
        if self.model.num_classes < splits.num_classes:
            raise ValueError(
                f"the model has {self.model.num_classes} classes, but {config.data} has {splits.num_classes}: "
                "leave model_args.num_classes out, it follows the data"
            )
        # Saved with every model, so that whoever loads one knows how its images are prepared and what its classes are.
        describe_training_data(
            self.model, contrast=config.contrast, label_names=labeled.class_names, image_size=labeled.shape[1:]
        )
        cfg = self.model.pretrained_cfg
        self.prepare = Preprocess(self.model.img_size, mean=cfg["mean"], std=cfg["std"], contrast=config.contrast)
        self.weak_view = view_of(config, "weak", self.model.img_size)
        self.strong_view = view_of(config, "strong", self.model.img_size)
        self.needs_both_views = "strong view" in self.lambdas.needs
        self.labeled, self.val, self.test = splits.labeled, splits.val, splits.test
        self._labeled_images = self.labeled.fingerprint()
        self.unlabeled = splits.unlabeled if self.lambdas.uses_unlabeled else None
        # an epoch is a pass over the unlabelled images, for the twin too, which does not look at them
        stream_length, batch = len(self.labeled), config.labeled_batch
        if splits.unlabeled is not None:
            stream_length, batch = splits.unlabeled.count, config.batch_size
        self.steps_per_epoch = math.ceil(stream_length / batch)
        self.labeled_stream = IndexStream(len(self.labeled), min(config.labeled_batch, len(self.labeled)), config.seed)
        self.labeled_random = seeded(config.seed, "augment labelled")
        self.unlabeled_stream = IndexStream(stream_length, batch, config.seed + 1)
        self.unlabeled_random = seeded(config.seed, "augment unlabelled")
        self.labeled_share = self.world.share(self.labeled_stream.batch_size, "labelled images")
        self.unlabeled_share = (
            self.world.share(batch, "unlabelled images") if self.unlabeled is not None else Share(0, 0, 0)
        )
        self.labeled.follow(self.labeled_stream, self.labeled_share.slice)
        if self.unlabeled is not None:
            self.unlabeled.follow(self.unlabeled_stream, self.unlabeled_share.slice)
        count, whole = (sum(parts) for parts in zip(self.labeled_share[1:], self.unlabeled_share[1:], strict=True))
        shares = {"labeled": self.labeled_share, "unlabeled": self.unlabeled_share, "all": Share(0, count, whole)}
        weight_of = {images: self.world.weight(share) if share.whole else 1.0 for images, share in shares.items()}
        self.weights = {"loss": 1.0, **{term.name: weight_of[term.images] for term in TERMS.values()}}

    # --- one step -----------------------------------------------------------------------------------

    def next_batch(self) -> tuple[Tensor, Tensor, Tensor | None]:
        """This process's part of the step's batch.

        Returns:
            (L + U, C, H, W) images, labelled first; (L,) targets; and (U, C, H, W) weak views of the unlabelled images,
            where a term needs both of their views: the first then hold the strong ones.
        """
        share = self.labeled_share
        images, target = self.labeled.batch(self.labeled_stream.next()[share.slice])
        assert target is not None
        view = self.strong_view if self.config.labeled_view == "strong" else self.weak_view
        seen, weak = [view(self.prepare.fit(images), self.labeled_random, share)], None
        if self.unlabeled is not None:
            share = self.unlabeled_share
            images = self.prepare.fit(self.unlabeled.batch(self.unlabeled_stream.next()[share.slice])[0])
            first = self.weak_view(images, self.unlabeled_random, share)
            if self.needs_both_views:
                weak = self._layout(self.prepare.normalise(first))
                first = self.strong_view(images, self.unlabeled_random, share)
            seen.append(first)
        return self._layout(self.prepare.normalise(torch.cat(seen))), target, weak

    def _layout(self, x: Tensor) -> Tensor:
        return x.contiguous(memory_format=torch.channels_last) if self.config.channels_last else x

    def train_step(self) -> dict[str, Tensor]:
        """One update of the weights; gives the loss parts of the whole batch, detached."""
        batch = self.next_batch()
        self.task.set_progress(self.step / self.steps)
        with self.autocast():
            parts = self.losses(*batch)
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
        own = {name: value.detach() for name, value in parts.items() if name != "output"}
        if self.world.size == 1:
            return own
        return self.world.mean({name: self.weights[name] * value for name, value in own.items()})

    # --- the loop -----------------------------------------------------------------------------------

    def run(
        self, interrupt: Interrupt | None = None, evaluated: Callable[[int, float], None] | None = None
    ) -> dict[str, Any]:
        """Train to the end; gives the result that is also written to result.json.

        Args:
            interrupt: asked after every step; when it is true the state is saved and `Stopped` raised.
            evaluated: called with the step and the validation error (%) after each evaluation; what it raises ends
                the run. Where a checkpoint is due at the same step, it is saved before.

        Raises:
            ValueError: the loss is not finite any more; the last checkpoint before that is kept.
            Stopped: SIGINT or SIGTERM came; the state is saved.
        """
        self.interrupt = interrupt = Interrupt() if interrupt is None else interrupt
        done = self.world.from_first(lambda: self.directory.read_json("result.json"))
        if done is not None:
            self.progress.say(f"{self.directory.path}: finished already")
            return done
        state = self.world.from_first(self.directory.load_checkpoint)
        if state is not None:
            self.load_state_dict(state, f"{self.directory.path}/checkpoint.pt")
            self.progress.say(f"{self.directory.path}: going on after step {self.step}")
        self.directory.cut_metrics(self.step)
        if self.world.first and state is None:
            self._draw_views()
        self.model.train()
        with interrupt.deferred():
            with self.progress.run(str(self.directory.path), self.steps, self.step):
                if self._owes_evaluation:
                    self._evaluate_or_save()
                while self.step < self.steps:
                    self._train_until_next_stop(interrupt)
                    if self._is_due(self.log_every):
                        self._log()
                    if self._is_due(self.eval_every):
                        self._evaluate_or_save()
                        if self.step < self.steps:
                            self._show(done=False)
                    stop = self.world.maximum(interrupt.signal_number)
                    if self._is_due(self.save_every) or stop:
                        self._save()
                    interrupt.check(f"stopped at step {self.step}, {self.directory.path} is saved", stop)
                    if evaluated is not None and self.val_error is not None and self._is_due(self.eval_every):
                        evaluated(self.step, self.val_error)
            return self._finish()

    def _draw_views(self) -> None:
        """Weak and strong views of the first unlabelled images, where there are any views to look at."""
        views = {"weak": self.weak_view, "strong": self.strong_view}
        views = {name: view for name, view in views.items() if view.settings.is_random}
        if views:
            source = self.labeled if self.unlabeled is None else self.unlabeled
            images = self.prepare.fit(source.batch(torch.arange(min(16, len(source))))[0])
            rows = {"image": images}
            rows |= {name: view(images, seeded(self.config.seed, "views", name)) for name, view in views.items()}
            self.directory.draw("views.png", lambda path: figures.draw_views(path, rows))

    def _is_due(self, every: int) -> bool:
        return self.step % every == 0 or self.step == self.steps

    def _train_until_next_stop(self, interrupt: Interrupt) -> None:
        """Steps up to the next line of the log, evaluation, or checkpoint; all their losses are finite."""
        start, first = time.perf_counter(), self.step
        images = self.labeled_stream.batch_size + (
            self.unlabeled_stream.batch_size if self.unlabeled is not None else 0
        )
        while True:
            parts = self.train_step()
            self.meter.add(parts, images)
            self.progress.tick(self.step)
            if self.device.type == "cpu" and not math.isfinite(parts["loss"]):
                break  # elsewhere each look at the loss would wait for the device
            if self.world.maximum(interrupt.signal_number) or any(
                self._is_due(every) for every in (self.log_every, self.eval_every, self.save_every)
            ):
                break
        bad = self.meter.bad_parts()  # waits for the device, so the time is right
        self.meter.seconds += time.perf_counter() - start
        self.seconds += time.perf_counter() - start
        if bad:
            self._stop_for_nan(", ".join(bad), self.step if self.device.type == "cpu" else first + 1)

    def _stop_for_nan(self, what: str, first: int) -> None:
        where = f"at step {self.step}" if first == self.step else f"between steps {first} and {self.step}"
        saved = self.world.from_first(self.directory.load_checkpoint)
        kept = f"the checkpoint of step {saved['step']} is kept" if saved else "there was no checkpoint yet"
        raise ValueError(
            f"{what} is no longer finite, {where}: {kept} in {self.directory.path}; start again with --force or "
            "another --out and a lower --lr, --clip-grad 1, --warmup-steps, or smaller lambdas"
        )

    def _log(self) -> None:
        means, rate = self.meter.means(), self.meter.images_per_second
        lr, epoch = self.optimizer.param_groups[0]["lr"], self.step / self.steps_per_epoch
        self.directory.log(step=self.step, epoch=round(epoch, 4), lr=lr, **means, images_per_second=round(rate, 1))
        self.progress.step(self.step, means, rate)
        self.meter.reset()

    # --- the state a run goes on from ---------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """The complete training state, so that a resumed run is bit-identical to an unbroken one.

        The scheduler is a function of the step and needs no state. Every process calls this, since each has its own
        dropout.
        """
        task = self.task
        return {
            "step": self.step,
            "seconds": self.seconds,
            "val_error": self.val_error,
            "best_error": self.best_error,
            "best_step": self.best_step,
            "recipe": digest_of(fixed_keys(self.config)),
            "owes_evaluation": self._owes_evaluation,
            "images": self._image_counts,
            "labeled_images": self._labeled_images,
            "meter": self.meter.state_dict(),
            **task.get_checkpoint_state(),
            **(task.get_checkpoint_state(ema=True) if task.has_ema() else {}),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "labeled_stream": self.labeled_stream.state_dict(),
            "unlabeled_stream": self.unlabeled_stream.state_dict(),
            "labeled_random": self.labeled_random.get_state(),
            "unlabeled_random": self.unlabeled_random.get_state(),
            "random": self.world.gather(_random_state(self.device)),
        }

    def load_state_dict(self, state: dict[str, Any], name: str) -> None:
        """Put ``self`` where ``state`` was captured.

        Args:
            name: the checkpoint's, for errors.

        Raises:
            ValueError: it is of another recipe, another model, another optimiser or other data.
        """
        task = self.task
        if state.get("recipe") != digest_of(fixed_keys(self.config)):
            raise ValueError(
                f"{name} was made with another recipe than config.toml says, which was changed or is damaged: restore "
                "it, or start over with --force"
            )
        try:
            task.load_checkpoint_state(state["state_dict"], state.get("task_state"))
            if task.has_ema():
                task.load_checkpoint_state(state["state_dict_ema"], ema=True)
            self.optimizer.load_state_dict(state["optimizer"])
        except (RuntimeError, KeyError, ValueError) as error:
            reason = " ".join(str(error).split())
            raise ValueError(f"{name} is of another model or optimiser than config.toml says: {reason:.200}") from error
        if not 0 <= state["step"] <= self.steps:
            raise ValueError(f"{name} is of step {state['step']}, expected 0 to {self.steps}: it is of another run")
        if state["images"] != self._image_counts or state["labeled_images"] != self._labeled_images:
            raise ValueError(
                f"{name} was made with other data: (labelled, unlabelled) images {state['images']}, got "
                f"{self._image_counts}, or other labelled images, classes or class names; give the data the run was "
                "begun with, or start over with --force"
            )
        self.scaler.load_state_dict(state["scaler"])
        self.labeled_stream.load_state_dict(state["labeled_stream"])
        self.unlabeled_stream.load_state_dict(state["unlabeled_stream"])
        self.labeled_random.set_state(state["labeled_random"])
        self.unlabeled_random.set_state(state["unlabeled_random"])
        if len(state["random"]) == self.world.size:
            _set_random_state(state["random"][self.world.rank], self.device)
        else:  # the batches are the same, but what each process drew for dropout cannot be continued
            self.progress.say(
                f"{name} is of {len(state['random'])} processes and goes on with {self.world.size}: the same "
                "batches, dropout drawn anew"
            )
            torch.manual_seed(seeded(self.config.seed, "dropout", state["step"], self.world.rank).initial_seed())
        self.step, self.seconds, self.val_error = state["step"], state["seconds"], state["val_error"]
        self.best_error, self.best_step = state["best_error"], state["best_step"]
        self._owes_evaluation = state.get("owes_evaluation", False)
        self.meter.load_state_dict(state["meter"], self.device)
        self.scheduler.step_update(self.step)

    @property
    def _image_counts(self) -> list[int]:
        return [self.labeled_stream.n, self.unlabeled_stream.n]

    # --- evaluation, saving ---------------------------------------------------------------------------

    @property
    def final_model(self) -> SWWAE:
        """The model that is judged and kept: the average where there is one."""
        return self.task.trainable_module_ema.module if self.task.has_ema() else self.model

    @property
    def validates(self) -> bool:
        """Whether there is a validation error: without lambda_nll the classifier stays as it was drawn."""
        return self.val is not None and self.lambdas.classifies

    def error_on(self, images: Images) -> float:
        with self.progress.evaluation() as tell:
            return classification_error(
                self._model_to_judge(), images, self._prepare_eval, self.autocast, world=self.world,
                watch=self._watch(tell),
            )  # fmt: skip

    def _watch(self, tell: Callable[[int, int], None]) -> Callable[[int, int], None]:
        """Called before each batch of an evaluation: raises `Stopped` where a signal has come.

        Of several processes each would stop at another batch, and wait for the others for ever: they go on to the end.
        """

        def watch(count: int, total: int) -> None:
            tell(count, total)
            if self.world.size == 1:
                self.interrupt.check(f"stopped at step {self.step}, {self.directory.path} is saved")

        return watch

    def _evaluate_or_save(self) -> None:
        """Evaluates; interrupted in it, saves, and the resumed run begins with this evaluation."""
        self._owes_evaluation = True
        try:
            self._evaluate()
        except Stopped:
            self._save()
            raise
        self._owes_evaluation = False

    def _reconstruction_on(self, images: Images) -> float:
        with self.progress.evaluation() as tell:
            return mean_reconstruction_loss(
                self._model_to_judge(), images, self._prepare_eval, self.autocast, world=self.world,
                watch=self._watch(tell),
            )  # fmt: skip

    def _model_to_judge(self) -> SWWAE:
        self.world.copy_buffers(self.final_model)
        return self.final_model

    def _prepare_eval(self, images: Tensor) -> Tensor:
        return self._layout(self.prepare(images))

    def _evaluate(self) -> None:
        """Validation error, and best/ where it is the lowest so far.  Test images are not looked at."""
        if self.val is None or not self.validates:
            return
        self.val_error = self.error_on(self.val)
        self.directory.log(step=self.step, val_error=self.val_error)
        self.progress.evaluated(self.step, self.val_error)
        if self.val_error < self.best_error:
            self.best_error, self.best_step = self.val_error, self.step
            self.directory.save_model("best", self.final_model)

    def _save(self) -> None:
        """last/ and checkpoint.pt, and best/ too where no validation error chooses it."""
        if not all(bool(p.isfinite().all()) for p in self.model.parameters()):  # a finite loss can have a NaN gradient
            self._stop_for_nan("a weight", self.step)
        for name in ("last",) if self.validates else ("last", "best"):
            self.directory.save_model(name, self.final_model)
        if self.world.first and not self._verified:  # once, before hours are spent on what can't be read back
            with torch.random.fork_rng(devices=[]):
                verify_saved(self.directory.path / "last", self.final_model)
            self._verified = True
        self.directory.save_checkpoint(self.state_dict())
        self.world.barrier()  # a process that ended before rank 0 has written would have it stopped by the launcher

    def _finish(self) -> dict[str, Any]:
        """Test error of the last model, pictures, result.json."""
        classifies = self.lambdas.classifies and self.test is not None and self.test.labels is not None
        reconstructs = self.lambdas.runs_decoder
        result: dict[str, Any] = {
            "model": self.config.model,
            "steps": self.step,
            "seconds": round(self.seconds, 1),
            "val_error": self.val_error,
            "best_val_error": self.best_error if self.validates else None,
            "best_step": self.best_step if self.validates else self.step,
            "test_error": self.error_on(self.test) if self.test is not None and classifies else None,
            "test_rec": self._reconstruction_on(self.test) if reconstructs and self.test else None,
        }
        if reconstructs and self.world.first:
            shown = self.test or self.val or self.labeled
            shown = self._prepare_eval(shown.read(figures.across_classes(shown.labels, shown.count)))
            self.directory.draw(
                "reconstructions.png", lambda path: figures.draw_reconstructions(path, self.final_model, shown)
            )
        if self.world.first:
            self.directory.draw("curves.png", lambda path: figures.draw_curves(path, self.directory.metrics()))
        self.directory.write_json("result.json", result)
        self._show(done=True)
        return result

    def _show(self, done: bool) -> None:
        """Shows the run to its observer, whose faults never stop a training."""
        if self.observe is None or not self.world.first:
            return
        try:
            self.observe(self, done)
        except Exception as error:
            self.progress.say(f"the page of the run was not written: {type(error).__name__}: {printable(error, 300)}")
            self.observe = None


def _random_state(device: torch.device) -> dict[str, torch.Tensor]:
    state = {"cpu": torch.get_rng_state()}
    return {**state, "cuda": torch.cuda.get_rng_state(device)} if device.type == "cuda" else state


def _set_random_state(state: dict[str, torch.Tensor], device: torch.device) -> None:
    torch.set_rng_state(state["cpu"])
    if device.type == "cuda" and "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"], device)
