"""Find a classifier's representation by passes over noise."""

import contextlib
import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils._pytree import tree_leaves, tree_map_only

from nbhelpers.names import near

# pixels, tried in turn if the size is unknown
_SIZES = (32, 64, 96, 224, 256, 299, 384)


@dataclass(frozen=True)
class Site:
    """Where to cut a network, and its outputs for two noise images."""

    name: str  # of a module
    before: bool  # the representation is the module's input, not its output
    calls: int  # the representation is in the module's n-th call of a pass
    head: bool  # the module is a Linear, and its output the logits
    note: str
    varies: str  # why logits are no function of one image; else ""
    images: Tensor
    logits: Tensor  # of the network, before a final softmax
    features: Tensor  # the representation before pooling over positions, images first
    batch: int  # the batch axis of the module's own features
    positions: tuple[int, ...] | None  # axes of `features` to pool over; None if unknown
    one_size: bool  # accepts only images of this size
    shapes: "tuple[Shapes, ...]"  # per pass: two images, three, other sizes


@dataclass(frozen=True)
class Shapes:
    """Output shapes of the modules in one pass, in the order of the calls."""

    images: tuple[int, ...]
    outputs: list[tuple[str, tuple[int, ...]]] = field(default_factory=list)


class _Passes:
    """Passes over noise that record (name, input, output) of watched modules."""

    def __init__(self, network: nn.Module, modules: dict[str, nn.Module], names: list[str]):
        self.network, self.modules, self.names = network, modules, names
        self.weight = next(network.parameters(), torch.empty(0))
        self.shapes: list[Shapes] = []

    def noise(self, n: int, channels: int, sides: tuple[int, int]) -> Tensor:
        random = torch.Generator().manual_seed(0)
        return torch.randn(
            n, channels, *sides, generator=random, dtype=torch.float32, device="cpu"
        ).to(self.weight)

    def over(self, images: Tensor, seen: list, swap: tuple[int, Tensor] | None = None) -> Any:
        """The network's output; with `swap` = (axis, tensor), a module's input that equals the
        tensor is reversed along the axis.
        """

        def watch(name: str) -> Callable:
            # Cloned: a later in-place ReLU may overwrite the output.
            return lambda _, args, kwargs, output: seen.append(
                (name, *tree_map_only(Tensor, Tensor.clone, (first_input(args, kwargs), output)))
            )

        def turn(_: nn.Module, args: tuple, kwargs: dict) -> Any:
            given = first_input(args, kwargs)
            if swap and isinstance(given, Tensor) and close(given, swap[1]):
                return (given.flip(swap[0]),), {}
            return None

        shapes = Shapes(tuple(images.shape))
        self.shapes.append(shapes)

        def measure(name: str) -> Callable:
            def note(_: nn.Module, args: tuple, output: Any) -> None:
                if isinstance(output, Tensor):
                    shapes.outputs.append((name, tuple(output.shape)))

            return note

        handles = [
            self.modules[name].register_forward_hook(watch(name), with_kwargs=True)
            for name in self.names
        ]
        handles += [m.register_forward_hook(measure(n)) for n, m in self.modules.items()]
        before = [
            self.modules[n].register_forward_pre_hook(turn, with_kwargs=True)
            for n in self.names
            if swap
        ]
        try:
            with torch.no_grad():
                return self.network(images.clone())
        finally:
            for handle in (*handles, *before):
                handle.remove()

    def resized(self, images: Tensor, factor: float, seen: list) -> bool:
        """Whether the network runs on another size; `seen` is filled up to an error."""
        height, width = (max(1, int(side * factor)) for side in images.shape[2:])
        # errors of any kind on a wrong size
        with contextlib.suppress(Exception):
            self.over(self.noise(2, images.shape[1], (height, width)), seen)
            return True
        return False


