"""See what a neural network's representation holds.

Every experiment is one act: minimise an objective of a network's representation, over images, by projected
gradient descent (`minimize`), with no prior and no regulariser. Source: Engstrom et al., arXiv:1906.00945.
"""

import importlib
from typing import TYPE_CHECKING

from nbhelpers.data import class_names, count_images, iter_batches, load_images, random_indices
from nbhelpers.models import Model, load_model
from nbhelpers.objectives import activate, leave, match, misclassify
from nbhelpers.optimize import Result, Step, box, descend, l2_ball, linf_ball, minimize
from nbhelpers.representation import (
    TopImages,
    contributions,
    distance,
    interpolate,
    noise,
    predict,
    random_partners,
    represent,
    represent_set,
    ssim,
    top_images,
)

if TYPE_CHECKING:
    from nbhelpers import widgets
    from nbhelpers.plots import curves, distributions, image_grid
    from nbhelpers.results import print_numbers, save_result

# Loaded at their first use: workers do without ipywidgets, and a bare PyTorch image trains without matplotlib.
_LATER = {"curves": "plots", "distributions": "plots", "image_grid": "plots"}
_LATER |= {"print_numbers": "results", "save_result": "results", "widgets": "widgets"}


def __getattr__(name: str) -> object:
    if name not in _LATER:
        raise AttributeError(f"module 'nbhelpers' has no attribute {name!r}")
    module = importlib.import_module(f"nbhelpers.{_LATER[name]}")
    found = globals()[name] = getattr(module, name, module)
    return found


__all__ = [
    "Model",
    "Result",
    "Step",
    "TopImages",
    "activate",
    "box",
    "class_names",
    "contributions",
    "count_images",
    "curves",
    "descend",
    "distance",
    "distributions",
    "image_grid",
    "interpolate",
    "iter_batches",
    "l2_ball",
    "leave",
    "linf_ball",
    "load_images",
    "load_model",
    "match",
    "minimize",
    "misclassify",
    "noise",
    "predict",
    "print_numbers",
    "random_indices",
    "random_partners",
    "represent",
    "represent_set",
    "save_result",
    "ssim",
    "top_images",
    "widgets",
]
