"""The pictures, read back pixel by pixel."""

from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from matplotlib.figure import Figure
from PIL import Image

from swwae_zoo.loss import TERMS
from swwae_zoo.training.figures import (
    CELL,
    GAP,
    LABEL,
    SWWAE_COLOUR,
    TWIN_COLOUR,
    Curve,
    across_classes,
    draw_curves,
    draw_reconstructions,
    lay_out,
    plot_errors,
    plot_losses,
    reconstruct,
    reconstruct_without_where,
)


def pixels_of(path: Path, mode: str = "RGB") -> np.ndarray:
    """(H, W, 3) or (H, W), 0 to 255."""
    with Image.open(path) as image:
        return np.asarray(image.convert(mode)).astype(int)


def model(in_chans: int = 1, img_size: int = 32, **kwargs: object) -> torch.nn.Module:
    torch.manual_seed(0)
    return timm.create_model(
        "swwae_mnist", notation="(4)3c-2p-(4)3c-2p-10fc", in_chans=in_chans, img_size=img_size, **kwargs
    )


def cells(path: Path, columns: int, size: int) -> np.ndarray:
    """The images of a grid as (3, columns, size, size, 3), 0 to 255."""
    pixels = pixels_of(path)
    zoom = -(-CELL // size)
    cell = size * zoom + 2 * GAP
    assert pixels.shape == (3 * cell, LABEL + columns * cell, 3)
    grid = pixels[:, LABEL:].reshape(3, cell, columns, cell, 3).transpose(0, 2, 1, 3, 4)
    assert (grid[:, :, :GAP] == 255).all() and (grid[:, :, :, -GAP:] == 255).all(), "no white between the images"
    inner = grid[:, :, GAP:-GAP, GAP:-GAP]
    assert (inner[:, :, ::zoom] == inner[:, :, zoom - 1 :: zoom]).all(), "pixels are not all of one size"
    return inner[:, :, zoom // 2 :: zoom, zoom // 2 :: zoom]


@pytest.mark.parametrize(("in_chans", "size", "columns"), [(1, 32, 5), (3, 32, 1), (3, 96, 3), (2, 32, 2)])
@pytest.mark.parametrize("pool", ["hard", "soft"])
def test_reconstructions(in_chans: int, size: int, columns: int, pool: str, tmp_path: Path) -> None:
    net = model(in_chans, size, pool=pool)
    x = 3 * torch.randn(columns, in_chans, size, size) - 1  # normalised: neither 0..1 nor centred
    draw_reconstructions(tmp_path / "a.png", net, x)
    shown = cells(tmp_path / "a.png", columns, size)
    rows = (x, reconstruct(net, x), reconstruct_without_where(net, x))
    low, high = (side.view(-1, 1, 1, 1) for side in x.flatten(1).aminmax(dim=1))
    for row, images in zip(shown, rows, strict=False):
        want = ((images - low) / (high - low)).clamp(0, 1)
        want = (want if in_chans == 3 else want[:, :1].expand(-1, 3, -1, -1)).permute(0, 2, 3, 1)
        np.testing.assert_allclose(row, want.numpy() * 255, atol=1.01)


def test_rows_are_named(tmp_path: Path) -> None:
    draw_reconstructions(tmp_path / "a.png", model(), torch.rand(1, 1, 32, 32))
    ink = pixels_of(tmp_path / "a.png", "L")[:, :LABEL] < 128
    for row in np.split(ink, 3):
        assert row.sum() > 40, "no name"
    assert not ink[:, :2].any(), "a name is cut off"


def test_a_flat_image_is_drawn(tmp_path: Path) -> None:
    draw_reconstructions(tmp_path / "a.png", model(), torch.zeros(2, 1, 32, 32))
    assert (cells(tmp_path / "a.png", 2, 32)[0] == 0).all()


def test_without_where_only_the_what_is_left() -> None:
    """Images that differ in where alone have one reconstruction without it, and two with it."""
    net = timm.create_model("swwae_mnist", notation="(1)1c-2p-10fc", img_size=4)
    with torch.no_grad():
        net.stages[0].convs[0].conv.weight.fill_(1.0)
    x = torch.zeros(2, 1, 4, 4)
    x[0, 0, 0, 0] = x[1, 0, 1, 0] = 1.0
    what_where, what = reconstruct(net, x), reconstruct_without_where(net, x)
    assert torch.equal(what[0], what[1]) and not torch.equal(what_where[0], what_where[1])
    assert net.training, "left in another mode than it was in"


def colours(path: Path) -> set[tuple[int, ...]]:
    return {tuple(colour) for colour in pixels_of(path).reshape(-1, 3).tolist()}


BLUE, RED, GREEN = (31, 119, 180), (214, 39, 40), (44, 160, 44)  # matplotlib's first, fourth (given by name) and third


def test_curves(tmp_path: Path) -> None:
    lines = [{"step": step, "lr": 0.1, "nll": 2 / step, "rec": 0.5, "middle": 0.1 * step} for step in range(1, 9)]
    draw_curves(tmp_path / "a.png", [*lines, {"step": 4, "val_error": 50.0}, {"step": 8, "val_error": 12.5}])
    drawn = colours(tmp_path / "a.png")
    assert {BLUE, RED, GREEN} <= drawn and pixels_of(tmp_path / "a.png").shape[1:] == (900, 3)
    draw_curves(tmp_path / "b.png", [{**line, "middle": 0.0} for line in lines])
    assert RED not in colours(tmp_path / "b.png"), "a validation error out of nothing"


@pytest.mark.parametrize(
    "metrics", [[], [{"step": 1, "nll": 2.0}], [{"step": 1, "val_error": 0.0}], [{"step": 1, "rec": 0.0}]]
)
def test_curves_of_next_to_nothing(metrics: list[dict[str, float]], tmp_path: Path) -> None:
    draw_curves(tmp_path / "a.png", metrics)
    validated = any("val_error" in line for line in metrics)
    assert pixels_of(tmp_path / "a.png").shape[1:] == (900 if validated else 500, 3)


@pytest.mark.parametrize("terms", [1, 3, len(TERMS)])
@pytest.mark.parametrize("width", [5, 9])
def test_no_label_is_lost(terms: int, width: int) -> None:
    """Legends lie above their axes, in the picture, and none over another."""
    names = list(TERMS)[:terms]
    lines = [{"step": step, "val_error": 3.0, **dict.fromkeys(names, 0.003 * step)} for step in range(1, 9)]
    figure = Figure(figsize=(width, 3.6))
    losses, errors = figure.subplots(1, 2)
    plot_losses(losses, lines)
    plot_errors(errors, [Curve("SWWAE", SWWAE_COLOUR, lines), Curve("twin", TWIN_COLOUR, lines)], lowest=True)
    lay_out(figure)
    legends = [axis.get_legend() for axis in (losses, errors)]
    assert [len(legend.get_texts()) for legend in legends] == [terms, 4]
    first, second = (legend.get_window_extent() for legend in legends)
    for extent, axis in ((first, losses), (second, errors)):
        assert extent.y0 >= axis.bbox.y1 and extent.y1 <= figure.bbox.y1 and extent.x0 >= 0
    assert first.x1 <= second.x0, "the legends touch"
    for axis in (losses, errors):
        assert axis.get_tightbbox().x0 >= 0, "the axis's own label is cut off"


def test_colours_mean_the_same_everywhere() -> None:
    def colour_of(names: list[str]) -> dict[str, str]:
        axis = Figure().subplots()
        plot_losses(axis, [{"step": step, **dict.fromkeys(names, 1.0)} for step in (1, 2)])
        return {str(line.get_label()): str(line.get_color()) for line in axis.lines}

    every = colour_of(list(TERMS))
    assert len(set(every.values()) | {SWWAE_COLOUR, TWIN_COLOUR}) == len(TERMS) + 2
    assert colour_of(["consistency", "middle"]).items() <= every.items()


def test_images_take_turns_among_the_classes() -> None:
    labels = torch.tensor([2, 2, 2, 0, 0, 1])
    assert across_classes(labels, 6, 4).tolist() == [3, 5, 0, 4]
    assert sorted(across_classes(labels, 6, 16).tolist()) == list(range(6))
    assert across_classes(None, 6, 4).tolist() == [0, 1, 2, 3]
