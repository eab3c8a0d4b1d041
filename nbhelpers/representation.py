"""Compute, attribute, interpolate and compare representations."""

import functools
import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from nbhelpers.passes import Batches, stream
from nbhelpers.types import (
    Classifier,
    Features,
    Images,
    Indices,
    Labels,
    PerImage,
    Size,
    indices,
    seeded,
    two_sides,
    whole,
)


def represent(
    model: Classifier,
    images: Images | Batches,
    *,
    batch_size: int | None = None,
    positions: bool = False,
) -> Features:
    """Representations of many images, (n, components), on the CPU.

    Args:
        images: (n, c, h, w) in [0, 1] on any device, or batches, with or without labels.
        batch_size: images per pass, without effect on results; None chooses by device.
        positions: as in `Model.representation`.
    """
    found = stream(representing(model, positions), model.device, images, batch_size)
    return torch.cat([features.cpu() for features in found])


def representing(model: Classifier, positions: bool) -> Callable[[Images], Features]:
    """images → representation, averaged or per position."""
    f = model.representation
    return functools.partial(f, positions=True) if positions else f


@torch.no_grad()
def contributions(
    model: Classifier, images: Images, classes: Labels | Indices, *, positions: bool = False
) -> Features:
    """Each component's contribution to a class's logit, R_i(x) · W[c, i], (n, components).

    Args:
        images: (n, 3, h, w), pixels in [0, 1].
        classes: (n,) class indices, such as the wrong predictions, or one for all images.
        positions: per position p, R_{i,p}(x) · W[c, i] / positions, (n, channels · height ·
            width); sums over positions to the above. See `Model.positions`.

    Raises:
        IndexError: a class outside the classifier's.
        ValueError: neither one class nor one per image; positions without mean pooling.

    Source: the ranking of the misclassification demo of Engstrom et al., arXiv:1906.00945.
    """
    classes = indices(classes, "classes", below=len(model.classes)).to(model.device)
    if classes.numel() not in (1, len(images)):
        raise ValueError(f"classes: got {classes.numel()}, wanted one, or one per image")
    weights = model.head.weight[classes].reshape(-1, model.components)
    if not positions:
        return model.representation(images) * weights
    if not model.averaged:
        raise ValueError(f"positions: {model.name} does more than average over them")
    maps = model.representation(images, positions=True).unflatten(1, model.positions)
    return (maps * weights[:, :, None, None] / math.prod(model.positions[1:])).flatten(1)


def predict(
    model: Classifier, images: Images | Batches, *, batch_size: int | None = None
) -> Labels:
    """Predicted class indices, (n,), on the CPU; arguments as in `represent`."""
    logits = stream(model, model.device, images, batch_size)
    return torch.cat([one.argmax(1).cpu() for one in logits])


def interpolate(first: Tensor, second: Tensor, amounts: Sequence[float] | Tensor) -> Tensor:
    """Linear interpolation (1 − λ)·first + λ·second of images or representations, (m, …).

    Args:
        first, second: one item each, of the same shape (…).
        amounts: the λ, (m,).

    Raises:
        ValueError: the shapes differ.
    """
    if first.shape != second.shape:
        raise ValueError(f"shapes: {tuple(first.shape)}, {tuple(second.shape)}; wanted the same")
    amounts = torch.as_tensor(amounts, dtype=first.dtype, device=first.device)
    return torch.lerp(first[None], second[None], amounts.reshape(-1, *[1] * first.ndim))


def noise(n: int, *, size: Size = 32, channels: int = 3, seed: int = 0) -> Images:
    """Grey noise start images, randn/20 + 0.5 clamped to [0, 1], (n, channels, h, w), on the CPU.

    Args:
        size: pixels, the side of a square or (height, width).

    Source: the noise start of the reference code of Engstrom et al., arXiv:1906.00945.
    """
    shape = (whole(n, "n", least=1), whole(channels, "channels", least=1), *two_sides(size))
    drawn = torch.randn(shape, generator=seeded(seed), dtype=torch.float32, device="cpu")
    return (drawn / 20 + 0.5).clamp(0, 1)


def distance(features: Features, target: Features) -> PerImage:
    """Normalised distance ‖f − t‖ / ‖t‖ of each row, (n,)."""
    length = torch.linalg.vector_norm(target, dim=1).clamp_min(1e-12)
    return torch.linalg.vector_norm(features - target, dim=1) / length
