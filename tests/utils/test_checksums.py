"""A flipped bit or a cut-off file is noticed."""

import random
import re
from pathlib import Path

import pytest
import safetensors
import safetensors.torch
import torch

from swwae_zoo.utils.checksums import check_sealed, save_sealed

CONFIG = b'{"architecture": "swwae_mnist"}'


@pytest.fixture
def sealed(tmp_path: Path) -> Path:
    tensors = {
        "a.weight": torch.arange(40.0).view(4, 10),
        "b": torch.tensor(7),
        "c": torch.zeros(3, dtype=torch.bfloat16),
    }
    save_sealed(tensors, tmp_path / "model.safetensors", CONFIG)
    return tmp_path / "model.safetensors"


def test_it_is_an_ordinary_file_and_always_the_same(sealed: Path, tmp_path: Path) -> None:
    loaded = safetensors.torch.load_file(sealed)
    assert loaded["a.weight"].tolist() == torch.arange(40.0).view(4, 10).tolist() and int(loaded["b"]) == 7
    check_sealed(sealed, CONFIG)
    for _ in range(5):
        save_sealed(loaded, tmp_path / "again", CONFIG)
        assert (tmp_path / "again").read_bytes() == sealed.read_bytes()


def test_flips_and_truncations(sealed: Path) -> None:
    whole, draw = sealed.read_bytes(), random.Random(0)
    for _ in range(300):
        bit = draw.randrange(8 * len(whole))
        flipped = bytearray(whole)
        flipped[bit // 8] ^= 1 << bit % 8
        sealed.write_bytes(flipped)
        with pytest.raises((ValueError, safetensors.SafetensorError)):
            check_sealed(sealed)
            safetensors.torch.load_file(sealed)  # where the flip hides the checksum itself, this is no such file
    for _ in range(100):
        sealed.write_bytes(whole[: draw.randrange(len(whole))])
        with pytest.raises(ValueError, match="model.safetensors"):
            check_sealed(sealed)


def test_another_config(sealed: Path) -> None:
    with pytest.raises(
        ValueError, match=re.escape("config.json is not the one that was written with model.safetensors")
    ):
        check_sealed(sealed, CONFIG + b" ")


def test_a_file_of_others_passes(tmp_path: Path) -> None:
    safetensors.torch.save_file({"a": torch.zeros(2)}, tmp_path / "x.safetensors", {"format": "pt"})
    check_sealed(tmp_path / "x.safetensors", CONFIG)
