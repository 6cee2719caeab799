"""The one image reader: every mode is scaled by what the format says, or refused in a line."""

import logging
import struct
from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from swwae_zoo.data import load_images
from swwae_zoo.data.readers import pictures
from swwae_zoo.data.readers.pictures import read_picture

RAMP = np.arange(16).reshape(4, 4)  # times 17: 0 to 255


def encoded(image, kind, **options):
    file = BytesIO()
    image.save(file, kind, **options)
    return BytesIO(file.getvalue())


def tiff(array, bits, sample=1, white_is_zero=False):
    """A grey TIFF of raw values, little-endian; `sample` 1 unsigned, 2 signed, 3 floats."""
    data = array if isinstance(array, bytes) else array.tobytes()
    tags = [(256, 4), (257, 4), (258, bits), (259, 1), (262, int(not white_is_zero)), (273, 8), (277, 1), (278, 4),
            (279, len(data)), (339, sample)]  # fmt: skip
    entries = b"".join(struct.pack("<HHII", tag, 4 if tag in (273, 279) else 3, 1, value) for tag, value in tags)
    return BytesIO(
        b"II*\0" + struct.pack("<I", 8 + len(data)) + data + struct.pack("<H", len(tags)) + entries + bytes(4)
    )


def twelve_bits():
    values = (RAMP.ravel() * 273).tolist()
    pairs = zip(values[::2], values[1::2], strict=True)
    return b"".join(bytes([a >> 4, (a & 15) << 4 | b >> 8, b & 255]) for a, b in pairs)


RAMPS = {
    "8 bits": lambda: encoded(Image.fromarray((RAMP * 17).astype(np.uint8)), "PNG"),
    "16-bit PNG": lambda: encoded(Image.fromarray((RAMP * 4369).astype(np.uint16)), "PNG"),
    "16-bit JPEG 2000": lambda: encoded(Image.fromarray((RAMP * 4369).astype(np.uint16)), "JPEG2000"),
    "16-bit TIFF": lambda: tiff((RAMP * 4369).astype("<u2"), 16),
    "16-bit TIFF, white is zero": lambda: tiff(((15 - RAMP) * 4369).astype("<u2"), 16, white_is_zero=True),
    "signed 16-bit TIFF": lambda: tiff((RAMP * 2184.4).astype("<i2"), 16, 2),
    "12-bit TIFF": lambda: tiff(twelve_bits(), 12),
    "12-bit PGM": lambda: BytesIO(b"P5 4 4 4095\n" + (RAMP * 273).astype(">u2").tobytes()),
    "int32 TIFF": lambda: tiff((RAMP * 143165576).astype("<i4"), 32, 2),
    "uint32 TIFF": lambda: tiff((RAMP.astype(np.uint64) * 286331153).astype("<u4"), 32),
    "float TIFF": lambda: tiff((RAMP / 15).astype("<f4"), 32, 3),
    "PFM": lambda: encoded(Image.fromarray((RAMP / 15).astype(np.float32)), "PPM"),
}


@pytest.mark.parametrize("kind", RAMPS)
def test_every_depth_comes_out_alike(kind):
    for grey in (True, False):
        picture = read_picture(RAMPS[kind](), grey, None)
        assert picture.pixels.shape == (1 if grey else 3, 4, 4)
        assert np.abs(picture.pixels.astype(int) - RAMP * 17).max() <= 1 and picture.used > 0.9


@pytest.mark.parametrize("kind, mode, options", [
    ("PNG", "RGBA", {}), ("PNG", "LA", {}), ("WEBP", "RGBA", {"lossless": True}), ("TGA", "RGBA", {}),
    ("PNG", "L", {"transparency": 0}), ("PNG", "RGB", {"transparency": (0, 0, 0)}), ("PNG", "1", {"transparency": 0}),
    ("GIF", "P", {"transparency": 0}),
])  # fmt: skip
def test_transparency_is_white(kind, mode, options):
    """A black drawing whose ground is transparent, and black under it: the ground is white, not black."""
    image = Image.new(mode, (4, 4), 0)
    if "A" in mode:
        image.putpixel((1, 2), (0,) * (len(mode) - 1) + (255,))
    pixels = read_picture(encoded(image, kind, **options), True, None).pixels
    assert (pixels[0, 2, 1] == 0) == ("A" in mode) and (pixels == 255).sum() == 16 - ("A" in mode)


def test_other_modes():
    assert read_picture(encoded(Image.new("1", (4, 4), 1), "TIFF"), True, None).pixels.min() == 255
    black = Image.new("CMYK", (4, 4), (0, 0, 0, 255))
    for kind in ("JPEG", "TIFF"):
        assert read_picture(encoded(black, kind), True, None).pixels.max() < 3


