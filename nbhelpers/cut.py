"""Where a classifier's representation is, and the network cut there: traced if it can be, hooked if not."""

import contextlib
import copy
import difflib
import math
import operator
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx.experimental.optimization import fuse
from torch.fx.passes.shape_prop import ShapeProp
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils._pytree import tree_leaves, tree_map_only

# What may stand between the last ReLU and the representation without mixing components.
_POOLS: tuple = (nn.AdaptiveAvgPool2d, nn.AvgPool2d, nn.Flatten, nn.Dropout, nn.Dropout2d, nn.Identity)
_POOLS += (functional.adaptive_avg_pool2d, functional.avg_pool2d, functional.dropout, torch.flatten, torch.mean)
_POOLS += (torch.reshape, torch.squeeze, torch.permute, torch.transpose, operator.getitem, "flatten", "view", "reshape")
_POOLS += ("mean", "squeeze", "permute", "transpose", "contiguous")
_RELUS: tuple = (nn.ReLU, functional.relu, functional.relu_, torch.relu, torch.relu_, "relu", "relu_")
_SIZES = (32, 64, 96, 224, 256, 299, 384)  # pixels, tried in turn where the network's size is not given
_HOOKING = threading.Lock()  # two threads' hooks on one module would see each other's passes


class FakeReLU(torch.autograd.Function):
    """A ReLU's value with an identity's gradient: an inactive component still tells which way is up.

    Source: the reference code of Engstrom et al., arXiv:1906.00945; there, as here, only in the last block.
    """

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        return x.clamp(min=0)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:
        return gradient


class _Fake(nn.Module):
    """`FakeReLU` as a module, which a graph keeps when it is pickled; a function would be traced through."""

    def forward(self, x: Tensor) -> Tensor:
        return FakeReLU.apply(x)


@dataclass(frozen=True)
class Site:
    """Where to cut a network, and what it gives for two noise images."""

    name: str  # of a module
    before: bool  # the representation is the module's input, not its output
    calls: int  # which of a pass's calls of the module counts
    head: bool  # the module is a Linear, and its output the logits
    note: str
    varies: str  # why the logits are no function of one image; "" where they are
    images: Tensor
    logits: Tensor  # of the network, before a final softmax
    features: Tensor  # the representation before pooling over positions, images first
    batch: int  # the axis that tells the images apart where the module has them
    positions: tuple[int, ...] | None  # axes of `features` to pool over; None where nothing tells


class _Passes:
    """Passes of a network over noise, and what the watched modules were given and gave: (name, input, output)."""

    def __init__(self, network: nn.Module, modules: dict[str, nn.Module], names: list[str]):
        self.network, self.modules, self.names = network, modules, names
        self.weight = next(network.parameters(), torch.empty(0))

    def noise(self, n: int, channels: int, sides: tuple[int, int]) -> Tensor:
        random = torch.Generator().manual_seed(0)
        return torch.randn(n, channels, *sides, generator=random, dtype=torch.float32, device="cpu").to(self.weight)

    def over(self, images: Tensor, seen: list, swap: tuple[int, Tensor] | None = None) -> Any:
        """What the network returns; with `swap`, the images' order is turned where a module is given that tensor."""

        def watch(name: str) -> Callable:
            # Cloned, as an in-place ReLU may overwrite later what the module returned.
            return lambda _, args, kwargs, output: seen.append(
                (name, *tree_map_only(Tensor, Tensor.clone, (_first(args, kwargs), output)))
            )

        def turn(_: nn.Module, args: tuple, kwargs: dict) -> Any:
            given = _first(args, kwargs)
            if swap and isinstance(given, Tensor) and close(given, swap[1]):
                return (given.flip(swap[0]),), {}
            return None

        handles = [self.modules[name].register_forward_hook(watch(name), with_kwargs=True) for name in self.names]
        before = [self.modules[n].register_forward_pre_hook(turn, with_kwargs=True) for n in self.names if swap]
        try:
            with torch.no_grad():
                return self.network(images.clone())
        finally:
            for handle in (*handles, *before):
                handle.remove()


