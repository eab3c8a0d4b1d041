"""Images by name, path or array."""

from nbhelpers.data.distortions import DISTORTIONS, distort, distort_to, interval, rank_correlation
from nbhelpers.data.images import (
    class_names,
    count_images,
    identity,
    image_names,
    iter_batches,
    load_images,
    open_images,
)
from nbhelpers.data.judgements import Judgements, between, load_judgements
from nbhelpers.data.likeness import psnr, ssim
from nbhelpers.data.represented import represent_set
from nbhelpers.data.selection import TopImages, random_indices, random_partners, top_images
from nbhelpers.data.sets import ImageSet

__all__ = [
    "DISTORTIONS",
    "ImageSet",
    "Judgements",
    "TopImages",
    "between",
    "class_names",
    "count_images",
    "distort",
    "distort_to",
    "identity",
    "image_names",
    "interval",
    "iter_batches",
    "load_images",
    "load_judgements",
    "open_images",
    "psnr",
    "random_indices",
    "random_partners",
    "rank_correlation",
    "represent_set",
    "ssim",
    "top_images",
]
