"""Experiments on the representations of neural networks.

Each minimises an objective of the representation over images, by projected gradient descent
(`minimize`), without prior or regulariser. Source: Engstrom et al., arXiv:1906.00945.
"""

import contextlib
import ctypes
import importlib
import logging
import os
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nbhelpers import checkpoints, data, figures, networks, page, pair, runs, training, widgets
    from nbhelpers.attack import perturb
    from nbhelpers.data import (
        ImageSet,
        TopImages,
        class_names,
        count_images,
        iter_batches,
        load_images,
        open_images,
        psnr,
        random_indices,
        random_partners,
        represent_set,
        ssim,
        top_images,
    )
    from nbhelpers.figures import (
        curves,
        distributions,
        image_grid,
        image_sheet,
        print_numbers,
        recognised,
        save_result,
    )
    from nbhelpers.networks import Model, layers, load_model, region, untrained
    from nbhelpers.objectives import activate, leave, match, misclassify
    from nbhelpers.optimize import (
        PUBLISHED,
        Result,
        Solver,
        Step,
        box,
        descend,
        l2_ball,
        linf_ball,
        minimize,
        within,
    )
    from nbhelpers.pair import load_pair
    from nbhelpers.representation import (
        contributions,
        distance,
        interpolate,
        noise,
        predict,
        represent,
    )

# Waiting OpenMP threads spin; beside another kernel that makes everything ten times slower. Torch
# reads this setting when it loads. A user's own setting is kept.
if not {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"} & os.environ.keys():
    if "torch" in sys.modules:
        logging.getLogger(__name__).warning(
            "import nbhelpers before torch, or several kernels will slow each other down"
        )
    os.environ["GOMP_SPINCOUNT"] = "4000"  # measured, see docs/speed.md; child processes inherit it

# glibc returns a step's memory to the system and requests it again: a tenth of the time. Let it
# keep up to 1 GiB. A user's own setting is kept.
if sys.platform == "linux" and not any(name.startswith("MALLOC_") for name in os.environ):
    with contextlib.suppress(AttributeError, OSError):  # another C library
        # M_TRIM_THRESHOLD, M_MMAP_THRESHOLD (at its maximum)
        for setting, size in ((-1, 1 << 30), (-3, 1 << 25)):
            ctypes.CDLL(None).mallopt(setting, size)

# Imported at first use, so unused optional packages need not be installed.
_NAMES = {
    "optimize": (
        *("PUBLISHED", "Result", "Solver", "Step", "box", "descend", "l2_ball", "linf_ball"),
        *("minimize", "within"),
    ),
    "objectives": ("activate", "leave", "match", "misclassify"),
    "attack": ("perturb",),
    "representation": ("contributions", "distance", "interpolate", "noise", "predict", "represent"),
    "networks": ("Model", "layers", "load_model", "region", "untrained"),
    "figures": (
        *("curves", "distributions", "image_grid", "image_sheet", "print_numbers"),
        *("recognised", "save_result"),
    ),
    "pair": ("load_pair",),
    "data": (
        *("ImageSet", "TopImages", "class_names", "count_images", "iter_batches", "load_images"),
        *("open_images", "psnr"),
        *("random_indices", "random_partners", "represent_set", "ssim", "top_images"),
    ),
}
_WINGS = (
    *("checkpoints", "networks", "data", "figures", "pair", "training", "runs", "widgets"),
    "page",
)
_WHERE = {name: module for module, names in _NAMES.items() for name in names}

__all__ = [*_WHERE, *_WINGS]


def __getattr__(name: str) -> object:
    if name in _WINGS:
        return importlib.import_module(f"nbhelpers.{name}")
    if name not in _WHERE:
        raise AttributeError(f"module 'nbhelpers' has no attribute {name!r}")
    importlib.import_module("nbhelpers.bars")  # the core's loops show a bar from now on
    found = globals()[name] = getattr(importlib.import_module(f"nbhelpers.{_WHERE[name]}"), name)
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