def find(network: nn.Module, layer: str | None, channels: Sequence[int], sides: tuple[int, int] | None) -> Site:
    """Run the network on noise, and see which module's input (or `layer`'s output) is the representation.

    Args:
        network: in evaluation mode.
        layer: a module's name.
        channels: numbers of channels to try.
        sides: height and width in pixels; None to try usual ones.

    Raises:
        ValueError: an unknown or unused layer, no linear layer, or a network that does not give logits.
    """
    kind, modules = type(network).__name__, {name: module for name, module in network.named_modules() if name}
    children = ", ".join(name for name, _ in network.named_children())
    if layer is not None and layer not in modules:
        near = ", ".join(difflib.get_close_matches(layer, modules, n=4, cutoff=0.4)) or children
        raise ValueError(f"layer: got {layer!r}, no module of {kind}; near names: {near}")
    watched = [layer] if layer else [name for name, module in modules.items() if isinstance(module, nn.Linear)]
    passes = _Passes(network, modules, watched)
    images, raw, seen = _try(passes, channels, sides)
    if not seen:
        why = f"layer {layer!r} is never called" if layer else "no torch.nn.Linear to take for the head; name a layer="
        raise ValueError(f"{kind}: {why}")
    index, logits, note, head = len(seen) - 1, raw, "", False
    if layer is None:
        note = f"logits are not the output of {seen[-1][0]}: no head"
        for candidate in reversed(range(len(seen))):
            name, given, result = seen[candidate]
            linear: Any = modules[name]
            if result.shape != raw.shape or not close(functional.linear(given, linear.weight, linear.bias), result):
                continue
            softmaxes = {"": result, "softmax": result.softmax(1), "log-softmax": result.log_softmax(1)}
            if matching := [final for final, values in softmaxes.items() if close(values, raw)]:
                index, logits, head = candidate, result, True
                note = f"final {matching[0]} left out" if matching[0] else ""
                break
    name, *both = seen[index]
    features = both[0] if layer is None else both[1]
    if not isinstance(features, Tensor) or features.ndim < 2:
        raise ValueError(f"layer: {layer!r} returns {type(features).__name__}, wanted a tensor (n, …)")
    calls = sum(other == name for other, *_ in seen[: index + 1])
    # A third image beside the two tells which axis counts images, and whether images see each other.
    more, others = torch.cat([images, 3 * images[:1]]), []
    again = passes.over(more, others)
    if not isinstance(again, Tensor) or again.shape != (3, raw.shape[1]):
        raise ValueError(f"{kind}: returns another number of logits for three images than for two")
    found = [call[1 + bool(layer)] for call in others if call[0] == name][calls - 1 : calls]
    axes = [a for a in range(features.ndim) if found and features.shape[a] != found[0].shape[a]]
    if not found or len(axes) != 1 or (features.shape[axes[0]], found[0].shape[axes[0]]) != (2, 3):
        what = f"{kind}: {'what goes into' if layer is None else 'the output of'} {name!r}, of shape"
        raise ValueError(f"{what} {tuple(features.shape)} for two images, has no axis of images; name another layer=")
    if layer is None and not head:
        # Another path to the logits (squeeze-and-excite, a final convolution) does not follow when this one is turned.
        turned = passes.over(more, [], (axes[0], found[0]))
        if not close(turned, again.flip(0)):
            raise ValueError(f"{kind}: its logits come from more than {name!r}'s input; name a layer= ({children}, …)")
    canonical = features.movedim(axes[0], 0)
    varies = ""
    if not (close(again[:2], raw) and close(found[0].movedim(axes[0], 0)[:2], canonical)):
        unsteady = any(isinstance(m, _BatchNorm) and (m.training or m.running_mean is None) for m in modules.values())
        same = (
            "other images of a batch change an image's result" + unsteady * " (batch norm without running statistics)"
        )
        varies = same if close(passes.over(images, []), raw) else "results are random (dropout that is always on?)"
    positions = _positions(passes, canonical, images, calls - 1, axes[0], name, bool(layer))
    return Site(name, layer is None, calls, head, note, varies, images, logits, canonical, axes[0], positions)


def _first(args: tuple, kwargs: dict) -> Any:
    return args[0] if args else next(iter(kwargs.values()), None)


