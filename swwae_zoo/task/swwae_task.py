"""The two-stream training step: one encoder pass over labelled and unlabelled images, eq. (1) on top."""

from __future__ import annotations

from typing import Any

import torch
from timm.task import TrainingTask
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from swwae_zoo.loss import PSEUDO_LABELS, Lambdas, Step, TeacherStatistics, TermOptions, term_values, total_loss
from swwae_zoo.models import SWWAE

__all__ = ["SWWAETask"]


class SWWAETask(TrainingTask):
    """Supervised, semi-supervised or unsupervised learning of a SWWAE, chosen by the lambdas alone.

    A term whose lambda is 0 costs nothing: without L2rec and L2M the decoder is not run, and where no term is over
    unlabelled images, they are not even encoded: the step is the plain convnet's.

    In a loop of one's own:

        task = SWWAETask(model, losses.Lambdas(nll=1, rec=10, middle=1))
        for images, target in batches:                     # the labelled images first
            loss = task(images, target)["loss"]
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    Args:
        model: the net; the parts of its `forward_swwae` are used, so that the head sees the images it has to.
        lambdas: weights of the terms of eq. (1).
        options: what terms can be told besides, see `TermOptions`.
        ramp: share of a run, 0 to 1, over which the weights of terms of that schedule rise linearly from 0.
        fade: share of a run, 0 to 1, at its end, over which the weights of terms of that schedule fall linearly to 0.
        class_shares: (num_classes,) of the labelled images, summing to 1, for pseudo-labels of the kind "softmatch";
            equal by default.

    Raises:
        ValueError: lambdas.middle does not fit the model's number of middles, or class_shares its number of classes,
            or an unknown kind of pseudo-labels.
    """

    def __init__(
        self,
        model: SWWAE,
        lambdas: Lambdas,
        options: TermOptions = TermOptions(),  # noqa: B008  immutable
        ramp: float = 0.0,
        fade: float = 0.0,
        class_shares: Tensor | None = None,
        device: torch.device | None = None,
        dtype: torch.dtype | None = None,
    ):
        super().__init__(device=device, dtype=dtype, verbose=False)
        lambdas.per_middle(model.num_middles)  # a wrong number of lambdas must not wait for the first step
        self.trainable_module = model
        self.lambdas, self.options = lambdas, options
        spans = {"ramp": ramp, "fade": fade}
        self._spans = {term.name: (term.schedule, spans[term.schedule]) for term in lambdas.active
                       if spans.get(term.schedule, 0.0) > 0}  # fmt: skip
        # Tensors that are written to in place: a compiled step reads them without being compiled again.
        self._factors = {name: torch.ones((), device=self.device) for name in self._spans}
        if options.pseudo_labels not in PSEUDO_LABELS:
            raise ValueError(
                f"pseudo_labels: got {options.pseudo_labels!r}, expected one of {', '.join(PSEUDO_LABELS)}"
            )
        self.statistics: TeacherStatistics | None = None
        if options.pseudo_labels == "softmatch" and "teacher" in lambdas.needs:
            shares = torch.ones(model.num_classes) / model.num_classes if class_shares is None else class_shares
            if shares.shape != (model.num_classes,):
                raise ValueError(f"class_shares: got shape {tuple(shares.shape)}, expected ({model.num_classes},)")
            self.statistics = TeacherStatistics(shares.to(self.device))
        self._losses = self._eager_losses

    @property
    def uses_unlabeled(self) -> bool:
        """Whether unlabelled images enter any term."""
        return self.lambdas.uses_unlabeled

    def set_progress(self, done: float) -> None:
        """Sets the weights that follow a schedule.

        Args:
            done: share of the run's steps that are done, 0 to 1.
        """
        for name, (schedule, span) in self._spans.items():
            left = done if schedule == "ramp" else 1 - done
            self._factors[name].fill_(min(1.0, left / span))

    def compile(self, backend: str = "inductor", mode: str | None = None, **compile_kwargs: Any) -> nn.Module:
        """Compile the whole step (nets and losses) into one graph; evaluation stays eager."""
        self._losses = torch.compile(self._eager_losses, backend=backend, mode=mode, fullgraph=True, **compile_kwargs)
        return self.trainable_module

    def forward(self, input: Tensor, target: Tensor, weak: Tensor | None = None) -> dict[str, Tensor]:
        """Loss parts of one batch.

        Args:
            input: (L + U, C, H, W) images, the L labelled ones first; the unlabelled ones in their strong views where a
                term needs those.
            target: (L,) int64 classes.
            weak: (U, C, H, W) weak views of the unlabelled images, for the teacher.

        Returns:
            "loss": eq. (1); by the name of each term that was computed, its value, unweighted ("nll", "rec", "middle",
            summed over middles, ...); "output": logits (L, num_classes). The loss alone carries a gradient.
        """
        if not self.uses_unlabeled:
            input = input[: target.shape[0]]
        parts = self._losses(input, target, weak)
        if self.statistics is not None:
            self.statistics.update(parts.pop("teacher"))
        return parts

    def get_task_state(self, module: nn.Module | None = None, ema: bool = False) -> dict[str, Any]:
        """What a resumed run needs besides the nets: the teacher's statistics, where there are any."""
        return {} if self.statistics is None or ema else self.statistics.state_dict()

    def load_task_state(
        self, state: dict[str, Any] | None, strict: bool = True, module: nn.Module | None = None, ema: bool = False
    ) -> None:
        """Takes in what `get_task_state` gave.

        Raises:
            KeyError, RuntimeError: it is of another task.
        """
        if self.statistics is not None and not ema:
            self.statistics.load_state_dict(state or {})

    def _eager_losses(self, input: Tensor, target: Tensor, weak: Tensor | None) -> dict[str, Tensor]:
        step = self._run(input, target, weak)
        values = term_values(self.lambdas, step)
        sums = {name: torch.stack(own).sum() if len(own) > 1 else own[0] for name, own in values.items() if own}
        return {
            "loss": total_loss(self.lambdas, values, self._factors),
            "output": step.logits.detach(),
            **{name: value.detach() for name, value in sums.items()},
            **({} if self.statistics is None else {"teacher": self.statistics.measure(step.teacher_logits)}),  # type: ignore[arg-type]
        }

    def _run(self, input: Tensor, target: Tensor, weak: Tensor | None) -> Step:
        """What the active terms need, and no more."""
        model: Any = self.trainable_module
        needs, labeled = self.lambdas.needs, target.shape[0]
        if not self.uses_unlabeled:
            return Step(model(input), target, input, options=self.options)
        denoises = self.options.noise > 0 and "decoding" in needs
        seen = input + self.options.noise * torch.randn_like(input) if denoises else input
        encoding = model.forward_encoder(seen) if "encoding" in needs else None
        features = model.forward_features(seen) if encoding is None else encoding.features
        if "strong view" not in needs:
            logits, strong_logits = model.forward_head(_images(features, slice(None, labeled))), None
        else:
            both = model.forward_head(features)
            logits, strong_logits = both[:labeled], both[labeled:]
        seen_by_decoder = _detached(encoding) if self.options.decoder_only else encoding
        if denoises:
            seen_by_decoder = model.with_targets(seen_by_decoder, self._teach(input, True)[1])
        decoding = model.forward_decoder(seen_by_decoder) if "decoding" in needs else None
        teacher_logits, cross = None, None
        if "teacher" in needs:
            if weak is None:
                raise ValueError("a term needs the teacher's view of the unlabelled images: pass weak=(U, C, H, W)")
            teacher_logits, where = self._teach(weak, "teacher encoding" in needs)
            if "cross decoding" in needs:
                cross = model.forward_decoder(model.with_where(_images(seen_by_decoder, slice(labeled, None)), where))
        return Step(
            logits, target, input, encoding, decoding, strong_logits, teacher_logits, weak, cross, self.options,
            self.statistics,
        )  # fmt: skip

    @torch.no_grad()
    def _teach(self, weak: Tensor, encode: bool) -> tuple[Tensor, Any]:
        """The teacher's logits (U, num_classes) and, if asked for, its encoding: evaluation mode, no gradient."""
        ema: Any = self.get_trainable_module(ema=True)
        if ema is None:
            raise ValueError(
                "a term needs a teacher, the moving average of the weights: call setup_ema, or give --ema 0.99"
            )
        teacher = ema.module
        if not encode:
            return teacher(weak), None
        encoding = teacher.forward_encoder(weak)
        return teacher.forward_head(encoding.features), encoding


def _images(tree: Any, part: slice) -> Any:
    """That part of the batch of every tensor in a structure of tensors (B, ...)."""
    return tree_map_only(Tensor, lambda tensor: tensor[part], tree)


def _detached(tree: Any) -> Any:
    """The same values in a structure of tensors, without gradient."""
    return tree_map_only(Tensor, Tensor.detach, tree)
