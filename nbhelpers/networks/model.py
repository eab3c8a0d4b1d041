"""A classifier as representation and linear head; takes pixels in [0, 1]."""

import contextlib
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, Self

import numpy
import torch
from torch import Tensor, nn

from nbhelpers.checkpoints.finite import not_finite
from nbhelpers.networks.cutting import cut
from nbhelpers.networks.depth import places
from nbhelpers.networks.freezing import freeze
from nbhelpers.networks.sites import Site, bare, close, copied, exactly, find
from nbhelpers.types import Features, Images, Size, check_images, square, two_sides

Precision = Literal["float32", "bfloat16"]


class Model(nn.Module):
    """A frozen classifier and its representation. It normalises by itself: give it pixels in [0,
    1].

    The network is traced, batch norm is folded into convolutions, the network is cut at its last
    linear layer or after `layer`, and the last ReLU before the cut can be swapped for a fake one. A
    network that cannot be traced works all the same, through a hook. A first pass over noise checks
    that logits are the network's own; `repr` says what was found.

    Args:
        network: a classifier (n, c, h, w) → (n, classes) that ends in a `torch.nn.Linear`; copied.
            A softmax after that is left out. Other networks have logits, but no head.
        mean, std: of each channel, pixels in [0, 1], as in training; None where the network takes
            these as they are.
        classes: class names, in the order of the outputs or as {index: name}; their indices where
            None.
        image_size: pixels that the network was trained for, the side of a square or (height,
            width); None if any.
        name: for `repr` and results.
        layer: a module's name, whose output is the representation in place of the penultimate
            layer.
        pool: "mean" over positions or tokens, or "flatten"; for a layer whose output has any.

    Raises:
        TypeError: not a module.
        ValueError: no linear layer and no `layer`, an unknown layer, arguments that do not fit the
            network, or one that cannot be copied.
    """

    mean: Tensor
    std: Tensor
    precision: Precision = (
        "float32"  # of passes that a gradient goes back through; all others are float32
    )

    @torch.inference_mode(False)  # weights made in it could never take part in a gradient
    @exactly()
    def __init__(
        self,
        network: nn.Module,
        *,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        classes: Sequence[str] | Mapping[int, str] | None = None,
        image_size: Size | None = None,
        name: str = "",
        layer: str | None = None,
        pool: Literal["mean", "flatten"] = "mean",
    ):
        super().__init__()
        if pool not in ("mean", "flatten"):
            raise ValueError(f"pool: got {pool!r}, wanted 'mean' or 'flatten'")
        scales, channels = _checked_scales(mean, std)
        sides = None if image_size is None else two_sides(image_size, "image_size")
        network = copied(bare(network)).float().eval().requires_grad_(False)
        self.name, self.layer, self.pool = name or type(network).__name__, layer, pool
        self.image_size = square(sides) if sides else None
        spoilt = not_finite(network.state_dict())
        try:
            found = find(network, layer, channels, sides)
        except ValueError as error:
            if spoilt:
                raise ValueError(f"{_spoilt(self.name, spoilt)} ({error})") from error
            raise
        if spoilt:
            warnings.warn(_spoilt(self.name, spoilt), stacklevel=4)
        self.places = places(found, network)
        self.parts, self.note = cut(network, found)
        if found.varies:
            self.note += f"; not a function of one image: {found.varies}"
            warnings.warn(
                f"{self.name}: {found.varies}, so no result is one image's own", stacklevel=4
            )
        self._measure(found)
        self.classes = _class_names(classes, found.logits.shape[1])
        for key, scale, neutral in zip(("mean", "std"), scales, (0.0, 1.0), strict=True):
            values = torch.tensor(
                scale or [neutral] * self.channels, dtype=torch.float32, device=found.images.device
            )
            self.register_buffer(key, values[:, None, None])
        freeze(self.eval())
        self._steady = tuple(self.modules())  # walked in each pass
        if self.device.type == "cpu":
            self._lay_out(found.images)

    def _measure(self, found: Site) -> None:
        """Sizes of the images, the representation and its map."""
        if self.pool == "flatten" and found.features.ndim > 2 and not self.image_size:
            raise ValueError(
                "pool: 'flatten' fixes the length of the representation; give image_size= too"
            )
        if self.pool == "mean" and found.positions is None:
            shape = f"{tuple(found.features.shape[1:])} of {found.name!r}"
            raise ValueError(
                f"pool: cannot distinguish positions from channels in {shape}; give "
                "pool='flatten', or a layer="
            )
        # axes of the layer's output that the mean is taken over; what images have to be
        self.pooled_axes, self._one_size = found.positions or (), found.one_size
        self.sides, self.channels = tuple(found.images.shape[2:]), found.images.shape[1]
        pooled = self._pooled(found.features)
        # length of the representation
        self._shape, self.components = (tuple(pooled.shape[1:]), pooled[0].numel())
        with torch.no_grad():
            maps = self.parts.maps(found.images.clone(), False)
        self.positions: tuple[int, ...] = (
            tuple(maps.shape[1:]) if maps is not None else (self.components, 1, 1)
        )
        # Then logits are linear in the map just as in its mean; a norm in between (ConvNeXt, ViT)
        # makes it otherwise.
        self.averaged = maps is None or close(maps.mean((2, 3)), pooled.flatten(1))

    def _lay_out(self, images: Tensor) -> None:
        """Channels last, which is a third faster on a CPU, where the network takes that."""
        for layout in (torch.channels_last, torch.contiguous_format):
            for tensor in (*self.parameters(), *self.buffers()):
                if tensor.ndim == 4:
                    tensor.data = tensor.data.contiguous(memory_format=layout)
            # `.view` refuses maps of the first
            with contextlib.suppress(RuntimeError), torch.no_grad():
                self.parts.logits(images.clone())
                break

    def train(self, mode: bool = True) -> Self:
        """Leave the network as it is: frozen, whatever a module around it does."""
        return super().train(False)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        # What is rounded to half precision stays rounded, so weights only move, or become longer.
        def moved(tensor: Tensor) -> Tensor:
            result = fn(tensor)
            short = result.is_floating_point() and result.element_size() < 4
            return tensor.to(result.device) if short else result

        return super()._apply(moved, recurse)

    @property
    def device(self) -> torch.device:
        """Where the weights are, and where images must be."""
        return self.mean.device

    @property
    def head(self) -> nn.Linear:
        """The linear layer that turns the representation into logits.

        Raises:
            ValueError: the representation is another layer's, or the network does not end in a
                linear layer.
        """
        if self.parts.head is None:
            why = (
                f"is the output of {self.layer!r}; load the model without layer="
                if self.layer
                else f"({self.note})"
            )
            raise ValueError(f"{self.name}: no head: the representation {why}")
        return self.parts.head

    def representation(
        self, images: Images, fake_relu: bool = True, positions: bool = False
    ) -> Features:
        """The penultimate layer R(x), or `layer`'s pooled output, (n, components).

        Args:
            images: (n, c, h, w), pixels in [0, 1], on the model's device.
            fake_relu: let gradients through inactive units of the last ReLU; values are the same.
            positions: the representation before pooling over positions instead, (n, channels ·
                height · width), of which `model.positions` gives the three; a transformer's tokens
                count as (channels, tokens, 1). Where the network has no such map, the
                representation itself.

        Raises:
            TypeError, ValueError: images of the wrong kind, shape, range or device.
        """
        if positions and self.positions[1:] != (1, 1):
            found, shape = self._passed(self.parts.maps, images, fake_relu), self.positions
        else:
            found, shape = (
                self._pooled(self._passed(self.parts.features, images, fake_relu)),
                self._shape,
            )
        if tuple(found.shape[1:]) != shape:
            given, wanted = ("×".join(map(str, one)) for one in (found.shape[1:], shape))
            raise self._other_size(images, f"{given} components instead of {wanted}")
        return found.flatten(1)

    def forward(self, images: Images) -> Features:
        """Logits, (n, classes)."""
        return self._passed(self.parts.logits, images)

    def _passed(self, f: Callable[..., Any], images: Images, *options: bool) -> Tensor:
        if not torch.compiler.is_compiling() and any(part.training for part in self._steady):
            self.train(False)  # `train` was called on each part, past this module's own
        x = self._normalised(images)
        if self._one_size and tuple(images.shape[2:]) != self.sides:
            raise self._other_size(images, "it takes no other size")
        low = self.precision != "float32" and images.requires_grad and torch.is_grad_enabled()
        try:
            if not low:
                return f(x, *options)
            with torch.autocast(self.device.type, torch.bfloat16):
                return f(x, *options).float()
        except Exception as error:  # a network of one size says so in its own way
            if isinstance(error, torch.OutOfMemoryError) or tuple(images.shape[2:]) == self.sides:
                raise
            raise self._other_size(images, str(error).split("\n")[0]) from error

    def _other_size(self, images: Images, why: str) -> ValueError:
        given, own = ("×".join(map(str, sides)) for sides in (images.shape[2:], self.sides))
        hint = f"{own} pixels, got {given} (use size={square(self.sides)}): {why}"
        return ValueError(f"images: {self.name} is set up for {hint}")

    def _normalised(self, images: Images) -> Tensor:
        # The optimiser's own iterates were checked once, and a check would stall a GPU. A program
        # that is exported or compiled, or run under torch.func.vmap, has no pixels to look at.
        if not (images.requires_grad or torch.compiler.is_compiling()):
            with contextlib.suppress(RuntimeError):
                check_images(images)
        if images.shape[1] != self.channels:
            given = f"images: of {images.shape[1]} channels"
            raise ValueError(
                f"{given}, {self.name} takes {self.channels}: load_images(…, "
                f"channels={self.channels})"
            )
        if images.device != self.device:
            raise ValueError(
                f"images: on {images.device}, the model is on {self.device}; use "
                "images.to(model.device)"
            )
        # Views that change nothing but the gradient, which they make contiguous: weights are laid
        # out with channels last, and other libraries call `.view` on it.
        plain = images.flatten(1).unflatten(1, images.shape[1:])
        return (plain.to(self.mean.dtype) - self.mean) / self.std

    def _pooled(self, features: Tensor) -> Tensor:
        return (
            features.mean(self.pooled_axes)
            if self.pool == "mean" and self.pooled_axes
            else features
        )

    def __repr__(self) -> str:
        where = f" ({self.pool} of {self.layer})" if self.layer else ""
        size = (
            "×".join(map(str, self.sides))
            if isinstance(self.image_size, tuple)
            else self.image_size
        )
        size = f", {size} pixels" if size else ""
        counts = f"{self.components} components{where}, {len(self.classes)} classes{size}"
        return f"Model({self.name}: {counts}; {self.note})"