def _positions(
    passes: _Passes, features: Tensor, images: Tensor, call: int, batch: int, name: str, output: bool
) -> tuple[int, ...] | None:
    """The axes of the features that belong to places in the image; None where nothing tells."""
    real = [axis for axis in range(1, features.ndim) if features.shape[axis] > 1]
    if features.ndim == 2 or len(real) < 2:
        return ()
    for factor in (2, 0.5):  # these axes grow with the image
        height, width = (max(1, int(side * factor)) for side in images.shape[2:])
        seen: list = []
        with contextlib.suppress(Exception):  # not every network takes every size; what came before the error counts
            passes.over(passes.noise(2, images.shape[1], (height, width)), seen)
        other = [one[1 + output] for one in seen if one[0] == name][call : call + 1]
        if other and other[0].ndim == features.ndim:
            shape = other[0].movedim(batch, 0).shape
            if grown := tuple(axis for axis in range(1, features.ndim) if shape[axis] != features.shape[axis]):
                return grown
    # A network of one size: its channels have weights, its positions have none.
    widths = {len(weight) for weight in passes.network.parameters() if weight.ndim}
    channels = [axis for axis in real if features.shape[axis] in widths]
    return tuple(axis for axis in real if axis not in channels) if len(channels) == 1 else None


def _try(passes: _Passes, channels: Sequence[int], sides: tuple[int, int] | None) -> tuple[Tensor, Tensor, list]:
    """Two noise images of the first size that the network takes, its logits, and what was seen."""
    kind, failure = type(passes.network).__name__, ""
    for count in channels:
        for shape in [sides] if sides else [(side, side) for side in _SIZES]:
            noise, seen = passes.noise(2, count, shape), []
            try:
                logits = passes.over(noise, seen)
            except Exception as error:  # whatever a foreign network does with a size it does not take
                failure = failure or f"{type(error).__name__}: {error}"
                continue
            if not isinstance(logits, Tensor) or logits.ndim != 2:
                got = f"shape {tuple(logits.shape)}" if isinstance(logits, Tensor) else f"a {type(logits).__name__}"
                raise ValueError(f"{kind}: returns {got}, wanted logits (n, classes); wrap it in a module that does")
            return noise, logits, seen
    sizes = "×".join(map(str, sides)) if sides else ", ".join(map(str, _SIZES))
    counts = " or ".join(map(str, channels))
    raise ValueError(f"{kind}: does not run on {counts} channels of {sizes} pixels: {failure}")


def copied(network: nn.Module) -> nn.Module:
    """A copy that is the caller's own, of a network that deepcopy may stumble over.

    Raises:
        TypeError: not a module.
        ValueError: it cannot be copied, or is TorchScript.
    """
    kind = type(network).__name__
    if not isinstance(network, nn.Module):
        raise TypeError(f"network: got {kind}, wanted a torch.nn.Module")
    if isinstance(network, torch.jit.ScriptModule):
        raise ValueError(f"network: {kind} is TorchScript, whose layers cannot be watched; give what it was made from")
    # Results of earlier passes that the network keeps, and weights computed from others, are no leaves of a graph.
    parts = [vars(module) for module in network.modules()]
    kept = {id(t): t.detach().clone() for t in tree_leaves(parts) if isinstance(t, Tensor) and t.grad_fn is not None}
    try:
        return copy.deepcopy(network, dict(kept))
    except Exception:  # a hook may belong to anything: a log file, a lock
        hooks = [hook for part in parts for key, table in part.items() if "hook" in key for hook in tree_leaves(table)]
        try:
            return copy.deepcopy(network, {**kept, **{id(hook): hook for hook in hooks}})
        except Exception as error:
            raise ValueError(
                f"network: {kind} cannot be copied ({error}); remove what is neither module nor tensor"
            ) from None


def cut(network: nn.Module, site: Site) -> tuple["Traced | Hooked", str]:
    """The network cut there, by tracing if possible, else by a hook; and a note for `repr`."""
    failure = ""
    for fold in (True, False) if "random" not in site.varies else ():
        try:
            traced = Traced(network, site, fold=fold)
        except Exception as error:  # tracing can fail in many ways; the hook needs no trace
            failure = failure or f"not traced ({type(error).__name__})"
            continue
        if traced.agrees(site):
            return traced, ", ".join(filter(None, (traced.note, site.note)))
        failure = "its trace computes something else"
    return Hooked(network, site), ", ".join(filter(None, (failure, "no folding, no fake ReLU", site.note)))


