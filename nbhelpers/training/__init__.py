"""Robust training and evaluation of networks."""

from typing import TYPE_CHECKING

from nbhelpers.names import first_use

if TYPE_CHECKING:
    from nbhelpers.pair.checks import check_imported, self_check
    from nbhelpers.pair.pairs import Pair, load_pair
    from nbhelpers.pair.scoring import accuracy, evaluate
    from nbhelpers.training.loop import train
    from nbhelpers.training.settings import Training

# Imported at first use, so `nbhelpers train --help` needs no torch.
_WHERE = {
    "Pair": "nbhelpers.pair.pairs",
    "Training": "nbhelpers.training.settings",
    "accuracy": "nbhelpers.pair.scoring",
    "check_imported": "nbhelpers.pair.checks",
    "evaluate": "nbhelpers.pair.scoring",
    "load_pair": "nbhelpers.pair.pairs",
    "self_check": "nbhelpers.pair.checks",
    "train": "nbhelpers.training.loop",
}
__getattr__ = first_use(__name__, _WHERE)

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
