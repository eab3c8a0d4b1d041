"""A classifier as representation and linear head, for pixels in [0, 1]."""

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
    """A frozen classifier and its representation; it normalises pixels in [0, 1] itself.

    The network is traced, batch norm is folded into convolutions, and the graph is cut before the
    last linear layer or after `layer`. Untraceable networks use a hook. A pass over noise checks
    the logits; `repr` shows the result.

    Args:
        network: (n, c, h, w) → (n, classes), ending in a `torch.nn.Linear`; copied. A final softmax
            is removed. Other networks have logits, but no head.
        mean, std: per channel, pixels in [0, 1], as in training; None if the network normalises.
        classes: class names, a list or {index: name}; None for indices.
        image_size: training size in pixels, a side or (height, width); None for any.
        name: for `repr` and results.
        layer: the module whose output is the representation; None for the penultimate layer.
        pool: "mean" over positions or tokens, or "flatten".

    Raises:
        TypeError: not a module.
        ValueError: no linear layer, convolution or `layer`; unknown layer; arguments that do not
            fit the network; a network that cannot be copied.
    """

    mean: Tensor
    std: Tensor
    precision: Precision = "float32"  # of gradient passes; others are always float32

    @torch.inference_mode(False)  # weights made in inference mode cannot take part in a gradient
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
        self._steady = tuple(self.modules())  # read in each pass
        if self.device.type == "cpu":
            self._lay_out(found.images)

    def _measure(self, found: Site) -> None:
        """Set the sizes of the images, the representation and its map."""
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
        self.pooled_axes, self._one_size = found.positions or (), found.one_size
        self.sides, self.channels = tuple(found.images.shape[2:]), found.images.shape[1]
        pooled = self._pooled(found.features)
        self._shape, self.components = (tuple(pooled.shape[1:]), pooled[0].numel())
        with torch.no_grad():
            maps = self.parts.maps(found.images.clone(), False)
        self.positions: tuple[int, ...] = (
            tuple(maps.shape[1:]) if maps is not None else (self.components, 1, 1)
        )
        # Pooling is a plain mean; not with a norm after it (ConvNeXt, ViT).
        self.averaged = maps is None or close(maps.mean((2, 3)), pooled.flatten(1))

    def _lay_out(self, images: Tensor) -> None:
        """Use channels last, a third faster on a CPU, if the network accepts it."""
        for layout in (torch.channels_last, torch.contiguous_format):
            for tensor in (*self.parameters(), *self.buffers()):
                if tensor.ndim == 4:
                    tensor.data = tensor.data.contiguous(memory_format=layout)
            # `.view` refuses channels last
            with contextlib.suppress(RuntimeError), torch.no_grad():
                self.parts.logits(images.clone())
                break

    def train(self, mode: bool = True) -> Self:
        """Stay in evaluation mode, whatever an enclosing module does."""
        return super().train(False)

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        freeze(self)  # pickling makes parameters plain

    def apply(self, fn: Callable[[nn.Module], None]) -> Self:
        """Call `fn` on each part; weights that it changes are put back."""
        kept = [(one, one.detach().clone()) for one in (*self.parameters(), *self.buffers())]
        super().apply(fn)
        with torch.no_grad():
            for tensor, before in kept:
                tensor.copy_(before)
        return self.train(False)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        # Rounding to half precision is irreversible, so weights keep at least their precision.
        def moved(tensor: Tensor) -> Tensor:
            result = fn(tensor)
            short = result.is_floating_point() and result.element_size() < 4
            return tensor.to(result.device) if short else result

        return super()._apply(moved, recurse)

    @property
    def device(self) -> torch.device:
        """The device of the weights; images must be on it."""
        return self.mean.device

    @property
    def head(self) -> nn.Linear:
        """The linear layer from representation to logits.

        Raises:
            ValueError: the model has a `layer`, or no final linear layer.
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
            fake_relu: pass gradients through inactive units of the last ReLU; same values.
            positions: before pooling, (n, channels · height · width), sizes in `model.positions`,
                tokens as (channels, tokens, 1); the pooled representation if there is no map.

        Raises:
            TypeError, ValueError: images of the wrong type, shape, range or device.
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
            self.train(False)  # someone called `train` on a submodule
        x = self._normalised(images)
        if self._one_size and tuple(images.shape[2:]) != self.sides:
            raise self._other_size(images, "it takes no other size")
        low = self.precision != "float32" and images.requires_grad and torch.is_grad_enabled()
        try:
            if not low:
                return f(x, *options)
            with torch.autocast(self.device.type, torch.bfloat16):
                return f(x, *options).float()
        except Exception as error:  # of any kind on a wrong size
            if isinstance(error, torch.OutOfMemoryError) or tuple(images.shape[2:]) == self.sides:
                raise
            raise self._other_size(images, str(error).split("\n")[0]) from error

    def _other_size(self, images: Images, why: str) -> ValueError:
        given, own = ("×".join(map(str, sides)) for sides in (images.shape[2:], self.sides))
        hint = f"{own} pixels, got {given} (use size={square(self.sides)}): {why}"
        return ValueError(f"images: {self.name} is set up for {hint}")

    def _normalised(self, images: Images) -> Tensor:
        # Iterates are not checked: each check synchronises a GPU. Exported or compiled programs,
        # and torch.func.vmap, have no values to check.
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
        # These views make the gradient contiguous despite channels last: other libraries call
        # `.view` on it.
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
    """Mean and std as lists, and the possible numbers of channels."""
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
        # JSON keys are strings
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
