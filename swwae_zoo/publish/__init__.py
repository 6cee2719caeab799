"""A trained run made public: model card, push to the Hub, packaged weights."""

from swwae_zoo.publish.push import Pushed, push

__all__ = ["Pushed", "push"]
