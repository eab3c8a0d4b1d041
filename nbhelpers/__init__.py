"""See what a neural network's representation holds.

Every experiment is one act: minimise an objective of a network's representation, over images, by projected
gradient descent (`minimize`), with no prior and no regulariser. Source: Engstrom et al., arXiv:1906.00945.
"""

from nbhelpers.data import class_names, load_images
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
    random_pairs,
    represent,
    ssim,
    top_images,
)

__all__ = [
    "Model",
    "Result",
    "Step",
    "TopImages",
    "activate",
    "box",
    "class_names",
    "contributions",
    "descend",
    "distance",
    "interpolate",
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
    "random_pairs",
    "represent",
    "ssim",
    "top_images",
]
