"""The client of the Hugging Face Hub: what is fetched is checked before it is believed."""

from swwae_zoo.hub.errors import HubError
from swwae_zoo.hub.fetch import Pulled, pull

__all__ = ["HubError", "Pulled", "pull"]
