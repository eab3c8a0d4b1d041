"""The nouns that every module shares: shapes in the names, checks at the public edge."""

from collections.abc import Callable
from importlib.util import find_spec
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING or find_spec("jaxtyping"):
    from jaxtyping import Float, Int

    Images = Float[Tensor, "n c h w"]  # pixels in [0, 1]
    Features = Float[Tensor, "n d"]  # one row per image: representations or logits
    PerImage = Float[Tensor, " n"]  # one number per image
    Labels = Int[Tensor, " n"]
else:  # a bare PyTorch image, where networks are trained
    Images = Features = PerImage = Labels = Tensor

Objective = Callable[[Features], PerImage]  # a loss to minimise, each image on its own
Projection = Callable[[Images], Images]


def check_images(images: Tensor, name: str = "images") -> None:
    """Refuse what is not a batch of float images in [0, 1].

    Args:
        images: the batch to look at, wanted as float (n, c, h, w) with pixels in [0, 1].
        name: how the message calls it.

    Raises:
        TypeError: not a floating-point tensor.
        ValueError: wrong rank, no image, NaN, or pixels outside [0, 1].
    """
    if not isinstance(images, Tensor):
        raise TypeError(f"{name}: got {type(images).__name__}, wanted a tensor (n, c, h, w); see load_images")
    if not images.is_floating_point():
        raise TypeError(f"{name}: got {images.dtype}, wanted floats in [0, 1]; convert with images.float() / 255")
    if images.ndim != 4 or images.shape[1] not in (1, 3):
        hint = "; add the batch dimension with images[None]" if images.ndim == 3 else ""
        raise ValueError(f"{name}: got shape {tuple(images.shape)}, wanted (n, 3, h, w){hint}")
    if images.numel() == 0:
        raise ValueError(f"{name}: got an empty batch {tuple(images.shape)}, wanted at least one image")
    low, high = (bound.item() for bound in torch.aminmax(images.detach()))
    if not (low >= 0 and high <= 1):  # also true for NaN
        if low != low or high != high:
            hint = "remove the NaN"
        elif low >= 0 and high <= 255:
            hint = "divide by 255"
        else:
            hint = "do not normalise: the model does"
        raise ValueError(f"{name}: pixels span [{low:.3g}, {high:.3g}], wanted [0, 1]; {hint}")
