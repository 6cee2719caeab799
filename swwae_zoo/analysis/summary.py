"""What a SWWAE is made of: layers, shapes, parameters, FLOPs, and the way of each switch.

The model is run once, part by part, on the meta device, where shapes are real and nothing is computed.
FLOPs are those of convolutions and linear layers, a multiplication and an addition each counted (2 x MACs).
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from swwae_zoo.models._base import SWWAE
from swwae_zoo.models._layer_summary import LayerSummary, count_params
from swwae_zoo.models.wrapped.model import WrappedSWWAE
from swwae_zoo.models.wrapped.summary import wrapped_rows

MODEL_PARTS = ("encoder", "head", "decoder")


def describe(model: SWWAE, img_size: int | tuple[int, int] | None = None) -> list[LayerSummary]:
    """A row for each layer, in the order in which `forward_swwae` runs them.

    Args:
        model: on the meta device (see `build_meta`), or on any other: it is then really run on one image of zeros.
        img_size: (H, W); None takes the model's own.

    Raises:
        ValueError: an image size that the model refuses.
    """
    height, width = (img_size, img_size) if isinstance(img_size, int) else img_size or model.img_size
    if isinstance(model, WrappedSWWAE):
        return wrapped_rows(model, (height, width))
    weight = next(model.parameters())
    images = torch.zeros(1, model.in_chans, height, width, device=weight.device, dtype=weight.dtype)
    layers: dict[str, LayerSummary] = {}

    def record(name: str, module: nn.Module, part: str) -> Any:
        def hook(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            shape = tuple(output.shape[1:])
            layers[name] = LayerSummary(
                part, name, layer_text(module), shape, count_params(module), layer_flops(module, shape)
            )

        return module.register_forward_hook(hook)

    roots = {"stages": "encoder", "head": "head", "decoder": "decoder"}
    hooks = [
        record(name, module, roots[name.partition(".")[0]])
        for name, module in model.named_modules()
        if count_params(module) and not any(True for _ in module.children())
    ]
    net: Any = model
    training = model.training
    try:
        with torch.no_grad():
            encoding = model.eval().forward_encoder(images)
            logits = net.forward_head(encoding.features)
            decoding = model.forward_decoder(encoding)
    finally:
        model.train(training)
        for hook in hooks:
            hook.remove()

    rows: list[LayerSummary] = []
    for m, stage in enumerate(net.stages):
        rows += under(layers, f"stages.{m}.")
        if stage.pool is not None:
            text = f"{stage.pool.name} pool {stage.pool_size}x{stage.pool_size}"
            to = f"where {m} -> decoder.stages.{m}"
            rows.append(LayerSummary("encoder", f"stages.{m}.pool", text, tuple(encoding.whats[m].shape[1:]), 0, 0, to))
    rows += under(layers, "head.")
    assert model.num_classes == 0 or rows[-1].shape == tuple(logits.shape[1:])
    for m, stage in reversed(list(enumerate(net.decoder.stages))):
        if stage.pool is not None:
            kind = f"{stage.pool.name} unpool" if stage.pool.has_where else stage.pool.name
            chs = encoding.whats[m].shape[1]
            origin = f"where {m} <- stages.{m}" if stage.pool.has_where else ""
            text = f"{kind} {stage.pool.kernel_size}x{stage.pool.kernel_size}"
            rows.append(
                LayerSummary("decoder", f"decoder.stages.{m}.unpool", text, (chs, *encoding.sizes[m]), 0, 0, origin)
            )
        rows += under(layers, f"decoder.stages.{m}.")
    assert rows[-1].shape == tuple(decoding.reconstruction.shape[1:])
    return rows


def totals(rows: list[LayerSummary]) -> dict[str, dict[str, int]]:
    """Parameters and FLOPs of each part: `{"encoder": {"params": ..., "flops": ...}, ...}`."""
    return {
        part: {
            "params": sum(r.params for r in rows if r.part == part),
            "flops": sum(r.flops for r in rows if r.part == part),
        }
        for part in MODEL_PARTS
    }


def under(layers: Mapping[str, LayerSummary], prefix: str) -> list[LayerSummary]:
    return [row for name, row in layers.items() if name.startswith(prefix)]


def layer_text(module: nn.Module) -> str:
    if isinstance(module, nn.Conv2d):
        return "conv " + "x".join(map(str, module.kernel_size))
    if isinstance(module, nn.BatchNorm2d):
        return "batch norm"
    return type(module).__name__.lower()


def layer_flops(module: nn.Module, shape: tuple[int, ...]) -> int:
    """2 x MACs of one layer for one image; ``shape`` is its output's, without the batch."""
    if isinstance(module, nn.Conv2d):
        chs, height, width = shape
        window = module.kernel_size[0] * module.kernel_size[1] * module.in_channels // module.groups
        return 2 * window * chs * height * width
    if isinstance(module, nn.Linear):
        return 2 * module.in_features * module.out_features
    return 0
