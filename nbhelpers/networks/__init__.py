"""Networks: built, loaded and filled."""

from nbhelpers.networks.load import build_network, load_model
from nbhelpers.networks.regions import region
from nbhelpers.networks.resnet import WideResNet, resnet
from nbhelpers.networks.series import series

__all__ = [
    "WideResNet",
    "build_network",
    "load_model",
    "region",
    "resnet",
    "series",
]