def find(
    network: nn.Module, layer: str | None, channels: Sequence[int], sides: tuple[int, int] | None
) -> Site:
    """Find the module whose input (for `layer`, output) is the representation.

    Args:
        network: in evaluation mode.
        layer: a module's name.
        channels: numbers of channels to try.
        sides: (height, width), pixels; None tries usual sizes.

    Raises:
        ValueError: unknown or unused layer, no linear layer or convolution, or outputs that are no
            logits.
    """
    kind, modules = type(network).__name__, dict(network.named_modules())
    del modules[""]
    passes = _Passes(network, modules, _watched(network, modules, layer))
    images, raw, seen = _try(passes, channels, sides)
    if not seen:
        why = (
            f"layer {layer!r} is never called"
            if layer
            else "no torch.nn.Linear or Conv2d before the logits; name a layer="
        )
        raise ValueError(f"{kind}: {why}")
    index, logits, note, head = len(seen) - 1, raw, "", False
    if layer is None:
        index, logits, note, head = _last_linear(seen, raw, modules)
    name, given, output = seen[index]
    features = given if layer is None else output
    if not isinstance(features, Tensor) or features.ndim < 2:
        raise ValueError(
            f"layer: {layer!r} returns {type(features).__name__}, wanted a tensor (n, …)"
        )
    call = sum(other == name for other, *_ in seen[: index + 1]) - 1
    again, found, axis = _third_image(passes, images, raw, features, (name, call, bool(layer)))
    if layer is None and not head:
        # Reversing this input must reverse the logits; another path to them (squeeze-and-excite, a
        # final convolution) would not.
        turned = passes.over(torch.cat([images, 3 * images[:1]]), [], (axis, found))
        if not close(turned, again.flip(0)):
            children = ", ".join(name for name, _ in network.named_children())
            raise ValueError(
                f"{kind}: its logits come from more than {name!r}'s input; name a layer= "
                f"({children}, …)"
            )
    canonical = features.movedim(axis, 0)
    steady = close(again[:2], raw) and close(found.movedim(axis, 0)[:2], canonical)
    varies = "" if steady else _variation(passes, images, raw)
    positions = _positions(passes, canonical, images, call, axis, name, bool(layer))
    one_size = not any(passes.resized(images, factor, []) for factor in (0.5, 2))
    return Site(
        name,
        layer is None,
        call + 1,
        head,
        note,
        varies,
        images,
        logits,
        canonical,
        axis,
        positions,
        one_size,
        tuple(passes.shapes),
    )


def _watched(network: nn.Module, modules: dict[str, nn.Module], layer: str | None) -> list[str]:
    """The named module, or all linear ones, or, without any, convolutions (SqueezeNet)."""
    if layer is None:
        linear = [name for name, module in modules.items() if isinstance(module, nn.Linear)]
        convolutions = [name for name, module in modules.items() if isinstance(module, nn.Conv2d)]
        return linear or convolutions[1:]  # the first one sees pixels, which are no representation
    if layer not in modules:
        names = ", ".join(near(layer, modules) or [name for name, _ in network.named_children()])
        kind = type(network).__name__
        raise ValueError(f"layer: got {layer!r}, no module of {kind}; near names: {names}")
    return [layer]


def _last_linear(
    seen: list, raw: Tensor, modules: dict[str, nn.Module]
) -> tuple[int, Tensor, str, bool]:
    """The call whose output is the logits, the logits, a note, and whether it is a head.

    Without a head, the last call: the logits may depend on its input alone.
    """
    for index in reversed(range(len(seen))):
        name, given, result = seen[index]
        linear: Any = modules[name]
        if result.shape != raw.shape or not close(
            functional.linear(given, linear.weight, linear.bias), result
        ):
            continue
        softmaxes = {"softmax": result.softmax(1), "log-softmax": result.log_softmax(1)}
        for final, values in {"": result, **softmaxes}.items():
            if close(values, raw):
                return index, result, f"final {final} left out" if final else "", True
    return len(seen) - 1, raw, f"logits are not the output of {seen[-1][0]}: no head", False


def _third_image(
    passes: _Passes, images: Tensor, raw: Tensor, features: Tensor, call: tuple[str, int, bool]
) -> tuple[Tensor, Tensor, int]:
    """Logits and features of three images, and the batch axis."""
    (name, index, output), kind = call, type(passes.network).__name__
    others: list = []
    try:
        again = passes.over(torch.cat([images, 3 * images[:1]]), others)
    except Exception as error:  # of any kind on another batch size
        raise ValueError(
            f"{kind}: runs on two images and not on three: {error}".split("\n")[0]
        ) from error
    if not isinstance(again, Tensor) or again.shape != (3, raw.shape[1]):
        raise ValueError(f"{kind}: returns another number of logits for three images than for two")
    found = [one[1 + output] for one in others if one[0] == name][index : index + 1]
    axes = [a for a in range(features.ndim) if found and features.shape[a] != found[0].shape[a]]
    if not found or len(axes) != 1 or (features.shape[axes[0]], found[0].shape[axes[0]]) != (2, 3):
        what = f"{kind}: {'the output of' if output else 'what goes into'} {name!r}, of shape"
        raise ValueError(
            f"{what} {tuple(features.shape)} for two images, has no axis of images; name another "
            "layer="
        )
    return again, found[0], axes[0]


def _variation(passes: _Passes, images: Tensor, raw: Tensor) -> str:
    """Why two images' outputs change with a third in the batch."""
    if not close(passes.over(images, []), raw):
        return "results are random (dropout that is always on?)"
    unsteady = any(
        isinstance(module, _BatchNorm) and (module.training or module.running_mean is None)
        for module in passes.modules.values()
    )
    why = " (batch norm without running statistics)" if unsteady else ""
    return f"other images of a batch change its result{why}"


def first_input(args: tuple, kwargs: dict) -> Any:
    """A module's first argument, positional or by keyword."""
    return args[0] if args else next(iter(kwargs.values()), None)


