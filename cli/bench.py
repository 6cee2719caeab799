"""`swwae bench MODEL`: what the decoder costs."""
import json
from typing import Annotated

import typer

from .options import Amp, Device, Json, ModelArg, print_table


def bench(
    model: Annotated[str, typer.Argument(help="Name of the model, as timm.create_model takes it.")] = "swwae_mnist",
    batch_size: Annotated[int, typer.Option(min=1, help="Images a step.")] = 128,
    steps: Annotated[int, typer.Option(min=1, help="Timed steps of each; the median counts.")] = 10,
    model_arg: ModelArg = None,
    device: Device = "auto",
    amp: Amp = "off",
    channels_last: Annotated[bool, typer.Option("--channels-last/--no-channels-last", help="Channels-last memory format.")] = True,
    compile: Annotated[bool, typer.Option("--compile/--no-compile", help="Compile both steps with torch.compile.")] = False,
    as_json: Json = False,
) -> None:
    """Time a training step and its peak memory beside the plain convnet's on the same images."""
    from swwae_zoo import bench as benchmark
    from swwae_zoo.config import parse_model_arg
    from swwae_zoo.train import resolve_device

    setting = benchmark.Setting(batch_size, resolve_device(device), amp, channels_last, compile)
    args = dict(map(parse_model_arg, model_arg or []))
    results = benchmark.bench(model, args, setting, steps)
    if as_json:
        typer.echo(json.dumps({"model": model, "device": str(setting.device), "batch_size": batch_size, **results}))
        return
    typer.echo(f"{model}, a training step of {batch_size} images on {setting.device}\n")
    rows = []
    for label, digits in (("convnet", 1), ("swwae", 1), ("ratio", 2)):
        cells = (results[label].get(key) for key in ("milliseconds", "mebibytes"))
        rows.append((label, *("not seen" if cell is None else f"{cell:,.{digits}f}" for cell in cells)))
    print_table(("step", "milliseconds", "peak MiB"), rows)
