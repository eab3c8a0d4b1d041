"""Images by name, by path or from arrays."""

from nbhelpers.data.images import class_names, count_images, identity, iter_batches, load_images, random_indices
from nbhelpers.data.likeness import psnr, ssim
from nbhelpers.data.represented import represent_set

__all__ = [
    "class_names",
    "count_images",
    "identity",
    "iter_batches",
    "load_images",
    "psnr",
    "random_indices",
    "represent_set",
    "ssim",
]