def _checked_scales(
    mean: Sequence[float] | None, std: Sequence[float] | None
) -> tuple[list[list[float] | None], list[int]]:
    """Mean and std as lists, and the numbers of channels that these allow."""
    scales = [
        None if scale is None else numpy.ravel(scale).astype(float).tolist()
        for scale in (mean, std)
    ]
    counts = {len(scale) for scale in scales if scale is not None} or {3, 1}
    fits = len(counts) == 1 or (mean is None and std is None)
    if not (fits and all(value > 0 for value in scales[1] or ())):
        raise ValueError(
            f"mean and std: got {scales[0]} and {scales[1]}, wanted one positive std per channel"
        )
    return scales, sorted(counts, reverse=True)


def _class_names(classes: Sequence[str] | Mapping[Any, str] | None, n: int) -> tuple[str, ...]:
    """A name for each of `n` outputs."""
    if isinstance(classes, Mapping):
        # keys out of JSON are text
        table = {int(key): name for key, name in classes.items() if str(key).isdecimal()}
        if len(table) != len(classes) or sorted(table) != list(range(len(table))):
            raise ValueError(
                f"classes: got keys {', '.join(map(str, [*classes][:4]))}, …; wanted {{index: "
                f"name}} with the indices 0 to {n - 1}, or a list of names"
            )
        classes = [table[index] for index in range(len(table))]
    given = range(n) if classes is None or not len(classes) else classes
    names = tuple(map(str, given))
    if len(names) != n:
        raise ValueError(f"classes: got {len(names)} names, the network has {n} outputs")
    return names


def _spoilt(name: str, tensors: str) -> str:
    return f"{name}: weights are not finite: {tensors}; did its training diverge?"
