"""Batched preprocessing against plain loops and hand-computed images."""

import pytest
import torch

from swwae_zoo.data import Preprocess


def images(batch=6, channels=3, height=8, width=8):
    return torch.randint(1, 256, (batch, channels, height, width), generator=generator()).to(torch.uint8)


def plain(size, **options):
    return Preprocess(size, mean=0.0, std=1.0, **options)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def test_scaled_and_normalised_by_channel():
    x = torch.tensor([0, 51, 255], dtype=torch.uint8).view(1, 3, 1, 1)
    out = Preprocess(1, mean=(0.0, 0.1, 0.5), std=(1.0, 0.5, 0.25))(x)
    assert out.dtype == torch.float32
    torch.testing.assert_close(out.flatten(), torch.tensor([0.0, 0.2, 2.0]))


def test_small_images_are_padded_in_the_centre():
    x = images(2, 1, 28, 28)
    out = plain(32)(x)
    assert out.shape == (2, 1, 32, 32)
    torch.testing.assert_close(out[..., 2:30, 2:30], x / 255)
    out[..., 2:30, 2:30] = 0
    assert not out.any()


def test_odd_padding_and_unequal_sides():
    out = plain((8, 9))(images(1, 1, 7, 7))
    assert out.shape == (1, 1, 8, 9)
    assert out[0, 0, :, 0].eq(0).all() and out[0, 0, 7].eq(0).all() and out[0, 0, :7, 1:8].gt(0).all()


@pytest.mark.parametrize("height, width", [(96, 96), (16, 16), (23, 32), (30, 40)])
def test_other_sizes_are_resized(height, width):
    flat = torch.full((2, 3, height, width), 128, dtype=torch.uint8)
    torch.testing.assert_close(plain(32)(flat), torch.full((2, 3, 32, 32), 128 / 255))
    assert plain(32)(images(0, 3, height, width)).shape == (0, 3, 32, 32)


def test_shrinking_looks_at_every_pixel():
    """Antialiased: stripes finer than the output's pixels come out grey, where plain bilinear gives the white ones."""
    stripes = torch.tensor([0, 255, 255, 0], dtype=torch.uint8).repeat(8).expand(1, 1, 32, 32)
    inner = plain(8)(stripes)[..., 1:-1]
    torch.testing.assert_close(inner, torch.full_like(inner, 0.5))


def test_contrast_is_by_image():
    x = torch.cat([images(2), torch.full((1, 3, 8, 8), 77, dtype=torch.uint8)])
    out = plain(8, contrast="image")(x)
    torch.testing.assert_close(out.mean((1, 2, 3)), torch.zeros(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(out[:2].std((1, 2, 3), correction=0), torch.ones(2))
    torch.testing.assert_close(out[2], torch.zeros(3, 8, 8), atol=1e-4, rtol=0)  # flat: no noise blown up


def test_faint_image_is_divided_by_the_floor():
    x = torch.full((1, 1, 8, 8), 100, dtype=torch.uint8)
    x[..., ::2] = 101
    out = plain(8, contrast="image")(x)
    torch.testing.assert_close(out.abs().amax(), torch.tensor(0.5 / 255 / 1e-2))


@pytest.mark.parametrize("options", [{}, {"contrast": "image"}])
def test_empty_batch_and_unusual_channels(options):
    preprocess = plain(8, **options)
    for batch, channels in [(0, 3), (1, 5)]:
        assert preprocess(images(batch, channels)).shape == (batch, channels, 8, 8)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_the_same_images_on_the_gpu():
    preprocess, x = plain(32, contrast="image"), images(16, 3, 28, 28)
    here = preprocess(x)
    there = plain(32, contrast="image")(x.cuda())
    torch.testing.assert_close(there.cpu(), here)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"contrast": "local"}, "got contrast 'local', expected one of none, image"),
        ({"std": (1.0, 0.0, 1.0)}, "expected positive"),
        ({"img_size": (8, 8, 8)}, "expected one size or"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        Preprocess(**{"img_size": 8, "mean": 0.5, "std": 0.5, **options})


def test_bad_images():
    with pytest.raises(ValueError, match="got 3 values of mean for images of 1 channels"):
        Preprocess(8, mean=(0.5, 0.5, 0.5), std=0.5)(images(1, 1))
    with pytest.raises(ValueError, match="got torch.float32 images, expected torch.uint8"):
        plain(8)(images().float())
