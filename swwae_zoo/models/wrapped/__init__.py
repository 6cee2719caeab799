"""Any backbone as a SWWAE: `wrap`, and the class that it makes."""

from swwae_zoo.models.wrapped.model import WrappedSWWAE
from swwae_zoo.models.wrapped.wrapping import wrap

__all__ = ["WrappedSWWAE", "wrap"]
