"""`swwae list`: lists the registered models."""

import json

import typer

from .options import Json, print_table


def list_models(as_json: Json = False) -> None:
    """List the models with input size, parameters, pretrained weights and the paper's notation."""
    import timm

    from swwae_zoo.analysis.summary import count_params
    from swwae_zoo.models._registry import build_meta, model_names

    models = []
    for name in model_names():
        model = build_meta(name)
        assert model.decoder is not None
        decoder = count_params(model.decoder)
        models.append(
            {
                "name": name,
                "input_size": model.pretrained_cfg["input_size"],
                "encoder_params": count_params(model) - decoder,
                "decoder_params": decoder,
                "pretrained": timm.is_model_pretrained(name),
                "notation": model.text,
            }
        )
    if as_json:
        typer.echo(json.dumps(models))
        return
    header = ("model", "input", "encoder + head", "decoder", "pretrained", "notation")
    print_table(
        header,
        [
            (
                m["name"],
                "x".join(map(str, m["input_size"])),
                m["encoder_params"],
                m["decoder_params"],
                "yes" if m["pretrained"] else "no",
                m["notation"],
            )
            for m in models
        ],
    )
