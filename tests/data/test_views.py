"""Views: exact where nothing is interpolated, one draw an image, the same from the same generator."""

import math

import pytest
import torch

from swwae_zoo.data.views import _DRAWS as DRAWS
from swwae_zoo.data.views import AUGMENT, STRONG, Augmentation, RandomView, augmentation


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def view_of(images: torch.Tensor, seed: int = 0, **amounts: object) -> torch.Tensor:
    return RandomView(Augmentation(**amounts), tuple(images.shape[2:]))(images, generator(seed))  # type: ignore[arg-type]


def extremes(monkeypatch: pytest.MonkeyPatch, value: float) -> None:
    """Every draw becomes `value`, -1 to 1."""
    monkeypatch.setattr(torch, "rand", lambda *size, generator: torch.full(size, (value + 1) / 2))


ARGS = {
    "shift": 3, "mirror": True, "rotation": 30.0, "scale": 0.3, "shear": 0.3, "crop": 0.5, "elastic": 0.05,
    "contrast": 0.5,
    "brightness": 0.5, "saturation": 0.5, "cutout": 0.5, "noise": 0.2,
}  # fmt: skip


def test_nothing_on_gives_the_images_and_draws_nothing():
    images, source = torch.rand(4, 3, 8, 8), generator()
    before = source.get_state()
    for settings in (Augmentation(), Augmentation(border="reflect"), AUGMENT["none"], STRONG["none"]):
        assert RandomView(settings, (8, 8))(images, source) is images
    assert torch.equal(source.get_state(), before)


@pytest.mark.parametrize("name", ARGS)
def test_each_amount_changes_the_view_and_leaves_the_images(name: str):
    images = torch.rand(16, 3, 12, 12)
    kept = images.clone()
    view = view_of(images, **{name: ARGS[name]})
    assert view.shape == images.shape and view.dtype == images.dtype
    assert not torch.equal(view, images)
    assert torch.equal(images, kept)
    assert view.min() >= 0 and view.max() <= 1


def test_a_grey_image_has_no_saturation():
    images = torch.rand(4, 1, 8, 8)
    assert torch.equal(view_of(images, saturation=1.0), images)
    grey = torch.rand(4, 1, 8, 8).expand(4, 3, 8, 8).contiguous()
    torch.testing.assert_close(view_of(grey, saturation=1.0), grey)


def test_shift_alone_moves_whole_pixels_in_every_direction():
    images = torch.rand(256, 2, 7, 9) + 0.5
    view = view_of(images.clamp(max=1), shift=2)
    images = images.clamp(max=1)
    framed = torch.nn.functional.pad(images, (2, 2, 2, 2))
    found = set()
    for b in range(len(images)):
        places = [
            (down, right)
            for down in range(-2, 3)
            for right in range(-2, 3)
            if torch.equal(view[b], framed[b, :, 2 - down : 9 - down, 2 - right : 11 - right])
        ]
        assert len(places) == 1
        found.add(places[0])
    assert len(found) == 25  # each of the 5x5 places came


def test_shift_reflects_at_the_edge(monkeypatch: pytest.MonkeyPatch):
    images = torch.arange(5.0).div(10).expand(1, 1, 5, 5).contiguous()
    extremes(monkeypatch, 1.0)
    view = view_of(images, shift=2, border="reflect")
    assert torch.equal(view[0, 0, 0], torch.tensor([1.0, 0.0, 0.0, 1.0, 2.0]) / 10)
    extremes(monkeypatch, -1.0)
    view = view_of(images, shift=2, border="reflect")
    assert torch.equal(view[0, 0, 0], torch.tensor([2.0, 3.0, 4.0, 4.0, 3.0]) / 10)


def test_mirror_is_left_to_right_for_about_half():
    images = torch.rand(400, 3, 5, 6)
    view = view_of(images, mirror=True)
    flipped = (view == images.flip(3)).flatten(1).all(1)
    assert (flipped | (view == images).flatten(1).all(1)).all()
    assert 150 < flipped.sum() < 250


