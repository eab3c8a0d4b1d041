"""A robust and a standard network side by side: loaded, checked, scored."""

from nbhelpers.pair.checks import check_imported, self_check
from nbhelpers.pair.pairs import Pair, load_pair
from nbhelpers.pair.scoring import accuracy, evaluate

__all__ = ["Pair", "accuracy", "check_imported", "evaluate", "load_pair", "self_check"]
