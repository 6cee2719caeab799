"""Data sets as uint8 tensors: loading, seeded splits, index streams, and batched preprocessing."""

from swwae_zoo.data.bounds import physical_memory
from swwae_zoo.data.load import LOADERS, data_folder, load_images
from swwae_zoo.data.loader import StreamedImages, images_on
from swwae_zoo.data.readers.hf import pinned, unpinned
from swwae_zoo.data.sampler import IndexStream
from swwae_zoo.data.seeds import seeded
from swwae_zoo.data.splits import SplitRequest, Splits, make_splits
from swwae_zoo.data.store import ImageStore
from swwae_zoo.data.transforms import Preprocess
from swwae_zoo.data.types import Images, ImageSet, NoSuchSplit
from swwae_zoo.data.views import AUGMENT, STRONG, Augmentation, RandomView, augmentation

__all__ = [
    "AUGMENT",
    "STRONG",
    "Augmentation",
    "LOADERS",
    "ImageSet",
    "ImageStore",
    "Images",
    "IndexStream",
    "NoSuchSplit",
    "Preprocess",
    "RandomView",
    "SplitRequest",
    "Splits",
    "StreamedImages",
    "augmentation",
    "data_folder",
    "images_on",
    "load_images",
    "make_splits",
    "physical_memory",
    "pinned",
    "seeded",
    "unpinned",
]