class Traced(nn.Module):
    """A network cut in its graph, batch norm folded: nothing after the cut is computed."""

    def __init__(self, network: nn.Module, site: Site, *, fold: bool):
        super().__init__()
        tracer = _Tracer()
        graph = tracer.trace(network)
        feature: Any = tracer.outputs[site.name].node
        feature = _last_call(graph, site.name).all_input_nodes[0] if site.before else feature
        # Both in the output while folding, so that a convolution whose own output is wanted is left alone.
        output: Any = graph.output_node()
        output.args = ((feature, output.args[0]),)
        traced: Any = fx.GraphModule(network, graph)  # shares leaves with the network, but not what holds them
        leaves = _count(traced)
        if fold and leaves:
            traced = fuse(traced, inplace=True, no_trace=True)
        output = traced.graph.output_node()
        feature, logits = output.args[0]
        end = _last_call(traced.graph, site.name) if site.before else feature.next
        relu, last = _last_relu(traced, feature)
        traced.add_submodule("fake_relu_", _Fake())
        self.batch = site.batch
        self.trunk = _copied(traced, feature, end)
        self.faked = _copied(traced, feature, end, relu) if relu else None
        # The map is upstream of the pooling, so it gets graphs of its own; the weights are shared.
        source, orders = _last_map(traced, feature, site)
        self.mapped = _copied(traced, source, source.next) if source else None
        self.mapped_faked = _copied(traced, source, source.next, relu) if source and relu else None
        self.order = orders[0]
        if self.mapped is not None and len(orders) > 1:  # as many channels as positions: their mean may tell
            with torch.no_grad():
                found = self.mapped(site.images.clone())
            means = {order: found.permute(order).flatten(2).mean(2) for order in orders}
            self.order = next((o for o, mean in means.items() if close(mean, site.features)), orders[0])
        self.head: nn.Linear | None = traced.get_submodule(site.name) if site.head else None
        self.whole = None if site.head else _copied(traced, logits, output)
        folded, norms = leaves - _count(traced), _count(network)  # a norm that is not a leaf was traced through
        self.note = f"batch norm {'folded' if folded else 'not folded'}" if norms else "no batch norm"
        self.note += f" in {folded} of {norms} layers" if 0 < folded < norms else ""
        self.note += "" if relu else f", no final ReLU ({last})"

    def features(self, x: Tensor, fake: bool) -> Tensor:
        """The representation before pooling over positions, images first."""
        return (self.faked if fake and self.faked is not None else self.trunk)(x).movedim(self.batch, 0)

    def maps(self, x: Tensor, fake: bool) -> Tensor | None:
        """The last map before pooling, (n, channels, h, w) or tokens (n, channels, tokens, 1); None where none is."""
        if self.mapped is None:
            return None
        found = (self.mapped_faked if fake and self.mapped_faked is not None else self.mapped)(x)
        found = found.permute(self.order)
        return found if found.ndim == 4 else found[..., None]

    def logits(self, x: Tensor) -> Tensor:
        """The network's logits."""
        return self.whole(x) if self.head is None else self.head(self.trunk(x))  # type: ignore[misc]

    def agrees(self, site: Site) -> bool:
        """Whether the cut gives what the network gave."""
        with torch.no_grad():
            features = [self.features(site.images.clone(), fake) for fake in (False, True)]
            logits = self.logits(site.images.clone())
        return close(logits, site.logits) and all(close(values, site.features) for values in features)


class _Tracer(fx.Tracer):
    """Remembers what each module returned at its last call."""

    def __init__(self) -> None:
        super().__init__()
        self.outputs: dict[str, Any] = {}

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, nn.Linear) or super().is_leaf_module(m, module_qualified_name)

    def call_module(self, m: nn.Module, forward: Callable, args: tuple, kwargs: dict) -> Any:
        self.outputs[self.path_of_module(m)] = result = super().call_module(m, forward, args, kwargs)
        return result


def _last_call(graph: fx.Graph, name: str) -> fx.Node:
    return next(node for node in reversed(graph.nodes) if (node.op, node.target) == ("call_module", name))


def _count(network: nn.Module) -> int:
    return sum(isinstance(module, _BatchNorm) for module in network.modules())


def _copied(network: fx.GraphModule, output: Any, end: Any, relu: Any = None) -> fx.GraphModule:
    """The network from its start to before `end`, weights shared, with `relu` faked."""
    graph, copied = fx.Graph(), dict[fx.Node, fx.Node]()
    for node in network.graph.nodes:
        if node is end:
            break
        if node is relu:
            copied[node] = graph.call_module("fake_relu_", (copied[node.all_input_nodes[0]],))
        else:
            copied[node] = graph.node_copy(node, copied.__getitem__)
    graph.output(fx.node.map_arg(output, copied.__getitem__))
    return fx.GraphModule(network, graph)


