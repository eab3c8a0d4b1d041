"""What to do with representations: gather, attribute, mix and compare them."""

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
        model: whose representation.
        positions: as in `Model.representation`.
        images: (n, 3, h, w) in [0, 1] on any device, or an iterable of such batches (or of images
            and labels).
        batch_size: at most so many images per forward pass; None for what suits the device. Where a
            GPU's memory runs out nevertheless, it is halved. The result does not depend on it.
    """
    f = representing(model, positions)
    return torch.cat([features.cpu() for features in stream(f, model.device, images, batch_size)])


def representing(model: Classifier, positions: bool) -> Callable[[Images], Features]:
    """The function of images that is the representation, averaged or with positions."""
    return (
        functools.partial(model.representation, positions=True)
        if positions
        else model.representation
    )


def contributions(
    model: Classifier, images: Images, classes: Labels | Indices, *, positions: bool = False
) -> Features:
    """How much each component adds to a class's logit, R_i(x) · W[c, i], (n, components).

    With positions: how much each component adds at each position p, R_{i,p}(x) · W[c, i] /
    positions, (n, channels · height · width), see `Model.positions`; summed over positions it is
    the former.

    Args:
        model: the classifier.
        images: (n, 3, h, w), pixels in [0, 1].
        classes: (n,) class indices, for instance the wrong predictions; or one for all images.

    Raises:
        IndexError: a class is outside the classifier's.
        ValueError: neither one class nor one per image; or, with positions, a network that does
            more than average.

    Source: the ranking of the misclassification demo of Engstrom et al., arXiv:1906.00945.
    """
    classes = indices(classes, "classes", below=len(model.classes)).to(model.device)
    with torch.no_grad():
        if classes.numel() not in (1, len(images)):
            raise ValueError(
                f"classes: got {classes.numel()}, wanted one, or one per image ({len(images)})"
            )
        weights = model.head.weight[classes].reshape(-1, model.components)
        if not positions:
            return model.representation(images) * weights
        if not model.averaged:
            raise ValueError(
                f"positions: {model.name} does more than average over them before its last layer"
            )
        maps = model.representation(images, positions=True).unflatten(1, model.positions)
        return (maps * weights[:, :, None, None] / math.prod(model.positions[1:])).flatten(1)


def predict(
    model: Classifier, images: Images | Batches, *, batch_size: int | None = None
) -> Labels:
    """Predicted class indices, (n,), on the CPU; arguments as in `represent`."""
    with torch.no_grad():
        return torch.cat(
            [logits.argmax(1).cpu() for logits in stream(model, model.device, images, batch_size)]
        )


def interpolate(first: Tensor, second: Tensor, amounts: Sequence[float] | Tensor) -> Tensor:
    """Linear mixes (1 − λ)·first + λ·second of images or representations.

    Args:
        first, second: a single item (…) each, of one shape.
        amounts: the λ, (m,), 0 for `first` and 1 for `second`; the result is (m, …).

    Raises:
        ValueError: the shapes differ.
    """
    if first.shape != second.shape:
        raise ValueError(
            f"interpolate: got shapes {tuple(first.shape)} and {tuple(second.shape)}, wanted the "
            "same"
        )
    amounts = torch.as_tensor(amounts, dtype=first.dtype, device=first.device)
    return torch.lerp(first[None], second[None], amounts.reshape(-1, *[1] * first.ndim))


def noise(n: int, *, size: Size = 32, channels: int = 3, seed: int = 0) -> Images:
    """Start images of dim grey noise, randn/20 + 0.5 clamped to [0, 1], (n, channels, height,
    width), on the CPU.

    Args:
        n: how many.
        size: pixels, the side of a square or (height, width).
        channels: `model.channels`.
        seed: random generator.

    Source: the noise start of the reference code of Engstrom et al., arXiv:1906.00945.
    """
    shape = (whole(n, "n", least=1), whole(channels, "channels", least=1), *two_sides(size))
    drawn = torch.randn(shape, generator=seeded(seed), dtype=torch.float32, device="cpu")
    return (drawn / 20 + 0.5).clamp(0, 1)


def distance(features: Features, target: Features) -> PerImage:
    """Normalised distance ‖f − t‖ / ‖t‖ of each row, (n,)."""
    return torch.linalg.vector_norm(features - target, dim=1) / torch.linalg.vector_norm(
        target, dim=1
    ).clamp_min(1e-12)
