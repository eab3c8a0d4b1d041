"""Detect whether a network normalises its input, by names, shapes and effect."""

import contextlib
import itertools
import numbers
import re
from collections.abc import Callable, Iterator
from typing import Any

import numpy
import torch
from torch import Tensor, nn

from nbhelpers.networks.sites import close, exactly
from nbhelpers.types import Size, two_sides

# Usual names of a normalising layer's tensors.
_BEFORE = r"_?((pixel|image|img|input|data|dataset|rgb|channel|norm|new|imagenet|cifar)s?_)*"
_MEAN = re.compile(_BEFORE + r"(means?|mu)(_rgb|_tensor)?", re.IGNORECASE)
_STD = re.compile(_BEFORE + r"(stds?|std_?dev|sigma)(_rgb|_tensor)?", re.IGNORECASE)
_SIDES = (32, 64, 224, 28, 96, 256, 299, 384)


@torch.no_grad()
def normalises(network: nn.Module, image_size: Size | None = None) -> bool:
    """Whether the network subtracts a mean from its pixels and divides by a deviation.

    Names are no proof: with mean 0 and deviation 1, pixels normalised outside must give the same
    logits.

    Args:
        network: (n, c, h, w) → (n, classes).
        image_size: pixels; None tries usual sizes.
    """
    pairs = [pair for module in network.modules() for pair in _pairs(module)]
    if not pairs:
        return False
    training = [module for module in network.modules() if module.training]
    network.eval()
    try:
        with exactly():
            return any(_used(network, *pair, image_size) for pair in pairs)
    finally:
        for module in training:
            module.training = True


def _pairs(module: nn.Module) -> list[tuple[nn.Module, str, str]]:
    """A module's tensors or lists named mean and deviation, of equal length."""
    tensors = dict(module.named_buffers(recurse=False)) | dict(
        module.named_parameters(recurse=False)
    )
    short = {k: _values(value) for k, value in {**vars(module), **tensors}.items() if _short(value)}
    means = [key for key in short if _MEAN.fullmatch(key)]
    deviations = [key for key in short if _STD.fullmatch(key) and bool((short[key] > 0).all())]
    return [
        (module, mean, deviation)
        for mean, deviation in itertools.product(means, deviations)
        if len(short[mean]) == len(short[deviation])
    ]


def _short(value: Any) -> bool:
    if isinstance(value, Tensor):
        return value.numel() in (1, 3) and value.is_floating_point()
    if isinstance(value, numpy.ndarray):
        return value.size in (1, 3) and value.dtype.kind == "f"
    # No plain number: it may be the std of a noise layer. A list may contain anything.
    return (
        isinstance(value, list | tuple)
        and len(value) in (1, 3)
        and all(isinstance(n, numbers.Real) for n in value)
    )


def _values(value: Any) -> Tensor:
    return (
        torch.as_tensor(value).detach().clone().flatten().float()
    )  # a copy, as the value is replaced


def _used(
    network: nn.Module, module: nn.Module, mean: str, deviation: str, size: Size | None
) -> bool:
    """Whether these two normalise the network's input."""
    center, scale = (_values(getattr(module, key))[:, None, None] for key in (mean, deviation))
    images = _taken(network, len(center), size)
    if images is None:
        return True  # by names and shapes alone
    own = network(images.clone())
    with _replaced(module, mean, torch.zeros_like), _replaced(module, deviation, torch.ones_like):
        if close(network(images.clone()), own):
            return False  # unused
        # A network of pixels in [0, 255] has its mean in that range too.
        outside = ((images - center / top) / scale for top in (1, 255))
        return any(close(network(one), own) for one in outside)


def _taken(network: nn.Module, channels: int, size: Size | None) -> Tensor | None:
    """Noise of a shape that the network accepts, or None."""
    weight = next(network.parameters(), torch.empty(0))
    sizes = (
        [two_sides(size)]
        if size is not None and numpy.any(size)
        else [(side, side) for side in _SIDES]
    )
    for count, sides in itertools.product((channels,) if channels == 3 else (3, 1), sizes):
        noise = torch.rand(2, count, *sides, generator=torch.Generator().manual_seed(0)).to(weight)
        with contextlib.suppress(Exception):  # of any kind on a wrong size
            if isinstance(network(noise.clone()), Tensor):
                return noise
    return None


@contextlib.contextmanager
def _replaced(module: nn.Module, key: str, like: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """Replace an attribute temporarily by a value of the same type and shape."""
    before = getattr(module, key)
    if isinstance(before, Tensor):
        kept = before.detach().clone()
        before.data.copy_(like(kept))
        try:
            yield
        finally:
            before.data.copy_(kept)
        return
    other = like(torch.as_tensor(before, dtype=torch.float64)).numpy()
    setattr(module, key, other if isinstance(before, numpy.ndarray) else type(before)(other))
    try:
        yield
    finally:
        setattr(module, key, before)
