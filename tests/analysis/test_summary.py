"""Layers, shapes, parameters and FLOPs against hand counts and torch's own FLOP counter."""

import pytest
import timm
import torch
from torch.utils.flop_counter import FlopCounterMode

from swwae_zoo.analysis.summary import describe, totals
from swwae_zoo.models._registry import build_meta, check_model_name, model_names


def rows_of(name: str, **model_args: object) -> dict[str, tuple[str, tuple[int, ...], int, int, str]]:
    return {row.name: row[2:] for row in describe(build_meta(name, model_args))}


def test_hand_counted_rows() -> None:
    rows = rows_of("swwae_mnist", notation="(6)5c-2p-(8)3c-2p-10fc", img_size=12)
    assert rows["stages.0.convs.0.conv"] == ("conv 5x5", (6, 12, 12), 6 * 25 + 6, 2 * 25 * 6 * 144, "")
    assert rows["stages.0.pool"] == ("hard pool 2x2", (6, 6, 6), 0, 0, "where 0 -> decoder.stages.0")
    assert rows["stages.1.pool"] == ("hard pool 2x2", (8, 3, 3), 0, 0, "where 1 -> decoder.stages.1")
    assert rows["head.fc"] == ("linear", (10,), 72 * 10 + 10, 2 * 72 * 10, "")
    assert rows["decoder.stages.1.unpool"] == ("hard unpool 2x2", (8, 6, 6), 0, 0, "where 1 <- stages.1")
    assert rows["decoder.stages.0.convs.0.conv"] == ("conv 5x5", (1, 12, 12), 6 * 25 + 1, 2 * 25 * 6 * 144, "")
    assert list(rows) == [
        "stages.0.convs.0.conv",
        "stages.0.pool",
        "stages.1.convs.0.conv",
        "stages.1.pool",
        "head.fc",
        "decoder.stages.1.unpool",
        "decoder.stages.1.convs.0.conv",
        "decoder.stages.0.unpool",
        "decoder.stages.0.convs.0.conv",
    ]


def test_upsampling_needs_no_switch_in_the_decoder() -> None:
    rows = rows_of("swwae_mnist", unpool="upsample")
    assert rows["decoder.stages.2.unpool"][0] == "upsample 2x2" and rows["decoder.stages.2.unpool"][-1] == ""


def test_odd_sizes_are_unpooled_to_the_recorded_size() -> None:
    rows = rows_of("swwae_mnist", img_size=27)
    assert rows["stages.1.pool"][1] == (64, 6, 6) and rows["decoder.stages.1.unpool"][1] == (64, 13, 13)


@pytest.mark.parametrize(
    "name, model_args",
    [
        ("swwae_mnist", {}),
        ("swwae_mnist", {"pool": "soft", "notation": "(4)3c-2p-(4)3c-5fc-10fc"}),
        ("swwae_cifar_vgg", {"num_classes": 100}),
    ],
)
def test_totals_are_what_torch_counts(name: str, model_args: dict[str, object]) -> None:
    model = timm.create_model(name, **model_args).eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model.forward_swwae(torch.zeros(1, model.in_chans, 32, 32))
    sums = totals(describe(build_meta(name, model_args)))
    assert sum(part["flops"] for part in sums.values()) == counter.get_total_flops()
    assert sum(part["params"] for part in sums.values()) == sum(p.numel() for p in model.parameters())
    assert sums["decoder"]["params"] == sum(p.numel() for p in model.decoder.parameters())


def test_a_real_model_is_left_as_it_was() -> None:
    model = timm.create_model("swwae_mnist").train()
    assert describe(model) == describe(build_meta("swwae_mnist"))
    assert model.training and not any(module._forward_hooks for module in model.modules())


def test_no_classifier() -> None:
    assert not any(name.startswith("head") for name in rows_of("swwae_mnist", num_classes=0))


def test_names() -> None:
    assert {"swwae_mnist", "swwae_svhn", "swwae_stl10", "swwae_stl10_vgg", "swwae_cifar_vgg"} <= set(model_names())
    check_model_name("swwae_mnist.mnist_100")
    with pytest.raises(ValueError, match="some_tag: there are no such weights, expected swwae_mnist.mnist"):
        check_model_name("swwae_mnist.some_tag")
    check_model_name("local-dir:runs/digits/best")
    with pytest.raises(ValueError, match=r"got 'swwae_minst'.*did you mean swwae_mnist\?"):
        check_model_name("swwae_minst")


@pytest.mark.parametrize(
    "model_args, message",
    [
        ({"nonsense": 1}, "swwae_mnist does not take .*nonsense"),
        ({"img_size": 4}, "4x4 are too small"),
        ({"pool": "softer"}, "pool is 'softer'"),
    ],
)
def test_refused_arguments(model_args: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build_meta("swwae_mnist", model_args)
