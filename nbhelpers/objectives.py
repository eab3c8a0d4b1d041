"""Losses of a representation, one per image; they see features only, so no image prior."""

from collections.abc import Callable

import numpy
import torch
from torch import Tensor
from torch.nn import functional

from nbhelpers.types import Features, Indices, Labels, Objective, PerImage, indices, usable


# Here and below: tensors made in inference mode cannot take part in a gradient.
@torch.inference_mode(False)
def match(target: Features | numpy.ndarray) -> Objective:
    """Normalised distance to a target representation, ‖f − t‖ / ‖t‖.

    Args:
        target: (n, d), one row per image, or (1, d) for all images.

    Raises:
        ValueError: `target` not two-dimensional, not finite, or of another shape than the features.

    Source: the inversion objective of Engstrom et al., arXiv:1906.00945, §4.1.
    """
    target = _rows(target)
    length = torch.linalg.vector_norm(target, dim=1).clamp_min(1e-12)

    def distance(features: Features) -> PerImage:
        if features.shape[1:] != target.shape[1:] or target.shape[0] not in (1, features.shape[0]):
            both = f"features {tuple(features.shape)} and target {tuple(target.shape)}"
            raise ValueError(f"match: {both} do not fit; give one target row per image, or one row")
        return torch.linalg.vector_norm(features - target, dim=1) / length

    return distance


@torch.inference_mode(False)
def leave(origin: Features | numpy.ndarray) -> Objective:
    """Minus the distance from a representation, −‖f − o‖.

    The gradient is zero at the origin: start elsewhere (`noise`, or a random point of the ball).

    Args:
        origin: (n, d), one row per image, or (1, d) for all images.

    Source: the numerator of equation (1) of Engstrom et al., arXiv:1906.00945.
    """
    origin = _rows(origin)
    return lambda features: -torch.linalg.vector_norm(features - origin, dim=1)


@torch.inference_mode(False)
def activate(
    component: Indices, *, ceiling: float | numpy.ndarray | Tensor | None = None
) -> Objective:
    """Minus the activation of one component, −f_i, or −min(f_i, ceiling).

    Args:
        component: one index into the features, or (n,).
        ceiling: activation at which an image stops, one or (n,); None for no limit.

    Raises:
        TypeError, ValueError: not whole numbers, or neither one nor one per image.
        IndexError: a component outside the features.

    Source: feature visualization and addition of Engstrom et al., arXiv:1906.00945, §4.2.
    """
    wanted = _one_each(component, "component")
    end = None if ceiling is None else usable(torch.as_tensor(ceiling))

    def activation(features: Features) -> PerImage:
        value = features.gather(1, wanted(features)[:, None])[:, 0]
        return -(value if end is None else torch.minimum(value, end.to(value)))

    return activation


def misclassify(labels: Labels | Indices) -> Objective:
    """Minus the cross-entropy of the given classes, over logits.

    Args:
        labels: (n,) class indices, or one for all images.

    Raises:
        TypeError, ValueError, IndexError: as in `activate`.

    Source: the inner maximisation of Madry et al., arXiv:1706.06083, equation (2.1).
    """
    truth = _one_each(labels, "labels")
    return lambda logits: -functional.cross_entropy(logits.float(), truth(logits), reduction="none")


def margin(labels: Labels | Indices) -> Objective:
    """The class's logit minus the largest other logit; negative if misclassified.

    Args:
        labels: (n,) class indices.

    Source: Carlini & Wagner, arXiv:1608.04644, their f₆ without its floor.
    """
    truth = _one_each(labels, "labels")

    def lead(logits: Features) -> PerImage:
        own = truth(logits)[:, None]
        return logits.gather(1, own)[:, 0] - logits.scatter(1, own, -torch.inf).amax(1)

    return lead


def _one_each(values: Indices, name: str) -> Callable[[Features], Tensor]:
    """A function from features to checked column indices, (n,)."""
    wanted = indices(values, name)
    low, high = int(wanted.min()), int(wanted.max())  # once: each read synchronises the GPU

    def columns(features: Features) -> Tensor:
        rows, width = features.shape
        if low < 0 or high >= width:
            raise IndexError(f"{name}: got {low if low < 0 else high}, wanted 0 to {width - 1}")
        if wanted.numel() not in (1, rows):
            raise ValueError(f"{name}: got {wanted.numel()}, wanted one, or one per image ({rows})")
        return wanted.to(features.device).expand(rows)

    return columns


def _rows(target: Features | numpy.ndarray) -> Features:
    target = usable(torch.as_tensor(target))
    if target.ndim != 2:
        raise ValueError(f"target: got shape {tuple(target.shape)}, wanted (n, d), a row per image")
    if not torch.isfinite(target).all():
        raise ValueError("target: got NaN or infinity, wanted finite numbers")
    return target.detach()
