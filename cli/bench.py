"""`swwae bench MODELS`: measures training steps beside the plain convnet's and plain PyTorch's."""

import json
import os
from pathlib import Path
from typing import Annotated, Any

import typer

from .options import Device, Json, ModelArg, print_table


def bench(
    models: Annotated[
        list[str] | None, typer.Argument(help="Model names for timm.create_model.  [default: swwae_mnist]")
    ] = None,
    rows: Annotated[
        str,
        typer.Option(
            metavar="ROW,...",
            help="Some of convnet, swwae, upsample, plain, each also with -compiled for torch.compile; "
            "consistency, plain-consistency; or all but these two.",
        ),
    ] = "convnet,swwae,plain",
    batch_size: Annotated[int, typer.Option(min=1, help="Images per step.")] = 128,
    steps: Annotated[int, typer.Option(min=1, help="Timed steps of each row; the median is reported.")] = 10,
    model_arg: ModelArg = None,
    device: Device = "auto",
    amp: Annotated[
        str,
        typer.Option(metavar="off|bf16|fp16,...", help="Mixed precision; several are measured one after the other."),
    ] = "off",
    channels_last: Annotated[
        bool, typer.Option("--channels-last/--no-channels-last", help="Channels-last memory format.")
    ] = True,
    out: Annotated[Path | None, typer.Option(help="Folder for bench.json and bench.png.")] = None,
    as_json: Json = False,
) -> None:
    """Measure time and peak memory of training steps, alternating on the same images."""
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # torch's profiler reports the absence of a GPU as an error

    from swwae_zoo import bench as benchmark
    from swwae_zoo.bench.report import write
    from swwae_zoo.config import parse_model_arg
    from swwae_zoo.training.build import resolve_device
    from swwae_zoo.utils.files import user_path

    args = dict(map(parse_model_arg, model_arg or []))
    if out is not None:  # before anything takes time
        user_path(out).mkdir(parents=True, exist_ok=True)
    wanted = benchmark.STEP_KINDS if rows == "all" else tuple(row.strip() for row in rows.split(","))
    groups: list[dict[str, Any]] = []
    for precision in amp.split(","):
        settings = benchmark.BenchSettings(batch_size, resolve_device(device), precision.strip(), channels_last)
        limits = benchmark.machine_limits(settings)
        for model in models or ["swwae_mnist"]:
            measured = benchmark.bench(model, args, settings, steps, wanted)
            groups.append(
                {
                    "model": model,
                    "amp": settings.amp,
                    "batch_size": batch_size,
                    "device": str(settings.device),
                    "channels_last": channels_last,
                    "limits": limits,
                    "rows": measured,
                }
            )
            if out is not None:
                write(user_path(out), groups)
            if not as_json:
                show(groups[-1])
    if as_json:
        typer.echo(json.dumps(groups))


def show(group: dict[str, Any]) -> None:
    """One comparison as a table; ratios are to its first row."""
    typer.echo(
        f"{group['model']}, training steps of {group['batch_size']} images, amp {group['amp']}, on {group['device']}\n"
    )
    first, table = next(iter(group["rows"].values())), []
    for row, own in group["rows"].items():
        memory, base = own["mebibytes"], first["mebibytes"]
        busiest = sorted(own["shares"].items(), key=lambda item: -item[1])[:3]
        table.append(
            (
                row,
                f"{own['milliseconds']:,.1f}",
                f"{own['milliseconds'] / first['milliseconds']:.2f}",
                f"{own['images_per_second']:,.0f}",
                "unknown" if memory is None else f"{memory:,.1f}",
                "" if memory is None or base is None else f"{memory / base:.2f}",
                ""
                if own["gigaflops"] is None
                else f"{own['gigaflops'] * 1e12 / own['milliseconds'] / group['limits']['flops']:.0%}",
                ", ".join(f"{part} {share:.0%}" for part, share in busiest),
            )
        )
    print_table(
        ("step", "ms", "ratio", "images/s", "peak MiB", "ratio", "of matrix peak", "where the time goes"), table
    )
    typer.echo("")
