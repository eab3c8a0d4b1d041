"""Where a classifier's representation is, and the network cut there: traced if it can be, hooked if not."""

import difflib
import operator
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx.experimental.optimization import fuse
from torch.fx.passes.shape_prop import ShapeProp
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils._pytree import tree_map_only

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


def fake_relu(x: Tensor) -> Tensor:
    """Apply `FakeReLU`."""
    return FakeReLU.apply(x)


@dataclass(frozen=True)
class Site:
    """Where to cut a network, and what it gives for two noise images."""

    name: str  # of a module
    before: bool  # the representation is the module's input, not its output
    calls: int  # how often a pass calls the module; the last call counts
    head: bool  # the module is a Linear, and its output the logits
    note: str
    images: Tensor
    logits: Tensor  # of the network, before a final softmax
    features: Tensor  # the representation before pooling over positions


def find(network: nn.Module, layer: str | None, channels: int, image_size: int | None) -> Site:
    """Run the network on noise, and see which module's input (or `layer`'s output) is the representation.

    Raises:
        ValueError: an unknown or unused layer, no linear layer, or a network that does not give logits.
    """
    kind, modules = type(network).__name__, {name: module for name, module in network.named_modules() if name}
    if layer is not None and layer not in modules:
        near = difflib.get_close_matches(layer, modules, n=4, cutoff=0.4) or [
            name for name, _ in network.named_children()
        ]
        raise ValueError(f"layer: got {layer!r}, no module of {kind}; near names: {', '.join(near)}")
    seen: list[tuple[str, tuple, Any]] = []  # a call's module, inputs and output

    def watch(name: str) -> Callable:
        # Cloned, as an in-place ReLU may overwrite later what the module returned.
        return lambda _, inputs, output: seen.append((name, *tree_map_only(Tensor, Tensor.clone, (inputs, output))))

    watched = [layer] if layer else [name for name, module in modules.items() if isinstance(module, nn.Linear)]
    handles = [modules[name].register_forward_hook(watch(name)) for name in watched]
    try:
        images, logits = _try(network, seen, channels, image_size)
    finally:
        for handle in handles:
            handle.remove()
    if not seen:
        why = f"layer {layer!r} is never called" if layer else "no torch.nn.Linear to take for the head; name a layer="
        raise ValueError(f"{kind}: {why}")
    name, inputs, output = seen[-1]
    if layer is not None:
        if not isinstance(output, Tensor) or output.ndim < 2:
            raise ValueError(f"layer: {layer!r} returns {type(output).__name__}, wanted a tensor (n, …)")
        return Site(name, False, len(seen), False, "", images, logits, output)
    note = f"logits are not the output of {name}: no head"
    for candidate, given, result in reversed(seen):
        linear: Any = modules[candidate]
        if result.shape != logits.shape or not close(functional.linear(given[0], linear.weight, linear.bias), result):
            continue
        softmaxes = {"": result, "softmax": result.softmax(1), "log-softmax": result.log_softmax(1)}
        matching = [final for final, values in softmaxes.items() if close(values, logits)]
        if matching:
            name, inputs, logits = candidate, given, result
            note = f"final {matching[0]} left out" if matching[0] else ""
            break
    else:
        candidate = ""
    calls = sum(other == name for other, _, _ in seen)
    return Site(name, True, calls, bool(candidate), note, images, logits, inputs[0])


def _try(network: nn.Module, seen: list, channels: int, image_size: int | None) -> tuple[Tensor, Tensor]:
    """Two noise images of the first size that the network takes, and its logits."""
    kind, weight, failure = type(network).__name__, next(network.parameters(), torch.empty(0)), ""
    for size in (image_size,) if image_size else _SIZES:
        seen.clear()
        noise = torch.randn(2, channels, size, size, generator=torch.Generator().manual_seed(0)).to(weight.device)
        try:
            with torch.no_grad():
                logits = network(noise.clone())
        except Exception as error:  # whatever a foreign network does with a size it does not take
            failure = failure or f"{type(error).__name__}: {error}"
            continue
        if not isinstance(logits, Tensor) or logits.ndim != 2:
            got = f"shape {tuple(logits.shape)}" if isinstance(logits, Tensor) else f"a {type(logits).__name__}"
            raise ValueError(f"{kind}: returns {got}, wanted logits (n, classes); wrap it in a module that does")
        return noise, logits
    sizes = image_size or ", ".join(map(str, _SIZES))
    raise ValueError(f"{kind}: does not run on {channels} channels of {sizes} pixels: {failure}")


