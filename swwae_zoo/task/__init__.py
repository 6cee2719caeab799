"""One training step."""

from swwae_zoo.task.swwae_task import SWWAETask

__all__ = ["SWWAETask"]
