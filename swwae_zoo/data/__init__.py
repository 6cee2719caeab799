"""Data sets as uint8 tensors: loading, seeded splits, index streams, and batched preprocessing."""

from swwae_zoo.data.images import ImageSet, NoSuchSplit
from swwae_zoo.data.load import LOADERS, data_folder, load_images
from swwae_zoo.data.preprocess import Preprocess
from swwae_zoo.data.seeds import seeded
from swwae_zoo.data.splits import Splits, make_splits
from swwae_zoo.data.store import ImageStore
from swwae_zoo.data.streams import IndexStream, ResidentImages, StreamedImages, fits_on, images_on

__all__ = [
    "LOADERS",
    "ImageSet",
    "ImageStore",
    "IndexStream",
    "NoSuchSplit",
    "Preprocess",
    "ResidentImages",
    "Splits",
    "StreamedImages",
    "data_folder",
    "fits_on",
    "images_on",
    "load_images",
    "make_splits",
    "seeded",
]
