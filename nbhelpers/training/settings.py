"""The settings of a training."""

import math
import warnings
from dataclasses import dataclass, fields
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

# Repeats `nbhelpers.attack` and `nbhelpers.networks.resnets`: `nbhelpers train --help` imports no
# torch.
Norm = Literal["l2", "linf"]
Downsample = Literal["stride", "pool"]
Precision = Literal["auto", "float32", "bfloat16"]


@dataclass(frozen=True)
class Training:
    """All settings of a training that its result depends on, apart from the machine."""

    dataset: Annotated[str, "name, or a folder with one folder per class"] = "cifar10-train"
    architecture: Annotated[str, "resnet18, wide-resnet-16-4, torchvision:resnet50, ..."] = (
        "resnet18"
    )
    width: Annotated[int, "channels of the first stage, of resnet18, resnet34 and resnet50"] = 16
    downsample: Annotated[
        Downsample, "of the same: maps are halved by a strided convolution, or by a mean"
    ] = "pool"
    image_size: Annotated[
        int | tuple[int, int], "pixels, 64 or 96x32 (height x width); 0 for the images' own"
    ] = 0
    start: Annotated[
        str,
        "network, name or file, to begin with; its head too, if that fits; '' for random weights",
    ] = ""
    norm: Annotated[Norm, "of the perturbation"] = "l2"
    eps: Annotated[float, "its largest length, pixels in [0, 1]; 0 for standard training"] = 0.5
    attack_steps: Annotated[int, "gradient steps of the inner maximisation"] = 2
    epochs: Annotated[int, "passes over the data"] = 14
    batch_size: Annotated[int, "images per step, over all processes"] = 128
    learning_rate: Annotated[float, "peak of the one-cycle schedule"] = 0.2
    momentum: Annotated[float, "of SGD, Nesterov's"] = 0.9
    weight_decay: Annotated[float, "of convolutions and the head"] = 5e-4
    average: Annotated[
        float, "share of the past in the running mean of the weights; 0 for none"
    ] = 0.998
    precision: Annotated[Precision, "of the passes; weights are float32"] = "auto"
    held_out: Annotated[
        int, "training images kept apart, for the robust accuracy after each epoch"
    ] = 500
    seed: Annotated[
        int, "of the weights, the held-out images, their order, and each perturbation's start"
    ] = 0

    def __post_init__(self) -> None:
        as_python(self)
        object.__setattr__(self, "image_size", _size(self.image_size))
        for name, (kind, _) in options().items():
            if get_origin(kind) is Literal and getattr(self, name) not in get_args(kind):
                raise ValueError(
                    f"{name}: got {getattr(self, name)!r}, wanted one of "
                    f"{', '.join(get_args(kind))}"
                )
        for name in ("width", "attack_steps", "epochs", "batch_size", "held_out"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: got {getattr(self, name)}, wanted at least 1")
        if not (
            0 <= self.eps < math.inf
            and 0 < self.learning_rate < math.inf
            and self.weight_decay >= 0
        ):
            raise ValueError(
                "eps, learning_rate, weight_decay: wanted finite numbers, not negative"
            )
        if not (0 <= self.average < 1 and 0 <= self.momentum < 1):
            raise ValueError("average, momentum: wanted 0 to below 1")


def as_python(settings: Any) -> None:
    """Convert NumPy and torch numbers in a frozen dataclass to Python's, as stored in its file."""
    for field in fields(settings):
        value = getattr(settings, field.name)
        if hasattr(value, "tolist"):
            object.__setattr__(settings, field.name, value.tolist())


def options() -> dict[str, tuple[Any, str]]:
    """Setting → (type, meaning)."""
    return {
        name: get_args(hint) for name, hint in get_type_hints(Training, include_extras=True).items()
    }


def size_from_text(text: str) -> int | tuple[int, int]:
    """An image size from the command line: 64, or 96x32 for height and width.

    Raises:
        ValueError: neither.
    """
    sides = [int(side) for side in text.lower().replace("×", "x").split("x")]
    return _size(sides[0] if len(sides) == 1 else sides)


def _size(given: Any) -> int | tuple[int, int]:
    sides = list(given) if isinstance(given, list | tuple) else [given, given]
    whole = all(isinstance(side, int) and not isinstance(side, bool) for side in sides)
    if len(sides) != 2 or not whole or min(sides) < 0 or (min(sides) == 0 and max(sides) > 0):
        raise ValueError(
            f"image_size: got {given!r}, wanted pixels, (height, width), or 0 for the images' own"
        )
    return sides[0] if sides[0] == sides[1] else (sides[0], sides[1])


def warn_of_radius(config: Training, shape: tuple[int, ...]) -> None:
    diameter = math.sqrt(math.prod(shape))
    if config.norm == "l2" and config.eps > 0.03 * diameter:
        usual = "0.25, 0.5 and 1 at 3×32×32 (spans 55.4), 3 at 3×224×224 (388)"
    elif config.norm == "linf" and config.eps > 16 / 255:
        usual = "8/255 = 0.031 at 3×32×32, 4/255 at 3×224×224"
    else:
        return
    warnings.warn(
        f"eps {config.eps:g} in {config.norm} is large for images that span {diameter:.1f}: the "
        f"network may learn nothing. Published values: {usual}",
        stacklevel=2,
    )


def arguments_of(config: Training) -> dict[str, Any]:
    """Keyword arguments of the architecture."""
    from nbhelpers.networks.resnets import BLOCKS

    return (
        {"width": config.width, "downsample": config.downsample}
        if config.architecture in BLOCKS
        else {}
    )


def without_split(dataset: str) -> str:
    """The data set of a split: cifar10 for cifar10-train."""
    return (
        dataset.removesuffix("-train")
        .removesuffix("-sample")
        .removesuffix("-test")
        .removesuffix("-val")
    )
