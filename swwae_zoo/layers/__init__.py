"""What-where pools, convolutions, the classifier, and how they save memory."""

from swwae_zoo.layers.hard_pool import HardPool
from swwae_zoo.layers.pool import Pool, create_pool, pool_names, register_pool, unpool_names
from swwae_zoo.layers.soft_pool import SoftPool
from swwae_zoo.layers.upsample_pool import UpsamplePool

__all__ = ["HardPool", "Pool", "SoftPool", "UpsamplePool", "create_pool", "pool_names", "register_pool", "unpool_names"]
