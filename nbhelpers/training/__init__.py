"""Robust training, and how good and how robust a network is."""

from nbhelpers.training.checks import check_imported, self_check
from nbhelpers.training.loop import train
from nbhelpers.training.scoring import accuracy, evaluate
from nbhelpers.training.settings import Training

__all__ = [
    "Training",
    "accuracy",
    "check_imported",
    "evaluate",
    "self_check",
    "train",
]
