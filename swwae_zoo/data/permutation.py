"""A seeded pseudo-random order of any number of images, computed where it is looked at: no array of them all."""

from __future__ import annotations

import math

import numpy as np

_ROUNDS = 8
_MIX = (np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB))


class Permutation:
    """A bijection of `0 .. n-1`, a function of `(n, seed, epoch)` alone.

    A Feistel network on pairs: an index is split as `left * b + right` with `a * b >= n`, and in turn each side is
    shifted, modulo its range, by a hash of the other and the round's key. What falls on one of the `a * b - n` (fewer
    than `2 sqrt(n)`) numbers that are no index is sent round again.

    Args:
        n: number of indices, at least 1.
        seed, epoch: any integers of 0 or more.
    """

    def __init__(self, n: int, seed: int, epoch: int):
        self.n = n
        self._a = math.isqrt(n - 1) + 1
        self._b = -(-n // self._a)
        words = np.random.SeedSequence([seed, epoch]).generate_state(_ROUNDS, np.uint64)
        self._keys = [np.uint64(word) for word in words]

    def __call__(self, positions: np.ndarray) -> np.ndarray:
        """The indices at `positions`, `(M,)` int64 of `0 .. n-1`, as `(M,)` int64."""
        index = self._once(np.asarray(positions, dtype=np.uint64))
        outside = index >= self.n
        while outside.any():
            index[outside] = self._once(index[outside])
            outside = index >= self.n
        return index.astype(np.int64)

    def _once(self, index: np.ndarray) -> np.ndarray:
        a, b = np.uint64(self._a), np.uint64(self._b)
        left, right = index // b, index % b
        for turn, key in enumerate(self._keys):
            if turn % 2:
                right = (right + _hash(left ^ key)) % b
            else:
                left = (left + _hash(right ^ key)) % a
        return left * b + right


def _hash(words: np.ndarray) -> np.ndarray:
    """A well-mixed number below 2^32 for each word, so that sums with an index never wrap."""
    for shift, factor in zip((30, 27), _MIX, strict=True):
        words = (words ^ (words >> np.uint64(shift))) * factor
    return words >> np.uint64(32)