def _positions(
    passes: _Passes,
    features: Tensor,
    images: Tensor,
    call: int,
    batch: int,
    name: str,
    output: bool,
) -> tuple[int, ...] | None:
    """The axes of the features that are positions; None if unknown."""
    real = [axis for axis in range(1, features.ndim) if features.shape[axis] > 1]
    if features.ndim == 2 or len(real) < 2:
        return ()
    for factor in (0.5, 2):  # position axes scale with the image
        seen: list = []
        passes.resized(images, factor, seen)
        other = [one[1 + output] for one in seen if one[0] == name][call : call + 1]
        if other and other[0].ndim == features.ndim:
            shape = other[0].movedim(batch, 0).shape
            if grown := tuple(
                axis for axis in range(1, features.ndim) if shape[axis] != features.shape[axis]
            ):
                return grown
    # A fixed-size network: the channel axis has the length of some weights.
    widths = {len(weight) for weight in passes.network.parameters() if weight.ndim}
    channels = [axis for axis in real if features.shape[axis] in widths]
    return tuple(axis for axis in real if axis not in channels) if len(channels) == 1 else None


def _try(
    passes: _Passes, channels: Sequence[int], sides: tuple[int, int] | None
) -> tuple[Tensor, Tensor, list]:
    """Two noise images of the first accepted size, their logits, and the recorded calls."""
    kind, failure = type(passes.network).__name__, ""
    for count in channels:
        for shape in [sides] if sides else [(side, side) for side in _SIZES]:
            noise = passes.noise(2, count, shape)
            seen: list = []
            try:
                logits = passes.over(noise, seen)
            except Exception as error:
                # errors of any kind on a wrong size
                failure = failure or f"{type(error).__name__}: {error}"
                continue
            if not isinstance(logits, Tensor) or logits.ndim != 2:
                got = (
                    f"shape {tuple(logits.shape)}"
                    if isinstance(logits, Tensor)
                    else f"a {type(logits).__name__}"
                )
                raise ValueError(
                    f"{kind}: returns {got}, wanted logits (n, classes); wrap it in a module that "
                    "does"
                )
            return noise, logits, seen
    sizes = "×".join(map(str, sides)) if sides else ", ".join(map(str, _SIZES))
    failure += "" if sides else "; give image_size= the pixels it was trained for"
    counts = " or ".join(map(str, channels))
    raise ValueError(f"{kind}: does not run on {counts} channels of {sizes} pixels: {failure}")


def bare(network: Any) -> nn.Module:
    """The network without torch.compile or data-parallel wrappers."""
    while isinstance(network, nn.DataParallel | nn.parallel.DistributedDataParallel) or hasattr(
        network, "_orig_mod"
    ):
        network = getattr(network, "_orig_mod", None) or network.module
    return network


def copied(network: nn.Module) -> nn.Module:
    """A deep copy, also of networks with hooks or non-leaf tensors.

    Raises:
        TypeError: not a module.
        ValueError: cannot be copied, or TorchScript.
    """
    kind = type(network).__name__
    if not isinstance(network, nn.Module):
        raise TypeError(f"network: got {kind}, wanted a torch.nn.Module")
    if scripted := [
        name
        for name, module in network.named_modules()
        if isinstance(module, torch.jit.ScriptModule)
    ]:
        what = (
            f"{kind} "
            f"{'has ' if scripted[0] else 'is '}TorchScript{scripted[0] and f' in {scripted[0]!r}'}"
        )
        raise ValueError(
            f"network: {what}, whose layers cannot be watched; give what it was made from"
        )
    # deepcopy refuses non-leaf tensors: kept results of passes, and computed weights.
    parts = [vars(module) for module in network.modules()]
    kept = {
        id(t): t.detach().clone()
        for t in tree_leaves(parts)
        if isinstance(t, Tensor) and t.grad_fn is not None
    }
    try:
        return copy.deepcopy(network, dict(kept))
    except Exception:  # a hook may refer to anything, such as a log file or a lock
        hooks = [
            hook
            for part in parts
            for key, table in part.items()
            if "hook" in key
            for hook in tree_leaves(table)
        ]
        try:
            return copy.deepcopy(network, {**kept, **{id(hook): hook for hook in hooks}})
        except Exception as error:
            raise ValueError(
                f"network: {kind} cannot be copied ({error}); remove what is neither module nor "
                "tensor"
            ) from None


@contextlib.contextmanager
def exactly() -> Iterator[None]:
    """Compute in true float32 on a CPU, whatever the user's settings."""
    with contextlib.ExitStack() as before:
        for kind in (torch.backends.mkldnn.matmul, torch.backends.mkldnn.conv):  # type: ignore[attr-defined]
            before.callback(setattr, kind, "fp32_precision", kind.fp32_precision)
            kind.fp32_precision = "ieee"
        yield


def close(values: Tensor, wanted: Tensor) -> bool:
    """Equal up to rounding: strict on a CPU (see `exactly`); GPU convolutions use TF32."""
    bound = (1e-4 if values.device.type == "cpu" else 1e-2) * wanted.abs().max() + 1e-9
    return values.shape == wanted.shape and bool((values - wanted).abs().max() <= bound)
