"""Independent random generators, each named by a seed and a purpose."""

from __future__ import annotations

import hashlib

import torch


def seeded(seed: int, *purpose: str | int) -> torch.Generator:
    """A CPU generator that depends on `seed` and `purpose` alone, never on torch's global generator.

    Hashed rather than added up, because torch's CPU generator looks at the low 32 bits of a seed only, and
    because seed 0 in epoch 1 must not be seed 1 in epoch 0.
    """
    text = "/".join(str(part) for part in (seed, *purpose))
    digest = hashlib.blake2b(text.encode(), digest_size=4).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "little"))
