"""Tensor types, and checks of public inputs."""

import operator
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Protocol, SupportsIndex, runtime_checkable

import numpy
import torch
from torch import Tensor, nn

if TYPE_CHECKING or find_spec("jaxtyping"):
    from jaxtyping import Float, Int

    Images = Float[Tensor, "n c h w"]  # pixels in [0, 1]
    Features = Float[Tensor, "n d"]  # one row per image: representations or logits
    PerImage = Float[Tensor, " n"]  # one number per image
    Labels = Int[Tensor, " n"]
else:  # a bare PyTorch container, for training
    Images = Features = PerImage = Labels = Tensor

Objective = Callable[[Features], PerImage]  # a loss to minimise, independent per image
Projection = Callable[[Images], Images]
Indices = int | Sequence[int] | numpy.ndarray | Tensor
Size = int | tuple[int, int]  # pixels: the side of a square, or (height, width)


@runtime_checkable
class Classifier(Protocol):
    """The interface that the core needs; `nbhelpers.Model` implements it."""

    name: str
    classes: tuple[str, ...]
    components: int  # length of the representation
    positions: tuple[int, ...]  # (channels, height, width) before pooling
    averaged: bool  # pooling is a mean over positions

    @property
    def device(self) -> torch.device: ...

    @property
    def head(self) -> nn.Linear: ...

    def __call__(self, images: Images) -> Features: ...

    def representation(
        self, images: Images, fake_relu: bool = True, positions: bool = False
    ) -> Features: ...


def pick_device(device: str | torch.device = "auto") -> torch.device:
    """The named device; "auto" prefers cuda, then mps, then cpu.

    Raises:
        ValueError: the device is unknown or missing.
    """
    if device == "auto":
        mps = "mps" if torch.backends.mps.is_available() else "cpu"
        return torch.device("cuda" if torch.cuda.is_available() else mps)
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"device: no {str(device)!r} here; use 'auto' or 'cpu'") from error
    return torch.device(device)


def whole(value: SupportsIndex, name: str, *, least: int | None = None) -> int:
    """A Python int from any integer type.

    Raises:
        TypeError, ValueError: not a whole number, or below `least`.
    """
    try:
        number = operator.index(value)
    except TypeError:
        raise TypeError(f"{name}: got {value!r}, wanted a whole number") from None
    if least is not None and number < least:
        raise ValueError(f"{name}: got {number}, wanted at least {least}")
    return number


def indices(values: Indices, name: str, *, below: int | None = None) -> Tensor:
    """An int64 tensor, () or (n,), from any integer types.

    Raises:
        TypeError, ValueError, IndexError: not whole numbers, empty, a table, or not below `below`.
    """
    array: Any = values if isinstance(values, Tensor) else numpy.asarray(values)
    if 0 in array.shape or array.ndim > 1:
        raise ValueError(f"{name}: got shape {tuple(array.shape)}, wanted one index, or (n,)")
    if isinstance(array, numpy.ndarray) and array.dtype.kind in "iu":
        array = torch.from_numpy(array.astype("int64"))
    if array.dtype not in (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64):
        raise TypeError(f"{name}: got {values!r:.80}, wanted whole numbers: an index, or several")
    found = usable(array.long())
    if below is not None and not (int(found.min()) >= 0 and int(found.max()) < below):
        raise IndexError(f"{name}: got {found.tolist()}, wanted 0 to {below - 1}")
    return found


def two_sides(size: Size, name: str = "size") -> tuple[int, int]:
    """(height, width) from one side or both, pixels.

    Raises:
        ValueError: neither one nor two whole numbers, or below 1.
    """
    sides: Any = size if numpy.ndim(size) else [size] * 2
    try:
        height, width = map(operator.index, sides)
    except (TypeError, ValueError):
        height = width = 0
    if min(height, width) < 1:
        raise ValueError(f"{name}: got {size!r}, wanted at least 1 pixel, or (height, width)")
    return height, width


def square(sides: Sequence[int]) -> Size:
    """(height, width), or one number if equal."""
    height, width = map(int, sides)
    return height if height == width else (height, width)


def seeded(seed: SupportsIndex) -> torch.Generator:
    """A random generator on the CPU."""
    return torch.Generator().manual_seed(whole(seed, "seed"))


def usable(tensor: Tensor) -> Tensor:
    """The tensor, or a copy usable in autograd if made in inference mode."""
    if not tensor.is_inference():
        return tensor
    with torch.inference_mode(False):
        return tensor.clone()


def check_images(images: Tensor, name: str = "images") -> None:
    """Check for a float batch (n, c, h, w) of pixels in [0, 1].

    Raises:
        TypeError: not a floating-point tensor.
        ValueError: wrong rank, empty, NaN, or pixels outside [0, 1].
    """
    if not isinstance(images, Tensor):
        kind = type(images).__name__
        raise TypeError(f"{name}: got {kind}, wanted a tensor (n, c, h, w); see load_images")
    if not images.is_floating_point():
        raise TypeError(f"{name}: got {images.dtype}, wanted floats; convert: images.float() / 255")
    last = images.ndim == 4 and images.shape[1] not in (1, 3) and images.shape[3] in (1, 3)
    if images.ndim != 4 or last:
        hint = "; move the channels with images.movedim(3, 1)" if last else ""
        hint = "; add the batch dimension with images[None]" if images.ndim == 3 else hint
        raise ValueError(f"{name}: got shape {tuple(images.shape)}, wanted (n, 3, h, w){hint}")
    if images.numel() == 0:
        raise ValueError(f"{name}: got an empty batch {tuple(images.shape)}, wanted an image")
    low, high = (bound.item() for bound in torch.aminmax(images.detach()))
    if not (low >= 0 and high <= 1):  # also true for NaN
        hint = "divide by 255" if low >= 0 and high <= 255 else "do not normalise: the model does"
        hint = "remove the NaN" if low != low else hint
        raise ValueError(f"{name}: pixels span [{low:.3g}, {high:.3g}], wanted [0, 1]; {hint}")