def test_mirror_in_the_affine_grid_is_the_exact_one():
    images = torch.rand(64, 3, 6, 8)
    exact, warped = view_of(images, mirror=True), view_of(images, mirror=True, rotation=1e-6)
    torch.testing.assert_close(warped, exact, atol=1e-4, rtol=0)


@pytest.mark.parametrize(("size", "turns"), [((8, 8), 1), ((7, 7), 1), ((7, 7), 2)])
def test_rotation_by_right_angles_is_exact(monkeypatch: pytest.MonkeyPatch, size: tuple[int, int], turns: int):
    images = torch.rand(2, 3, *size)
    extremes(monkeypatch, 1.0)
    view = view_of(images, rotation=90.0 * turns)
    torch.testing.assert_close(view, images.rot90(turns, (2, 3)), atol=1e-5, rtol=0)


def test_rotation_keeps_lengths_on_an_oblong_image(monkeypatch: pytest.MonkeyPatch):
    images = torch.zeros(1, 1, 9, 21)
    images[0, 0, 4, 7:14] = 1  # 7 pixels across the middle
    extremes(monkeypatch, 1.0)
    view = view_of(images, rotation=90.0)
    expected = torch.zeros_like(images)
    expected[0, 0, 1:8, 10] = 1
    torch.testing.assert_close(view, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("border", ["zeros", "reflect"])
@pytest.mark.parametrize("draw", [1.0, -1.0])
def test_an_affine_shift_of_whole_pixels_is_the_exact_one(monkeypatch: pytest.MonkeyPatch, border: str, draw: float):
    images = torch.rand(2, 1, 8, 10)
    extremes(monkeypatch, draw)
    exact = view_of(images, shift=2, border=border)
    monkeypatch.setattr(Augmentation, "is_warped", True)
    torch.testing.assert_close(view_of(images, shift=2, border=border), exact, atol=1e-5, rtol=0)
    assert not torch.equal(exact, images)


def test_scale_and_crop_enlarge_by_what_they_say(monkeypatch: pytest.MonkeyPatch):
    settings = {"scale": Augmentation(scale=0.5), "crop": Augmentation(crop=0.75)}
    draw = {
        name: torch.full((1,), 0.0)
        for name in (
            "right",
            "down",
            "mirror",
            "rotation",
            "scale",
            "shear",
            "crop_area",
            "crop_ratio",
            "crop_x",
            "crop_y",
        )
    }
    for value, factor in ((1.0, 1 / 1.5), (-1.0, 1.5)):
        matrix = RandomView(settings["scale"], (8, 8))._matrix({**draw, "scale": torch.full((1,), value)})
        torch.testing.assert_close(matrix[0], torch.tensor([[factor, 0, 0], [0, factor, 0]]))
    corner = {**draw, "crop_area": torch.ones(1), "crop_x": torch.ones(1), "crop_y": -torch.ones(1)}
    matrix = RandomView(settings["crop"], (8, 8))._matrix(corner)  # a quarter of the area, top right
    torch.testing.assert_close(matrix[0], torch.tensor([[0.5, 0, 0.5], [0, 0.5, -0.5]]))


def test_a_crop_never_leaves_the_image():
    matrix = RandomView(Augmentation(crop=0.9), (16, 24))._matrix(
        dict(zip(DRAWS, torch.rand(len(DRAWS), 500) * 2 - 1, strict=True))
    )
    corners = torch.tensor([[x, y, 1.0] for x in (-1, 1) for y in (-1, 1)])
    places = matrix @ corners.T
    assert places.abs().max() <= 1 + 1e-6
    assert places.abs().max() > 0.95 and places[:, 0].std() > 0.3  # and goes everywhere inside


def test_elastic_moves_all_points_alike_when_all_draws_are(monkeypatch: pytest.MonkeyPatch):
    images = torch.rand(2, 3, 20, 40)
    extremes(monkeypatch, 1.0)
    view = view_of(images, elastic=0.1)  # a tenth of 20 down, of 40 to the right: where the pixels come from
    expected = torch.nn.functional.pad(images, (0, 4, 0, 2))[:, :, 2:, 4:]
    torch.testing.assert_close(view, expected, atol=1e-4, rtol=0)


def test_elastic_is_smooth_and_does_not_fold():
    place = torch.linspace(0, 1, 64).expand(1, 1, 64, 64)
    view = view_of(place.expand(200, 1, 64, 64).contiguous(), elastic=0.05, border="reflect")[:, 0, 8:-8, 8:-8]
    steps = view.diff(dim=2) * 63
    assert steps.min() > 0.2 and steps.max() < 1.8 and steps.std() > 0.05


def test_shear_moves_the_rows_sideways(monkeypatch: pytest.MonkeyPatch):
    images = torch.zeros(1, 1, 9, 9)
    images[0, 0, :, 4] = 1
    extremes(monkeypatch, 1.0)
    view = view_of(images, shear=1.0)
    assert torch.allclose(view[0, 0, 2:7, 2:7], torch.eye(5).flip(0), atol=1e-5)


def test_brightness_and_contrast(monkeypatch: pytest.MonkeyPatch):
    images = torch.rand(3, 3, 4, 4) * 0.5
    extremes(monkeypatch, 1.0)
    torch.testing.assert_close(view_of(images, brightness=0.5), (images * 1.5).clamp(max=1))
    extremes(monkeypatch, -1.0)
    flat = view_of(images, contrast=1.0)
    luma = (images * torch.tensor([0.299, 0.587, 0.114]).view(3, 1, 1)).sum(1).mean((1, 2))
    torch.testing.assert_close(flat, luma.view(3, 1, 1, 1).expand_as(images))
    grey = view_of(images, saturation=1.0)
    expected = (images * torch.tensor([0.299, 0.587, 0.114]).view(3, 1, 1)).sum(1, keepdim=True)
    torch.testing.assert_close(grey, expected.expand_as(images))


@pytest.mark.parametrize(("border", "filled"), [("zeros", 0.0), ("reflect", 0.7)])
def test_cutout_is_one_square_of_its_size(monkeypatch: pytest.MonkeyPatch, border: str, filled: float):
    images = torch.full((2, 3, 10, 20), 0.7)
    images[:, :, 0, 0] += 1e-3  # so that the mean colour is not the others'
    extremes(monkeypatch, 0.0)
    changed = view_of(images, cutout=0.4, border=border) != images
    assert changed[0, 0, 3:7, 8:12].all() and changed[0, 0].sum() == 16
    assert abs(float(view_of(images, cutout=0.4, border=border)[0, 0, 4, 9]) - filled) < 1e-4


def test_cutout_of_most_images_is_whole_and_stays_inside_its_share():
    share = (view_of(torch.ones(500, 1, 20, 20), cutout=0.5) == 0).float().mean((1, 2, 3))
    assert share.max() <= 0.3 and 0.12 < share.mean() < 0.25


def test_noise_has_its_deviation(monkeypatch: pytest.MonkeyPatch):
    extremes(monkeypatch, 1.0)
    view = view_of(torch.full((8, 1, 32, 32), 0.5), noise=0.1)
    assert abs(float(view.std()) - 0.1) < 5e-3 and abs(float(view.mean()) - 0.5) < 5e-3


def test_images_draw_apart_from_each_other():
    images = torch.rand(1, 3, 16, 16).expand(32, 3, 16, 16).contiguous()
    for name in set(ARGS) - {"shift", "mirror"}:
        view = view_of(images, **{name: ARGS[name]})
        assert len({tuple(v.flatten().tolist()) for v in view}) > 28, name


@pytest.mark.parametrize("amounts", [ARGS, {"shift": 2, "mirror": True}, {"noise": 0.3}])
def test_the_generators_state_decides(amounts: dict[str, object]):
    images, source = torch.rand(6, 3, 16, 16), generator(3)
    view = RandomView(Augmentation(**amounts), (16, 16))  # type: ignore[arg-type]
    view(images, source)
    state = source.get_state()
    second = view(images, source)
    assert not torch.equal(view(images, source), second)
    source.set_state(state)
    assert torch.equal(view(images, source), second)


def test_torchs_own_generator_is_left_alone():
    before = torch.get_rng_state()
    view_of(torch.rand(4, 3, 16, 16, generator=generator()), **ARGS)
    assert torch.equal(torch.get_rng_state(), before)


def test_parts_of_a_batch_are_the_whole_batch():
    images, view = torch.rand(10, 3, 16, 16), RandomView(Augmentation(**ARGS), (16, 16))  # type: ignore[arg-type]
    whole = view(images, generator())
    parts = [view(images[first : first + count], generator(), (first, count, 10)) for first, count in ((0, 4), (4, 6))]
    torch.testing.assert_close(torch.cat(parts), whole, atol=1e-6, rtol=0)


def test_one_amount_leaves_the_others_draws_alone():
    images = torch.rand(6, 3, 16, 16)
    shifted, cut = view_of(images, shift=3), view_of(images, shift=3, cutout=0.3)
    kept = cut != 0
    assert torch.equal(cut[kept], shifted[kept]) and not torch.equal(cut, shifted)


def test_other_types_sizes_and_no_images():
    for size in ((5, 9), (1, 1), (3, 2)):
        view = view_of(torch.rand(3, 3, *size), **{**ARGS, "shift": 0})
        assert view.shape == (3, 3, *size) and view.isfinite().all()
    assert view_of(torch.rand(2, 3, 8, 8, dtype=torch.float64), **ARGS).dtype == torch.float64
    assert view_of(torch.rand(0, 3, 8, 8), **ARGS).shape == (0, 3, 8, 8)


@pytest.mark.parametrize(
    ("amounts", "message"),
    [
        ({"shift": -1}, "shift: got -1"), ({"shift": 1.5}, "shift: got 1.5"), ({"shift": True}, "shift: got True"),
        ({"rotation": 181.0}, "rotation: got 181"), ({"rotation": -1.0}, "rotation"), ({"rotation": math.nan}, "rotat"),
        ({"scale": 1.0}, "scale: got 1.0"), ({"shear": 1.1}, "shear"), ({"crop": 1.0}, "crop"),
        ({"elastic": 0.2}, "elastic: got 0.2"),
        ({"contrast": 1.1}, "contrast"),
        ({"brightness": -0.1}, "brightness"), ({"saturation": 2.0}, "saturation"), ({"cutout": 1.0}, "cutout"),
        ({"noise": math.inf}, "noise"), ({"noise": -1.0}, "noise"), ({"mirror": 1}, "mirror"),
        ({"border": "wrap"}, "border"),
    ],
)  # fmt: skip
def test_bad_amounts_are_refused(amounts: dict[str, object], message: str):
    with pytest.raises(ValueError, match=message):
        Augmentation(**amounts)  # type: ignore[arg-type]


def test_what_does_not_fit_the_images_is_refused():
    with pytest.raises(ValueError, match="shift: got 8 pixels for images of 8x9"):
        RandomView(Augmentation(shift=8), (8, 9))
    view = RandomView(Augmentation(contrast=0.5), (8, 8))
    for wrong in (torch.rand(2, 3, 9, 8), torch.rand(3, 8, 8), torch.zeros(2, 3, 8, 8, dtype=torch.uint8)):
        with pytest.raises(ValueError, match="expected floats from 0 to 1"):
            view(wrong, generator())
    with pytest.raises(ValueError, match="5 channels"):
        view(torch.rand(2, 5, 8, 8), generator())


def test_presets_by_name_with_amounts_replaced():
    assert augmentation("photo", STRONG, cutout=0.0, shift=None).cutout == 0
    assert augmentation("photo", STRONG, shift=None) == STRONG["photo"]
    with pytest.raises(ValueError, match="'gray'.*none, grey, photo"):
        augmentation("gray", STRONG)
    with pytest.raises(ValueError, match="'rotate'.*rotation"):
        augmentation("grey", STRONG, rotate=3)
    assert not STRONG["grey"].mirror and not AUGMENT["shift"].mirror  # a mirrored digit is no digit


@pytest.mark.parametrize("name", ["rotation", "noise", "scale", "cutout"])
@pytest.mark.parametrize("value", ["much", True, None])
def test_an_amount_is_a_number(name: str, value: object) -> None:
    with pytest.raises(ValueError, match=f"{name}: got {value!r}, expected a"):
        Augmentation(**{name: value})  # type: ignore[arg-type]
