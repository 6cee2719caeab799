"""The models. Importing this package registers them with timm."""

from swwae_zoo.models._base import SWWAE, Decoding, Encoding, SWWAEOutput
from swwae_zoo.models._registry import build_meta, check_model_name, model_names
from swwae_zoo.models.swwae import NOTATIONS, NotationSWWAE
from swwae_zoo.models.wrapped import WrappedSWWAE, wrap

__all__ = [
    "NOTATIONS",
    "SWWAE",
    "Decoding",
    "Encoding",
    "NotationSWWAE",
    "SWWAEOutput",
    "WrappedSWWAE",
    "build_meta",
    "check_model_name",
    "model_names",
    "wrap",
]
