"""Live pickers and demos for JupyterLab."""

from nbhelpers.widgets.canvas import Paint, paint
from nbhelpers.widgets.class_picker import ClassPicker
from nbhelpers.widgets.demos import (
    brittleness,
    epsilon_series,
    feature_manipulation,
    feature_visualization,
    interpolation,
    inversion,
    misclassification,
    series,
)
from nbhelpers.widgets.depths import layers
from nbhelpers.widgets.drawn import classes
from nbhelpers.widgets.filled import inpainting
from nbhelpers.widgets.hole_picker import HolePicker
from nbhelpers.widgets.image_picker import ImagePicker
from nbhelpers.widgets.live import Demo, Frame, Live
from nbhelpers.widgets.perturbations import distances
from nbhelpers.widgets.strokes import replay
from nbhelpers.widgets.telling import Recognition, recognition

__all__ = [
    "ClassPicker",
    "Demo",
    "Frame",
    "HolePicker",
    "ImagePicker",
    "Live",
    "Paint",
    "Recognition",
    "brittleness",
    "classes",
    "distances",
    "epsilon_series",
    "feature_manipulation",
    "feature_visualization",
    "inpainting",
    "interpolation",
    "inversion",
    "layers",
    "misclassification",
    "paint",
    "recognition",
    "replay",
    "series",
]
