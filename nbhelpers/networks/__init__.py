"""Networks: built, loaded and cut at their representation."""

from nbhelpers.networks.depth import Layer, layers
from nbhelpers.networks.initial import untrained
from nbhelpers.networks.loading import build_network, load_model
from nbhelpers.networks.model import Model
from nbhelpers.networks.radii import series
from nbhelpers.networks.regions import region
from nbhelpers.networks.resnets import WideResNet, resnet

__all__ = [
    "Layer",
    "Model",
    "WideResNet",
    "build_network",
    "layers",
    "load_model",
    "region",
    "resnet",
    "series",
    "untrained",
]
