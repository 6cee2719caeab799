"""Stacked What-Where Auto-Encoders (arXiv:1506.02351) as timm models.

`import swwae_zoo` registers the models with timm: `timm.create_model("swwae_mnist")` works from then on.
"""
import sys
from pathlib import Path

__version__ = "0.1.0"

# The `swwae` script imports this package on the way to its command, and `swwae --help` can't wait the
# seconds that torch and timm take: its commands import `swwae_zoo.swwae` when they need the models.
if Path((getattr(sys, "argv", None) or [""])[0]).name not in ("swwae", "swwae.exe"):
    from .decoder import Decoding, Encoding
    from .swwae import SWWAE, SWWAEOutput
    from .wrap import wrap

__all__ = ["SWWAE", "Decoding", "Encoding", "SWWAEOutput", "__version__", "wrap"]
