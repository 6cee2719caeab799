"""Numbers from outside, checked before memory is taken or a type is changed."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import torch
from torch import Tensor

MAX_CLASSES = 1_000_000


def physical_memory() -> float:
    """Bytes of this machine's memory, infinity where that can't be found out."""
    if "SC_PHYS_PAGES" in getattr(os, "sysconf_names", {}):
        return float(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    return float("inf")


def check_memory(what: str, size: float) -> None:
    """Refuses to take `size` bytes where this machine has not as many."""
    if size > physical_memory():
        raise ValueError(
            f"{what} takes {size / 2**30:,.1f} GiB and this machine has {physical_memory() / 2**30:,.1f} GiB of "
            "memory: it is damaged, or a part of it has to do"
        )


def checked_labels(what: str, array: np.ndarray) -> Tensor:
    """Labels as `(N,)` int64.

    Raises:
        ValueError: no whole numbers of 0 to a million, or another shape than (N,) or (N, 1).
    """
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim != 1 or array.size == 0 or not np.issubdtype(array.dtype, np.integer):
        raise ValueError(f"{what} is {array.dtype} of shape {array.shape}; expected whole numbers from 0, (N,)")
    low, high = int(array.min()), int(array.max())
    if low < 0 or high >= MAX_CLASSES:
        raise ValueError(
            f"{what} holds {low if low < 0 else high}; expected whole numbers from 0, at most {MAX_CLASSES - 1:,}: "
            "number the classes 0, 1, 2, ..."
        )
    return torch.from_numpy(array.astype(np.int64))


def checked_pixels(what: str, pixels: Any) -> np.ndarray:
    """Pixel values as uint8 of the same shape: whole numbers of 0 to 255, of whatever type.

    Raises:
        ValueError: other values, not a number among them, or floats of 0 to 1, which would be black.
    """
    try:
        array = np.asarray(pixels)
    except ValueError:
        raise ValueError(f"{what}: rows of unequal length, expected pixels of 0 to 255") from None
    if array.dtype == np.uint8:
        return array
    if array.dtype == bool or not np.issubdtype(array.dtype, np.number) or np.iscomplexobj(array) or not array.size:
        raise ValueError(f"{what}: got {array.dtype} of shape {array.shape}, expected pixels of 0 to 255")
    low, high = array.min(), array.max()
    if not (low >= 0 and high <= 255):  # not a number is neither
        raise ValueError(f"{what}: got values from {low} to {high}, expected pixels of 0 to 255")
    if np.issubdtype(array.dtype, np.floating):
        if (array != np.floor(array)).any():
            raise ValueError(f"{what}: got fractions from {low} to {high}, expected whole pixels of 0 to 255")
        if high == 1:
            raise ValueError(f"{what}: got floats from {low} to 1, expected pixels of 0 to 255: multiply them by 255")
    return array.astype(np.uint8)