def _last_relu(network: fx.GraphModule, node: fx.Node) -> tuple[fx.Node | None, str]:
    """The ReLU that makes the features; where there is none, the name of what does."""
    while True:
        kind: Any = type(network.get_submodule(str(node.target))) if node.op == "call_module" else node.target
        if kind in _RELUS:
            return node, "ReLU"
        if kind not in _POOLS or not node.all_input_nodes:
            return None, getattr(kind, "__name__", str(kind))
        node = node.all_input_nodes[0]


def _last_map(network: fx.GraphModule, feature: fx.Node, site: Site) -> tuple[Any, list[tuple[int, ...]]]:
    """The node nearest before the features that still has positions, and which order makes it (n, channels, …).

    Several orders where several axes are as long as the features. On the way up only nodes of one input are passed,
    and no linear layer: beyond these lie other components.
    """
    shapes = []
    for images in (site.images, site.images[[0, 1, 0]]):
        with torch.no_grad():
            ShapeProp(network).propagate(images.clone())
        shapes.append({node: getattr(node.meta.get("tensor_meta"), "shape", ()) for node in network.graph.nodes})
    channels = [a for a in range(1, site.features.ndim) if a not in (site.positions or ())]
    node, wide = feature, math.prod(site.features.shape[a] for a in channels)
    for _ in range(16):  # pooling, norm, flattening and dropout are fewer
        shape, other = (found[node] for found in shapes)
        batch = [axis for axis, length in enumerate(shape) if length != other[axis]]
        if len(shape) in (3, 4) and len(batch) == 1 and (shape[batch[0]], other[batch[0]]) == (2, 3):
            rest = [axis for axis in range(len(shape)) if axis != batch[0]]
            own = [rest[axis - 1] for axis in channels] if node is feature else []
            fitting = own or [axis for axis in rest if shape[axis] == wide] or rest[:1]
            fitting = fitting[::-1] if len(shape) == 3 else fitting  # tokens before channels, maps after them
            if len(own) < 2 and math.prod(shape) > 2 * shape[fitting[0]]:  # more than one position
                return node, [(batch[0], one, *(axis for axis in rest if axis != one)) for one in fitting]
        mixing = node.op == "call_module" and isinstance(network.get_submodule(str(node.target)), nn.Linear | nn.Conv2d)
        inputs = [one for one in node.all_input_nodes if one.op != "get_attr"]  # without a norm's weights
        if mixing or len(inputs) != 1:
            break
        node = inputs[0]
    return None, [()]


class _Reached(Exception):
    """Thrown by a hook to leave the network's forward pass."""


class Hooked(nn.Module):
    """A network that cannot be traced, cut by a hook that throws."""

    def __init__(self, network: nn.Module, site: Site):
        super().__init__()
        self.network, self.site, self.before, self.calls = network, site.name, site.before, site.calls
        self.batch = site.batch
        self.head: Any = network.get_submodule(site.name) if site.head else None

    def features(self, x: Tensor, fake: bool) -> Tensor:
        """The representation before pooling over positions, images first; `fake` makes no difference."""
        seen: list[Tensor] = []

        def hook(module: nn.Module, args: tuple, kwargs: dict, output: Any = None) -> None:
            seen.append(_first(args, kwargs) if self.before else output)
            if len(seen) == self.calls:
                raise _Reached

        module = self.network.get_submodule(self.site)
        with _HOOKING:
            register: Any = module.register_forward_pre_hook if self.before else module.register_forward_hook
            handle = register(hook, with_kwargs=True)
            try:
                self.network(x)
            except _Reached:
                return seen[-1].movedim(self.batch, 0)
            finally:
                handle.remove()
        raise ValueError(
            f"layer {self.site!r} was called {len(seen)} times for these images and {self.calls} for the first ones: "
            "the network takes another path (an early exit?); name a layer= that all images pass"
        )

    def maps(self, x: Tensor, fake: bool) -> Tensor | None:
        """None: where the pooling begins, only a trace tells."""
        return None

    def logits(self, x: Tensor) -> Tensor:
        """The network's logits."""
        return self.network(x) if self.head is None else self.head(self.features(x, False))


def close(values: Tensor, wanted: Tensor) -> bool:
    """Equal but for rounding: strict on a CPU, where no TF32 or bfloat16 is allowed to stand in for float32."""
    loose = values.device.type != "cpu" or torch.get_float32_matmul_precision() != "highest"
    bound = (1e-2 if loose else 1e-4) * wanted.abs().max() + 1e-9
    return values.shape == wanted.shape and bool((values - wanted).abs().max() <= bound)
