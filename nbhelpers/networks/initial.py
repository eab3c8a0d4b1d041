"""Untrained networks, the baseline of the architecture alone."""

import copy

import torch
from torch import nn

from nbhelpers.networks.model import Model
from nbhelpers.types import seeded


def untrained(model: Model, *, seed: int = 0) -> Model:
    """A copy with random weights, a baseline for effects of training.

    He initialisation of kernels and matrices, which preserves the variance of activations; biases
    are 0, normalisation scales 1.

    Args:
        model: not modified.
        seed: random generator.

    Source: He et al., arXiv:1502.01852, equation (10).
    """
    fresh, generator = copy.deepcopy(model), seeded(seed)
    fresh.name = f"{model.name}, random weights"
    with torch.no_grad():
        for key, weight in fresh.named_parameters():
            if weight.ndim > 1:
                drawn = torch.randn(weight.shape, generator=generator)
                weight.copy_(drawn * (2 / weight[0].numel()) ** 0.5)
            else:
                weight.fill_(float(not key.endswith("bias")))
        for module in fresh.modules():
            if isinstance(module, nn.modules.batchnorm._NormBase):
                module.reset_running_stats()
    return fresh
