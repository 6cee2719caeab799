"""Data sets as uint8 tensors: loading, seeded splits, index streams, and batched preprocessing."""

from swwae_zoo.data.images import ImageSet, NoSuchSplit
from swwae_zoo.data.load import LOADERS, data_folder, load_images
from swwae_zoo.data.preprocess import Preprocess
from swwae_zoo.data.seeds import seeded
from swwae_zoo.data.splits import Splits, make_splits
from swwae_zoo.data.streams import IndexStream, ResidentImages

__all__ = [
    "LOADERS",
    "ImageSet",
    "IndexStream",
    "NoSuchSplit",
    "Preprocess",
    "ResidentImages",
    "Splits",
    "data_folder",
    "load_images",
    "make_splits",
    "seeded",
]
