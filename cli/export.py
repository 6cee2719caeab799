"""`swwae export MODEL --format onnx|pt2|timm`: a trained classifier for other programs."""

from typing import Annotated

import typer

from swwae_zoo.utils.text import printable

from .options import Place, Weights


def export(
    model: Place,
    format: Annotated[
        str,
        typer.Option("--format", metavar="onnx|pt2|timm", help="onnx, torch.export's pt2, or a plain timm backbone."),
    ] = "onnx",
    out: Annotated[
        str | None, typer.Option(metavar="PATH", help="The file, or timm's folder (else by the model's name, here).")
    ] = None,
    opset: Annotated[
        int | None, typer.Option(help="Opset of ONNX (else the exporter's own).", show_default=False)
    ] = None,
    weights: Weights = None,
) -> None:
    """Write a trained classifier for other programs; what is written was read back and gave the same answers.

    onnx and pt2 take uint8 images (B, C, H, W), any number of them, and give class probabilities.
    """
    from swwae_zoo.hub.progress import quiet_unless_terminal
    from swwae_zoo.publish.export import export as write

    with quiet_unless_terminal():
        made = write(model, format, out, opset, weights)
    typer.echo(printable(made.path))
    typer.echo(made.about, err=True)
