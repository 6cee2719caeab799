"""Summary of a wrapped backbone: downsampling steps and decoder stages with shapes, parameters, FLOPs, switches."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from swwae_zoo.models._layer_summary import LayerSummary, count_params
from swwae_zoo.models.wrapped.steps import DownsamplingStep

if TYPE_CHECKING:
    from swwae_zoo.models.wrapped.model import WrappedSWWAE

__all__ = ["wrapped_rows", "wrapped_table"]


def wrapped_rows(model: WrappedSWWAE, img_size: tuple[int, int]) -> list[LayerSummary]:
    """The backbone, each downsampling step, the classifier, and each decoder stage, in the order they run.

    Args:
        model: on any device; it runs on fake tensors, so nothing is computed.
        img_size: (H, W).
    """
    decoder = model.decoder
    assert decoder is not None
    training = model.training
    model.eval()
    weight = next(model.parameters())
    counter = FlopCounterMode(display=False, depth=20)
    try:
        with torch.enable_grad(), FakeTensorMode(allow_non_fake_inputs=True):
            images = torch.empty(1, model.in_chans, *img_size, device=weight.device, dtype=weight.dtype)
            with counter:
                encoding = model.forward_encoder(images)
                before = counter.get_total_flops()
                logits = model.forward_head(encoding.features)
                head = counter.get_total_flops() - before
                decoding = model.forward_decoder(encoding)
    finally:
        model.train(training)
    counts = counter.get_flop_counts()

    def flops(name: str) -> int:
        found = [value for key, value in counts.items() if key.endswith(f".{name}") or key == name]
        return sum(found[0].values()) if found else 0

    classifier = model.get_classifier()
    heads = classifier if isinstance(classifier, (tuple, list)) else (classifier,)
    in_head = sum(count_params(module) for module in heads if isinstance(module, torch.nn.Module))
    name = model.name + (f" ({tokens} layers on tokens after the top map)" if (tokens := model.path.tokens) else "")
    rows = [
        LayerSummary(
            "encoder", "backbone", name, shape_of(encoding.features), count_params(model.backbone) - in_head, before
        )
    ]
    for m, step in enumerate(model.path.steps):
        where = encoding.switches[m] is not None
        rows.append(
            LayerSummary(
                "encoder",
                f"step {m}",
                kind_of(model, step),
                shape_of(encoding.whats[m]),
                0,
                0,
                f"where {m} -> decoder.stages.{m}" if where else "",
            )
        )
    rows.append(LayerSummary("head", "classifier", "logits", shape_of(logits), in_head, head))
    for m in reversed(range(len(model.path.steps))):
        stage = decoder.stages[m]
        has_where = encoding.switches[m] is not None
        text = f"{len(stage.convs)} conv 3x3, " + (
            f"unpool to {encoding.sizes[m][0]}x{encoding.sizes[m][1]}"
            if has_where and encoding.sizes[m][0]
            else "unpool"
            if has_where
            else "learned upsampling"
        )
        shape = shape_of(encoding.whats[m]) if has_where else shape_of(decoding.reconstruction)
        rows.append(
            LayerSummary(
                "decoder",
                f"decoder.stages.{m}",
                text,
                shape,
                count_params(stage),
                flops(f"WrappedDecoder.stages.{m}"),
                f"where {m} <- step {m}" if has_where else "",
            )
        )
    if decoder.output is not None:
        total = counter.get_total_flops() - before - head - sum(row.flops for row in rows if row.part == "decoder")
        rows.append(
            LayerSummary(
                "decoder",
                "decoder.output",
                f"{len(decoder.output)} conv 3x3",
                shape_of(decoding.reconstruction),
                count_params(decoder.output),
                total,
            )
        )
    return rows


def wrapped_table(model: WrappedSWWAE, img_size: tuple[int, int]) -> str:
    """`wrapped_rows` as a table of text."""
    rows = wrapped_rows(model, img_size)
    total = max(1, sum(row.flops for row in rows))
    lines = [
        (
            row.name,
            row.layer,
            "x".join(map(str, row.shape)),
            f"{row.params:,}",
            f"{row.flops:,}",
            f"{100 * row.flops / total:.1f} %",
            row.switch,
        )
        for row in rows
    ]
    header = ("part", "kind", "shape", "parameters", "FLOPs", "share", "switch")
    widths = [max(map(len, column)) for column in zip(header, *lines, strict=False)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=False)).rstrip()
        for line in [header, *lines]
    )


def kind_of(model: WrappedSWWAE, step: DownsamplingStep) -> str:
    """What downsamples, and how it is treated."""
    event = step.event
    names = {"conv": "strided conv", "avg": "average pool", "max": "max pool", "move": "rearrangement"}
    stride = f"{names[event.kind]} /{event.stride[0]}" + (
        f"x{event.stride[1]}" if event.stride[0] != event.stride[1] else ""
    )
    if event.kind == "max":
        return f"{stride}: replaced"
    if model.pools == "insert":
        return f"{stride}: stride 1 and a pool ({len(step.events)} places)"
    return f"{stride}: tap beside it" if step.below is not None else f"{stride}: from the image"


def shape_of(tensor: Tensor) -> tuple[int, ...]:
    tensor = tensor[-1] if isinstance(tensor, (tuple, list)) else tensor
    return tuple(tensor.shape[1:])
