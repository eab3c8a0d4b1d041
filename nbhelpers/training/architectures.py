"""Networks to train, built for the image size, and their loss with auxiliary heads."""

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from nbhelpers.checkpoints.downloads import fetch
from nbhelpers.checkpoints.entries import manifest
from nbhelpers.checkpoints.readers import choose_prefix, read_weights
from nbhelpers.networks.loading import build_network, size_arguments
from nbhelpers.training.settings import Training, arguments_of
from nbhelpers.types import Labels, PerImage

# Loss weight of an auxiliary head: Szegedy et al., arXiv:1409.4842, section 5.
AUXILIARY = 0.3


def build(config: Training, classes: int, shape: Sequence[int]) -> tuple[nn.Module, dict[str, Any]]:
    """A network for images of `shape` (c, h, w), and its keyword arguments.

    Includes auxiliary heads. Fixed-size networks, such as ViT, are built for the images' size.

    Raises:
        ValueError: unknown architecture; images it refuses; a start that does not fit.
    """
    refused = ""
    for size in ({}, *size_arguments(config.architecture, *shape[1:])):
        arguments = arguments_of(config) | size
        torch.manual_seed(config.seed)
        try:
            network = build_network(config.architecture, classes, arguments)
        except Exception:  # it knows no such size
            if not size:
                raise
            continue
        if reason := _refusal(network, shape):
            refused = refused or reason
            continue
        if config.start:
            _begin_with(network, config.start, classes)
        return network, arguments
    raise ValueError(
        f"architecture: {config.architecture} takes no images of {'×'.join(map(str, shape))} "
        f"({refused}); give another image_size, such as 224"
    )


def _refusal(network: nn.Module, shape: Sequence[int]) -> str:
    """Why the network refuses images of this shape in training or evaluation; "" if it accepts."""
    images = torch.zeros(2, *shape)
    trial = copy.deepcopy(network)  # a pass updates batch norm's statistics
    try:
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            loss(trial.train()(images), torch.zeros(2, dtype=torch.int64))
            loss(trial.eval()(images), torch.zeros(2, dtype=torch.int64))
    except Exception as error:  # whatever a library's code may do
        return f"{error}".strip().partition("\n")[0][:200] or type(error).__name__
    return ""


def loss(outputs: Any, labels: Labels) -> PerImage:
    """Mean cross-entropy, (), plus the weighted loss of auxiliary heads, if any."""
    heads = [outputs] if isinstance(outputs, Tensor) else outputs
    main, *others = [
        functional.cross_entropy(one.float(), labels) for one in heads if one is not None
    ]
    return main + AUXILIARY * sum(others) if others else main


def _begin_with(network: nn.Module, start: str, classes: int) -> None:
    """Copy another network's weights; the head's only if the number of classes is equal.

    Raises:
        ValueError: another architecture.
    """
    given = read_weights(fetch(start) if start in manifest() else start).state
    own = network.state_dict()
    given, _ = choose_prefix(given, [key for key in own if not key.endswith("num_batches_tracked")])
    shared = {key: tensor for key, tensor in given.items() if key in own}
    fitting = {key: tensor for key, tensor in shared.items() if tensor.shape == own[key].shape}
    heads = {
        key
        for key, tensor in shared.items()
        if own[key].shape[:1] == (classes,) and tensor.shape[1:] == own[key].shape[1:]
    }
    # more than the weight and bias of a renamed head
    if len(missing := [key for key in own if key not in fitting and key not in heads]) > 2:
        raise ValueError(
            f"start: {start} does not fit this architecture; it lacks {', '.join(missing[:4])}, …"
        )
    network.load_state_dict(fitting, strict=False)