def cut(network: nn.Module, site: Site) -> tuple["Traced | Hooked", str]:
    """The network cut there, by tracing if possible, else by a hook; and a note for `repr`."""
    failure = ""
    for fold in (True, False):
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
        feature: Any = _last_call(graph, site.name).args[0] if site.before else tracer.outputs[site.name].node
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
        self.trunk = _copied(traced, feature, end)
        self.faked = _copied(traced, feature, end, relu) if relu else None
        # The map is upstream of the pooling, so it gets graphs of its own; the weights are shared.
        source, self.channels_last = _last_map(traced, feature, site)
        self.mapped = _copied(traced, source, source.next) if source else None
        self.mapped_faked = _copied(traced, source, source.next, relu) if source and relu else None
        self.head: nn.Linear | None = traced.get_submodule(site.name) if site.head else None
        self.whole = None if site.head else _copied(traced, logits, output)
        folded, norms = leaves - _count(traced), _count(network)  # a norm that is not a leaf was traced through
        self.note = f"batch norm {'folded' if folded else 'not folded'}" if norms else "no batch norm"
        self.note += f" in {folded} of {norms} layers" if 0 < folded < norms else ""
        self.note += "" if relu else f", no final ReLU ({last})"

    def features(self, x: Tensor, fake: bool) -> Tensor:
        """The representation before pooling over positions."""
        return (self.faked if fake and self.faked is not None else self.trunk)(x)

    def maps(self, x: Tensor, fake: bool) -> Tensor | None:
        """The last map before pooling, (n, channels, h, w) or tokens (n, channels, tokens, 1); None where none is."""
        if self.mapped is None:
            return None
        found = (self.mapped_faked if fake and self.mapped_faked is not None else self.mapped)(x)
        found = found.movedim(-1, 1) if self.channels_last else found
        return found if found.ndim == 4 else found[..., None]

    def logits(self, x: Tensor) -> Tensor:
        """The network's logits."""
        return self.whole(x) if self.head is None else self.head(self.trunk(x))  # type: ignore[misc]

    def agrees(self, site: Site) -> bool:
        """Whether the cut gives what the network gave."""
        with torch.no_grad():
            features = [trunk(site.images.clone()) for trunk in (self.trunk, self.faked) if trunk is not None]
            logits = self.head(features[0]) if self.head is not None else self.logits(site.images.clone())
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
            copied[node] = graph.call_function(fake_relu, (copied[node.all_input_nodes[0]],))
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


def _last_map(network: fx.GraphModule, feature: fx.Node, site: Site) -> tuple[Any, bool]:
    """The node nearest before the features that still has positions, and whether its channels come last.

    On the way up only nodes of one input are passed, and no linear layer: beyond these lie other components.
    """
    with torch.no_grad():
        ShapeProp(network).propagate(site.images.clone())
    node, wide = feature, site.features.shape[1] if site.before else 0
    for _ in range(16):  # pooling, norm, flattening and dropout are fewer
        shape = getattr(node.meta.get("tensor_meta"), "shape", torch.Size())
        if len(shape) in (3, 4) and shape[1:].numel() > max(shape[1], shape[-1]):  # more than one position
            return node, shape[-1] == wide and (len(shape) == 3 or shape[1] != wide)
        mixing = node.op == "call_module" and isinstance(network.get_submodule(str(node.target)), nn.Linear | nn.Conv2d)
        inputs = [one for one in node.all_input_nodes if one.op != "get_attr"]  # without a norm's weights
        if mixing or len(inputs) != 1:
            break
        node = inputs[0]
    return None, False


class _Reached(Exception):
    """Thrown by a hook to leave the network's forward pass."""


class Hooked(nn.Module):
    """A network that cannot be traced, cut by a hook that throws."""

    def __init__(self, network: nn.Module, site: Site):
        super().__init__()
        self.network, self.site, self.before, self.calls = network, site.name, site.before, site.calls
        self.head: Any = network.get_submodule(site.name) if site.head else None

    def features(self, x: Tensor, fake: bool) -> Tensor:
        """The representation before pooling over positions; `fake` makes no difference."""
        seen: list[Tensor] = []

        def hook(module: nn.Module, inputs: tuple, output: Any = None) -> None:
            seen.append(inputs[0] if self.before else output)
            if len(seen) == self.calls:
                raise _Reached

        module = self.network.get_submodule(self.site)
        with _HOOKING:
            handle = (module.register_forward_pre_hook if self.before else module.register_forward_hook)(hook)
            try:
                self.network(x)
            except _Reached:
                pass
            finally:
                handle.remove()
        return seen[-1]

    def maps(self, x: Tensor, fake: bool) -> Tensor | None:
        """None: where the pooling begins, only a trace tells."""
        return None

    def logits(self, x: Tensor) -> Tensor:
        """The network's logits."""
        return self.network(x) if self.head is None else self.head(self.features(x, False))


def close(values: Tensor, wanted: Tensor) -> bool:
    """Equal but for rounding, TF32's included; a wrong trace is off by far more."""
    return values.shape == wanted.shape and bool((values - wanted).abs().max() <= 1e-2 * wanted.abs().max() + 1e-6)
