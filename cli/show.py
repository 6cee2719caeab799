"""`swwae show MODEL`: the layers of a model."""

import json
from pathlib import Path
from typing import Annotated

import typer

from swwae_zoo.utils.text import printable

from .options import PLACES, Json, ModelArg, print_table

SHOWN = 10  # names of classes


def show(
    model: Annotated[
        str | None, typer.Argument(help=f"Name of a model, as timm.create_model takes it; or a trained one: {PLACES}.")
    ] = None,
    backbone: Annotated[
        str | None, typer.Option(metavar="NAME", help="timm backbone to wrap: short for swwae_wrap with this backbone.")
    ] = None,
    pools: Annotated[
        str | None, typer.Option(metavar="tap|insert", help="Where a wrapped backbone's switches come from.")
    ] = None,
    decoder: Annotated[str | None, typer.Option(metavar="mirror|light", help="Decoder of a wrapped backbone.")] = None,
    img_size: Annotated[
        str | None, typer.Option(metavar="H[xW]", help="Size of the images (else the model's own).")
    ] = None,
    in_chans: Annotated[int | None, typer.Option(min=1, help="Channels of the images.")] = None,
    num_classes: Annotated[
        int | None, typer.Option(min=0, help="Number of classes; 0 leaves the classifier out.")
    ] = None,
    model_arg: ModelArg = None,
    as_json: Json = False,
) -> None:
    """Show a model's layers, output shapes, parameters and FLOPs, and where each switch comes from and goes to."""
    from swwae_zoo.analysis.summary import describe, totals
    from swwae_zoo.config import parse_model_arg, parse_size
    from swwae_zoo.models._registry import build_meta

    if (model is None) == (backbone is None) and model != "swwae_wrap":
        raise ValueError(
            "Missing argument MODEL, or --backbone"
            if model is None
            else f"got {model} and --backbone {backbone}: expected one of them"
        )
    model = model or "swwae_wrap"
    wrapping = {"backbone": backbone, "pools": pools, "decoder": decoder}
    args = {**wrapping, "img_size": img_size and parse_size(img_size), "in_chans": in_chans, "num_classes": num_classes}
    built = build_meta(_name_for_timm(model), args | dict(map(parse_model_arg, model_arg or [])))
    rows = describe(built)
    sums = totals(rows)
    classes = list(built.pretrained_cfg.get("label_names") or ())
    if as_json:
        layers = [row._asdict() for row in rows]
        shown = {"model": model, "notation": built.text, "label_names": classes, "layers": layers, "totals": sums}
        typer.echo(json.dumps(shown))
        return
    typer.echo(f"{printable(model)}: {built.text}")
    if classes:
        named = ", ".join(printable(name, 50) for name in classes[:SHOWN]) + ", ..." * (len(classes) > SHOWN)
        typer.echo(f"{len(classes)} classes: {named}")
    typer.echo()
    header = ("part", "layer", "kind", "output", "parameters", "FLOPs", "share", "switch")
    every = max(1, sum(row.flops for row in rows))
    print_table(
        header,
        [
            (
                row.part,
                row.name,
                row.layer,
                "x".join(map(str, row.shape)),
                row.params,
                row.flops,
                f"{100 * row.flops / every:.1f} %",
                row.switch,
            )
            for row in rows
        ],
    )
    typer.echo()
    total = {key: sum(part[key] for part in sums.values()) for key in ("params", "flops")}
    print_table(
        ("part", "parameters", "FLOPs"), [(part, s["params"], s["flops"]) for part, s in {**sums, "all": total}.items()]
    )
    typer.echo("\nFLOPs of one image: 2 x the multiply-adds of convolutions and linear layers.")


def _name_for_timm(model: str) -> str:
    """What `timm.create_model` builds: a registered name as it is, for a trained model its folder."""
    from swwae_zoo.models._registry import check_model_name
    from swwae_zoo.training.places import find_place, is_registered

    if is_registered(model) and "." not in model:
        return model
    if "/" not in model and ":" not in model and "." not in model and not Path(model).exists():
        check_model_name(model)  # a misspelled name is likelier than a folder's
    return f"local-dir:{find_place(model, net_only=True).folder}"
