"""Figures in one style, and a run's numbers."""

from nbhelpers.figures.answers import recognised
from nbhelpers.figures.plots import curves, distributions, image_grid, image_sheet
from nbhelpers.figures.results import print_numbers, save_result

__all__ = [
    "curves",
    "distributions",
    "image_grid",
    "image_sheet",
    "print_numbers",
    "recognised",
    "save_result",
]
