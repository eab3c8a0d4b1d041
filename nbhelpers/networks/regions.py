"""The representation of an image region."""

from collections.abc import Callable

from torch import Tensor
from torch.nn import functional

from nbhelpers.networks.model import Model
from nbhelpers.types import Features, Images


def region(model: Model, mask: Tensor, *, positions: bool = False) -> Callable[[Images], Features]:
    """images → the representation under a mask, for `minimize` with `within`.

    Positions are weighted by the masked share of their image patch. Without positions, or without
    mean pooling, this is the whole representation.

    Args:
        mask: (h, w) or (n, 1, h, w), boolean or in [0, 1].
        positions: weighted positions, (n, channels · height · width) as in `Model.representation`;
            else their mean, (n, components).

    Raises:
        ValueError: a mask of another shape, or an empty one.
    """
    shares = region_shares(model, mask)
    if shares is None or not (positions or model.averaged):
        return model.representation

    def under(images: Images) -> Features:
        maps = model.representation(images, positions=True).unflatten(1, model.positions)
        if positions:
            return (maps * (shares / shares.amax((2, 3), keepdim=True))).flatten(1)
        return (maps * shares).sum((2, 3))

    return under


def region_shares(model: Model, mask: Tensor) -> Tensor | None:
    """Weights of the positions, (1 or n, 1, height, width), sum 1; None without positions."""
    if mask.ndim != 2 and (mask.ndim != 4 or mask.shape[1] != 1):
        raise ValueError(
            f"mask: got shape {tuple(mask.shape)}, wanted (h, w), or (n, 1, h, w) for one per image"
        )
    covered = mask.to(model.device).float().reshape(-1, 1, *mask.shape[-2:])
    if not covered.flatten(1).any(1).all():
        raise ValueError("mask: it is empty, wanted at least one pixel above 0 for each image")
    if model.positions[1:] == (1, 1):
        return None
    _, height, width = model.positions
    shares = functional.adaptive_avg_pool2d(covered, (height, width))
    return shares / shares.sum((2, 3), keepdim=True)
