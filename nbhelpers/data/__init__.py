"""Images by name, by path or from arrays."""

from nbhelpers.data.distortions import DISTORTIONS, distort, distort_to, interval, rank_correlation
from nbhelpers.data.images import class_names, count_images, identity, iter_batches, load_images, random_indices
from nbhelpers.data.judgements import Judgements, between, load_judgements
from nbhelpers.data.likeness import psnr, ssim
from nbhelpers.data.represented import represent_set

__all__ = [
    "DISTORTIONS",
    "Judgements",
    "between",
    "class_names",
    "count_images",
    "distort",
    "distort_to",
    "identity",
    "interval",
    "iter_batches",
    "load_images",
    "load_judgements",
    "psnr",
    "random_indices",
    "rank_correlation",
    "represent_set",
    "ssim",
]
