"""Live pickers for JupyterLab, and the same as a page that needs no kernel."""

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
from nbhelpers.widgets.distances import distances
from nbhelpers.widgets.image_picker import ImagePicker
from nbhelpers.widgets.live import Demo, Frame, Live
from nbhelpers.widgets.page import export_page
from nbhelpers.widgets.paint import Paint, paint
from nbhelpers.widgets.strokes import replay

__all__ = [
    "Demo",
    "Frame",
    "ImagePicker",
    "Live",
    "Paint",
    "brittleness",
    "distances",
    "epsilon_series",
    "export_page",
    "feature_manipulation",
    "feature_visualization",
    "interpolation",
    "inversion",
    "misclassification",
    "paint",
    "replay",
    "series",
]
