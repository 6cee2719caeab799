"""Traces of a backbone: its downsampling path, and the calls of a run at which to capture or replace something.

A backbone may run other operations in training than in evaluation (noise, an auxiliary head), so it is probed in both
modes.  A run counts its calls and compares them with the probe's: where a backbone was changed after wrapping (an
adapter, `reparameterize_model`, a hook that computes), it is probed again, and a run that still differs is refused.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from torch import nn

from swwae_zoo.models.wrapped.capture import Action, Plan
from swwae_zoo.models.wrapped.probe import Call, probe
from swwae_zoo.models.wrapped.search import find_path
from swwae_zoo.models.wrapped.steps import DownsamplingPath, Event

__all__ = ["TOP", "Trace", "find_mismatch", "make_plan", "same_maps", "trace"]

TOP = -1  # slot of the top map


class Trace(NamedTuple):
    """One mode of a backbone.

    path: its downsampling steps.
    actions: what to do at which calls.
    counts: number of calls of each function that has an action, the `turn` of a call.
    """

    path: DownsamplingPath
    actions: tuple[tuple[Call, Action], ...]
    counts: tuple[Call, ...]


def trace(
    backbone: nn.Module, pools: str, in_chans: int, img_size: tuple[int, int], stages: Mapping[str, str], training: bool
) -> Trace:
    """Traces a backbone on fake images of ``img_size``.

    Args:
        pools: "tap" or "insert".
        stages: modules whose outputs ("out") or inputs ("in") are preferred as the maps to capture.
        training: the mode; the backbone itself stays in its own.

    Raises:
        ValueError: there are no downsampling steps; or whatever the backbone raises.
    """
    found = probe(backbone, in_chans, img_size, stages, training)
    path = find_path(found)
    actions = tuple(_actions(path, pools))
    functions = dict.fromkeys(call.func for call, _ in actions)
    return Trace(path, actions, tuple(Call(func, found.turns[func]) for func in functions))


def _actions(path: DownsamplingPath, pools: str) -> Iterable[tuple[Call, Action]]:
    def insert(event: Event, slot: int) -> Iterable[tuple[Call, Action]]:
        return ((op.call, Action(event.kind, slot, event.stride, event.channels_last)) for op in event.entry)

    for m, step in enumerate(path.steps):
        if step.event.kind == "max":
            yield step.event.op.call, Action("max", m, step.event.stride, False)
        elif pools == "insert":
            yield from insert(step.event, m)
        elif step.event.kind in ("conv", "avg"):
            yield step.event.op.call, Action("size", m, step.event.stride, False)
        if step.below is not None and step.below.call is not None:
            yield step.below.call, Action(step.below.end, m, step.event.stride, step.below.channels_last)
    if path.top.call is not None:
        yield path.top.call, Action(path.top.end, TOP, (1, 1), path.top.channels_last)
    if pools == "insert":
        chosen = {id(step.event) for step in path.steps}
        for event in [event for step in path.steps for event in step.events] + list(path.others):
            if id(event) not in chosen and event.kind != "max":
                yield from insert(event, -1)


def make_plan(own: Trace) -> Plan:
    """The actions by function and turn."""
    plan: Plan = {}
    for call, action in own.actions:
        turns = plan.setdefault(call.func, {})
        turns[call.turn] = (*turns.get(call.turn, ()), action)
    return plan


def find_mismatch(own: Trace, turns: Mapping[Any, int]) -> str:
    """Empty if a run called every function of the plan as often as the probe did; else what differs."""
    for func, expected in own.counts:
        if turns.get(func, 0) != expected:
            return f"{getattr(func, '__name__', func)} {turns.get(func, 0)} times, expected {expected}"
    return ""


def same_maps(a: DownsamplingPath, b: DownsamplingPath) -> bool:
    """Whether two paths have the same steps, between maps of the same channels."""
    return [_facts(a, m) for m in range(len(a.steps))] == [_facts(b, m) for m in range(len(b.steps))] and (
        a.top.channels == b.top.channels
    )


def _facts(path: DownsamplingPath, m: int) -> tuple[Any, ...]:
    event, below = path.steps[m].event, path.steps[m].below
    return event.stride, event.in_chs, event.out_chs, event.kind == "max", below and below.channels
