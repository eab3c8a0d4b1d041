"""Robust training, and how good and how robust a network is."""

from nbhelpers.pair.checks import check_imported, self_check
from nbhelpers.pair.pairs import Pair, load_pair
from nbhelpers.pair.scoring import accuracy, evaluate
from nbhelpers.training.loop import train
from nbhelpers.training.settings import Training

__all__ = [
    "Pair",
    "Training",
    "accuracy",
    "check_imported",
    "evaluate",
    "load_pair",
    "self_check",
    "train",
]
