"""One tiny random network for most tests, and one thread."""

import pytest
import torch

from nbhelpers.model import Model
from nbhelpers.networks.resnet import resnet

torch.set_num_threads(1)  # many small tests: threads cost more than they bring


@pytest.fixture(scope="session")
def tiny_model() -> Model:
    """A random CIFAR ResNet-18 of width 4 (44,622 parameters, 32 components) on the CPU."""
    torch.manual_seed(0)
    return Model(resnet("resnet18", width=4), mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25), image_size=32, name="tiny")
