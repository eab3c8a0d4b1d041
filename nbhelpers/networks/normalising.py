"""Whether a network normalises its pixels by itself: by names, shapes, and what they do."""

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

# Of a layer that normalises, by the names that people give these.
_BEFORE = r"_?((pixel|image|img|input|data|dataset|rgb|channel|norm|new|imagenet|cifar)s?_)*"
_MEAN = re.compile(_BEFORE + r"(means?|mu)(_rgb|_tensor)?", re.IGNORECASE)
_STD = re.compile(_BEFORE + r"(stds?|std_?dev|sigma)(_rgb|_tensor)?", re.IGNORECASE)
_SIDES = (32, 64, 224, 28, 96, 256, 299, 384)


@torch.no_grad()
def normalises(network: nn.Module, image_size: Size | None = None) -> bool:
    """Whether a part of the network takes a mean from its pixels and divides by a deviation.

    A name is no proof: with mean 0 and deviation 1 in their place, pixels that were normalised
    outside must give the same logits.

    Args:
        network: (n, c, h, w) → (n, classes).
        image_size: pixels that it takes; None to try usual ones.
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
    """A module's tensors or lists that are called mean and deviation, of one length."""
    tensors = dict(module.named_buffers(recurse=False)) | dict(
        module.named_parameters(recurse=False)
    )
    held = {
        key: _values(value) for key, value in {**vars(module), **tensors}.items() if _short(value)
    }
    means = [key for key in held if _MEAN.fullmatch(key)]
    deviations = [key for key in held if _STD.fullmatch(key) and bool((held[key] > 0).all())]
    return [
        (module, mean, deviation)
        for mean, deviation in itertools.product(means, deviations)
        if len(held[mean]) == len(held[deviation])
    ]


def _short(value: Any) -> bool:
    if isinstance(value, Tensor):
        return value.numel() in (1, 3) and value.is_floating_point()
    if isinstance(value, numpy.ndarray):
        return value.size in (1, 3) and value.dtype.kind == "f"
    # A plain number may be that of a layer that adds noise, and a list may hold anything.
    return (
        isinstance(value, list | tuple)
        and len(value) in (1, 3)
        and all(isinstance(n, numbers.Real) for n in value)
    )


def _values(value: Any) -> Tensor:
    return torch.as_tensor(value).detach().clone().flatten().float()  # the value is replaced


def _used(
    network: nn.Module, module: nn.Module, mean: str, deviation: str, size: Size | None
) -> bool:
    """Whether these two normalise the network's input."""
    center, scale = (_values(getattr(module, key))[:, None, None] for key in (mean, deviation))
    images = _taken(network, len(center), size)
    if images is None:
        return True  # nothing but the names and shapes can tell
    own = network(images.clone())
    with _replaced(module, mean, torch.zeros_like), _replaced(module, deviation, torch.ones_like):
        if close(network(images.clone()), own):
            return False  # not used at all
        # Of a network that counts its pixels to 255, so does the mean.
        outside = ((images - center / top) / scale for top in (1, 255))
        return any(close(network(one), own) for one in outside)


def _taken(network: nn.Module, channels: int, size: Size | None) -> Tensor | None:
    """Noise that the network takes; None where it takes none."""
    weight = next(network.parameters(), torch.empty(0))
    sizes = (
        [two_sides(size)]
        if size is not None and numpy.any(size)
        else [(side, side) for side in _SIDES]
    )
    for count, sides in itertools.product((channels,) if channels == 3 else (3, 1), sizes):
        noise = torch.rand(2, count, *sides, generator=torch.Generator().manual_seed(0)).to(weight)
        with contextlib.suppress(Exception):  # whatever a foreign network does with a wrong size
            if isinstance(network(noise.clone()), Tensor):
                return noise
    return None


@contextlib.contextmanager
def _replaced(module: nn.Module, key: str, like: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """Another value under this key meanwhile, of the same kind and shape."""
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
