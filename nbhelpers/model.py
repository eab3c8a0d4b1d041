"""A classifier as representation and linear head; takes pixels in [0, 1]."""

import copy
from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from nbhelpers.cut import close, cut, find
from nbhelpers.types import Features, Images, check_images

Precision = Literal["float32", "bfloat16"]


class Model(nn.Module):
    """A frozen classifier and its representation. It normalises by itself: give it pixels in [0, 1].

    The network is traced, batch norm is folded into convolutions, the network is cut at its last linear layer or
    after `layer`, and the last ReLU before the cut can be swapped for a fake one. A network that cannot be traced
    works all the same, through a hook. A first pass over noise checks that logits are the network's own; `repr`
    says what was found.

    Args:
        network: a classifier (n, c, h, w) → (n, classes) that ends in a `torch.nn.Linear`; copied. A softmax
            after that is left out. Other networks have logits, but no head.
        mean, std: of each channel, pixels in [0, 1], as in training.
        classes: class names; their indices where None.
        image_size: side in pixels that the network was trained for; None if any.
        name: for `repr` and results.
        layer: a module's name, whose output is the representation in place of the penultimate layer.
        pool: "mean" over positions or tokens, or "flatten"; for a layer whose output has any.

    Raises:
        ValueError: no linear layer and no `layer`, an unknown layer, or arguments that do not fit the network.
    """

    mean: Tensor
    std: Tensor
    precision: Precision = "float32"  # of passes that a gradient goes back through; all others are float32

    def __init__(
        self,
        network: nn.Module,
        *,
        mean: Sequence[float] = (0.0, 0.0, 0.0),
        std: Sequence[float] = (1.0, 1.0, 1.0),
        classes: Sequence[str] | None = None,
        image_size: int | None = None,
        name: str = "",
        layer: str | None = None,
        pool: Literal["mean", "flatten"] = "mean",
    ):
        super().__init__()
        if len(mean) != len(std) or not all(value > 0 for value in std):
            raise ValueError(f"mean and std: got {tuple(mean)} and {tuple(std)}, wanted one positive std per channel")
        if pool not in ("mean", "flatten"):
            raise ValueError(f"pool: got {pool!r}, wanted 'mean' or 'flatten'")
        for wrapper in ("module", "_orig_mod"):  # of DataParallel and of torch.compile
            network = getattr(network, wrapper, network)
        network = copy.deepcopy(network).float().eval().requires_grad_(False)
        self.image_size, self.name, self.layer, self._pool = image_size, name or type(network).__name__, layer, pool
        found = find(network, layer, len(mean), image_size)
        self._cut, self.note = cut(network, found)
        if pool == "flatten" and found.features.ndim > 2 and not image_size:
            raise ValueError("pool: 'flatten' fixes the length of the representation; give image_size= too")
        # Square images make square maps: the two equal sides tell (n, c, h, w) from (n, h, w, c).
        sides = found.features.shape[1:]
        self._positions = (1, 2) if len(sides) == 3 and sides[0] == sides[1] != sides[2] else (2, 3)
        self.components = self._pooled(found.features).shape[1]  # length of the representation
        with torch.no_grad():
            maps = self._cut.maps(found.images.clone(), False)
        self.positions: tuple[int, ...] = tuple(maps.shape[1:]) if maps is not None else (self.components, 1, 1)
        # Then logits are linear in the map just as in its mean; a norm in between (ConvNeXt, ViT) makes it otherwise.
        self.averaged = maps is None or close(maps.mean((2, 3)), self._pooled(found.features))
        n = found.logits.shape[1]
        self.classes = tuple(classes) if classes else tuple(map(str, range(n)))
        if len(self.classes) != n:
            raise ValueError(f"classes: got {len(self.classes)} names, the network has {n} outputs")
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32, device=found.images.device)[:, None, None])
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32, device=found.images.device)[:, None, None])
        self.eval().requires_grad_(False)
        if self.device.type == "cpu":
            self.to(memory_format=torch.channels_last)  # a third faster: oneDNN then reorders nothing

    @property
    def device(self) -> torch.device:
        """Where the weights are, and where images must be."""
        return self.mean.device

    @property
    def head(self) -> nn.Linear:
        """The linear layer that turns the representation into logits.

        Raises:
            ValueError: the representation is another layer's, or the network does not end in a linear layer.
        """
        if self._cut.head is None:
            why = f"is the output of {self.layer!r}; load the model without layer=" if self.layer else f"({self.note})"
            raise ValueError(f"{self.name}: no head: the representation {why}")
        return self._cut.head

    def representation(self, images: Images, fake_relu: bool = True, positions: bool = False) -> Features:
        """The penultimate layer R(x), or `layer`'s pooled output, (n, components).

        Args:
            images: (n, c, h, w), pixels in [0, 1], on the model's device.
            fake_relu: let gradients through inactive units of the last ReLU; values are the same.
            positions: the representation before pooling over positions instead, (n, channels · height · width), of
                which `model.positions` gives the three; a transformer's tokens count as (channels, tokens, 1). Where
                the network has no such map, the representation itself.

        Raises:
            TypeError, ValueError: images of the wrong kind, shape, range or device.
        """
        if positions and self.positions[1:] != (1, 1):
            return self._passed(self._cut.maps, images, fake_relu).flatten(1)
        return self._pooled(self._passed(self._cut.features, images, fake_relu))

    def forward(self, images: Images) -> Features:
        """Logits, (n, classes)."""
        return self._passed(self._cut.logits, images)

    def _passed(self, f: Callable[..., Any], images: Images, *options: bool) -> Tensor:
        x = self._normalised(images)
        if self.precision == "float32" or not (images.requires_grad and torch.is_grad_enabled()):
            return f(x, *options)
        with torch.autocast(self.device.type, torch.bfloat16):
            return f(x, *options).float()

    def _normalised(self, images: Images) -> Tensor:
        if not images.requires_grad:  # the optimiser's own iterates were checked once, and a check would stall a GPU
            check_images(images)
        if images.device != self.device:
            raise ValueError(f"images: on {images.device}, the model is on {self.device}; use images.to(model.device)")
        return (images - self.mean) / self.std

    def _pooled(self, features: Tensor) -> Features:
        if self._pool == "mean" and features.ndim in (3, 4):
            return features.mean(1 if features.ndim == 3 else self._positions)  # 3: (n, tokens, d)
        return features.flatten(1)

    def __repr__(self) -> str:
        where = f" ({self._pool} of {self.layer})" if self.layer else ""
        size = f", {self.image_size} pixels" if self.image_size else ""
        return (
            f"Model({self.name}: {self.components} components{where}, {len(self.classes)} classes{size}; {self.note})"
        )


def best_precision(device: torch.device) -> Precision:
    """bfloat16 where the device computes in it, so that nothing is lost but digits; else float32."""
    native = {"cuda": lambda: torch.cuda.is_bf16_supported(), "cpu": torch.cpu._is_avx512_bf16_supported}
    return "bfloat16" if native.get(device.type, lambda: False)() else "float32"


def pick_device(device: str | torch.device = "auto") -> torch.device:
    """Turn "auto" into the best device there is.

    Raises:
        ValueError: the device is unknown or not there.
    """
    if device == "auto":
        mps = "mps" if torch.backends.mps.is_available() else "cpu"
        return torch.device("cuda" if torch.cuda.is_available() else mps)
    try:
        picked = torch.device(device)
        torch.empty(0, device=picked)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(
            f"device: got {str(device)!r}, which this machine does not offer; use 'auto' or 'cpu'"
        ) from error
    return picked
