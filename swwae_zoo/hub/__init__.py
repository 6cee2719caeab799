"""Weights to the Hugging Face Hub and back: `push`, `pull`; `preprocess_of` says how a loaded model wants its images.

What `timm.create_model(..., pretrained=True)` does with our models stands in `pretrained.py`.
"""
from __future__ import annotations

import importlib
from typing import Any

from .errors import HubError

__all__ = ["HubError", "Pulled", "Pushed", "preprocess_of", "pull", "push"]

# Looked up when asked for: the models import `pretrained`, and `push` needs the models.
_WHERE = {"push": "upload", "Pushed": "upload", "pull": "download", "Pulled": "download", "preprocess_of": "preprocess"}


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_WHERE[name]}"), name)