@pytest.mark.parametrize("file, message", [
    (lambda: tiff(np.full((4, 4), 200, "<f4"), 32, 3), "floats from 200 to 200, expected 0 to 1"),
    (lambda: tiff(np.full((4, 4), np.nan, "<f4"), 32, 3), "floats from nan"),
    (lambda: tiff(np.full((4, 4), -1, "<i4"), 32, 2), "values from -1, expected none below 0"),
    (lambda: BytesIO(b"no image"), "it is no image, or none that Pillow reads"),
    (lambda: BytesIO(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"), "it is no image"),
])  # fmt: skip
def test_refused(file, message):
    with pytest.raises(ValueError, match=message):
        read_picture(file(), True, None)


def test_a_few_bytes_that_claim_many_pixels():
    """Refused before they are decoded; half of that size is read in a bounded amount of memory."""
    bomb = encoded(Image.new("L", (9000, 9000)), "PNG")
    with pytest.raises(ValueError, match="9000x9000 pixels, expected at most 67,108,864"):
        read_picture(bomb, True, None)


@pytest.mark.parametrize("suffix, kind", [
    (".jfif", "JPEG"), (".avif", "AVIF"), (".pbm", "PPM"), (".webp", "WEBP"), (".JPG", "JPEG"), (".qoi", "QOI"),
    (".jp2", "JPEG2000"), (".tga", "TGA"), (".ico", "ICO"),
])  # fmt: skip
def test_every_format_that_pillow_reads(tmp_path, suffix, kind):
    (tmp_path / "c").mkdir()
    image = Image.fromarray((np.eye(16) * 255).astype(np.uint8)).convert("1" if suffix == ".pbm" else "RGB")
    image.save(tmp_path / "c" / f"a{suffix}", kind)
    assert load_images(f"folder:{tmp_path}", "train").images.shape == (1, 3, 16, 16)


@pytest.mark.parametrize("top", [255, 4095])
def test_a_set_that_would_be_all_but_black_is_refused(tmp_path, top):
    """8- and 12-bit values in 16-bit files; one dark image among bright ones is no more than dark."""
    (tmp_path / "c").mkdir()
    for i in range(3):
        Image.fromarray((RAMP * (top // 15)).astype(np.uint16)).save(tmp_path / "c" / f"{i}.png")
    with pytest.raises(ValueError, match="the largest value is 0.0.* all but black"):
        load_images(f"folder:{tmp_path}", "train")
    Image.fromarray((RAMP * 4369).astype(np.uint16)).save(tmp_path / "c" / "bright.png")
    assert load_images(f"folder:{tmp_path}", "train").count == 4


def test_images_of_one_value_are_told(tmp_path, caplog):
    (tmp_path / "c").mkdir()
    Image.new("L", (4, 4), 7).save(tmp_path / "c" / "a.png")
    Image.fromarray((RAMP * 17).astype(np.uint8)).save(tmp_path / "c" / "b.png")
    with caplog.at_level(logging.WARNING):
        load_images(f"folder:{tmp_path}", "train")
        assert "1 of 2 images" in caplog.text and "every pixel" not in caplog.text.replace("in every pixel", "")
        np.savez(tmp_path / "set.npz", images=np.zeros((2, 4, 4), np.uint8))
        load_images(f"npz:{tmp_path}/set.npz", "unlabeled")
    assert "every pixel of every image is 0" in caplog.text


def test_damaged_files_never_get_past_the_reader():
    """Bytes changed and files cut at random: pixels of the right shape, or a ValueError in one line."""
    rng = np.random.default_rng(0)
    image = Image.fromarray(rng.integers(0, 256, (12, 10, 3), dtype=np.uint8))
    kinds = ("PNG", "JPEG", "GIF", "TIFF", "WEBP", "BMP", "TGA", "QOI", "PPM")
    whole = [encoded(image, kind).getvalue() for kind in kinds]
    whole += [file().getvalue() for file in RAMPS.values()]
    read = 0
    for _ in range(1000):
        data = bytearray(whole[rng.integers(len(whole))])
        for place in rng.integers(0, len(data), rng.integers(1, 6)):
            data[place] = rng.integers(256)
        end = len(data) if rng.integers(2) else rng.integers(1, len(data))
        try:
            picture = read_picture(BytesIO(bytes(data[:end])), False, (8, 8))
        except ValueError as error:
            assert "\n" not in str(error) and len(str(error)) < 300
        else:
            assert picture.pixels.shape == (3, 8, 8) and picture.pixels.dtype == np.uint8
            read += 1
    assert 100 < read < 900


def test_formats_that_run_other_programs_are_not_opened():
    assert "EPS" not in pictures.FORMATS and ".eps" not in pictures.SUFFIXES and len(pictures.SUFFIXES) > 40
