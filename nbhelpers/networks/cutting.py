"""A network cut at its representation, by tracing or else by a hook."""

import contextlib
import math
import operator
import threading
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx.experimental.optimization import fuse
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm

from nbhelpers.networks.sites import Site, close, first_input

# Operations between the last ReLU and the representation that do not mix components.
_POOLS: tuple = (
    nn.AdaptiveAvgPool2d,
    nn.AvgPool2d,
    nn.Flatten,
    nn.Dropout,
    nn.Dropout2d,
    nn.Identity,
)
_POOLS += (
    functional.adaptive_avg_pool2d,
    functional.avg_pool2d,
    functional.dropout,
    torch.flatten,
    torch.mean,
)
_POOLS += (
    torch.reshape,
    torch.squeeze,
    torch.permute,
    torch.transpose,
    operator.getitem,
    "flatten",
    "view",
    "reshape",
)
_POOLS += ("mean", "squeeze", "permute", "transpose", "contiguous")
_RELUS: tuple = (
    nn.ReLU,
    functional.relu,
    functional.relu_,
    torch.relu,
    torch.relu_,
    "relu",
    "relu_",
)
_HOOKING = threading.Lock()  # hooks of two threads on one module see each other's passes


class FakeReLU(torch.autograd.Function):
    """ReLU with the gradient of the identity, so inactive components have one.

    Source: the reference code of Engstrom et al., arXiv:1906.00945; also only in the last block.
    """

    generate_vmap_rule = True  # for torch.func, as is the separate setup_context

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return x.clamp(min=0)

    @staticmethod
    def setup_context(ctx, inputs: tuple, output: Tensor) -> None:
        pass

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:
        return gradient

    @staticmethod
    def jvp(ctx, tangent: Tensor) -> Tensor:
        return tangent.view_as(tangent)


class FakeReLULayer(nn.Module):
    """`FakeReLU` as a module: tracing would see through the function, and pickling lose it."""

    def forward(self, x: Tensor) -> Tensor:
        return FakeReLU.apply(x)


def cut(network: nn.Module, site: Site) -> tuple["Traced | Hooked", str]:
    """The network cut at a site, by tracing if possible, else by a hook; and a note for `repr`."""
    failure = ""
    for fold in (True, False) if "random" not in site.varies else ():
        try:
            traced = Traced(network, site, fold=fold)
            agrees = traced.agrees(site)  # fails if a hook sets a folded weight
        except Exception as error:  # tracing can fail in many ways; the hook needs no trace
            failure = failure or f"not traced ({type(error).__name__})"
            continue
        if agrees:
            return traced, ", ".join(filter(None, (traced.note, site.note)))
        failure = "its trace computes something else"
    return Hooked(network, site), ", ".join(
        filter(None, (failure, "no folding, no fake ReLU", site.note))
    )


class Traced(nn.Module):
    """A network cut in its traced graph, batch norm folded."""

    def __init__(self, network: nn.Module, site: Site, *, fold: bool):
        super().__init__()
        tracer = _Tracer()
        graph = tracer.trace(network)
        feature: Any = tracer.outputs[site.name].node
        feature = _last_call(graph, site.name).all_input_nodes[0] if site.before else feature
        # Both are outputs while folding: no convolution whose own output is used is folded.
        graph.output_node().args = ((feature, graph.output_node().args[0]),)
        # shares leaf modules with the network, not their parents
        traced: Any = fx.GraphModule(network, graph)
        leaves = _count(traced)
        if fold and leaves:
            traced = fuse(traced, inplace=True, no_trace=True)
        output: Any = traced.graph.output_node()
        feature, logits = output.args[0]
        end = _last_call(traced.graph, site.name) if site.before else feature.next
        relu, last = _last_relu(traced, feature)
        traced.add_submodule("fake_relu_", FakeReLULayer())
        self.batch = site.batch
        self.trunk = _copied(traced, feature, end)
        self.faked = _copied(traced, feature, end, relu) if relu else None
        # The map before pooling has its own graphs; weights are shared.
        source, orders = _last_map(traced, feature, site)
        self.mapped = _copied(traced, source, source.next) if source else None
        self.mapped_faked = _copied(traced, source, source.next, relu) if source and relu else None
        self.order = orders[0]
        # as many channels as positions: compare their mean with the features
        if self.mapped is not None and len(orders) > 1:
            with torch.no_grad():
                found = self.mapped(site.images.clone())
            means = {order: found.permute(order).flatten(2).mean(2) for order in orders}
            self.order = next(
                (o for o, mean in means.items() if close(mean, site.features)), orders[0]
            )
        self.head: nn.Linear | None = traced.get_submodule(site.name) if site.head else None
        self.whole = None if site.head else _copied(traced, logits, output)
        # traced norms are no leaves
        folded, norms = (leaves - _count(traced), _count(network))
        self.note = (
            f"batch norm {'folded' if folded else 'not folded'}" if norms else "no batch norm"
        )
        self.note += f" in {folded} of {norms} layers" if 0 < folded < norms else ""
        self.note += "" if relu else f", no final ReLU ({last})"

    def features(self, x: Tensor, fake: bool) -> Tensor:
        """The representation before pooling over positions, images first."""
        return (self.faked if fake and self.faked is not None else self.trunk)(x).movedim(
            self.batch, 0
        )

    def maps(self, x: Tensor, fake: bool) -> Tensor | None:
        """The last map before pooling, (n, channels, h, w) or tokens (n, channels, tokens, 1)."""
        if self.mapped is None:
            return None
        found = (self.mapped_faked if fake and self.mapped_faked is not None else self.mapped)(
            x
        ).permute(self.order)
        return found if found.ndim == 4 else found[..., None]

    def logits(self, x: Tensor) -> Tensor:
        """The network's logits."""
        return self.whole(x) if self.head is None else self.head(self.trunk(x))  # type: ignore[misc]

    def agrees(self, site: Site) -> bool:
        """Whether the cut gives the network's features and logits."""
        with torch.no_grad():
            features = [self.features(site.images.clone(), fake) for fake in (False, True)]
            logits = self.logits(site.images.clone())
        return close(logits, site.logits) and all(
            close(values, site.features) for values in features
        )


class _Tracer(fx.Tracer):
    """Records each module's last output."""

    def __init__(self) -> None:
        super().__init__()
        self.outputs: dict[str, Any] = {}

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, nn.Linear) or super().is_leaf_module(m, module_qualified_name)

    def call_module(self, m: nn.Module, forward: Callable, args: tuple, kwargs: dict) -> Any:
        self.outputs[self.path_of_module(m)] = result = super().call_module(
            m, forward, args, kwargs
        )
        return result


def _last_call(graph: fx.Graph, name: str) -> fx.Node:
    return next(
        node for node in reversed(graph.nodes) if (node.op, node.target) == ("call_module", name)
    )


def _count(network: nn.Module) -> int:
    return sum(isinstance(module, _BatchNorm) for module in network.modules())


def _copied(network: fx.GraphModule, output: Any, end: Any, relu: Any = None) -> fx.GraphModule:
    """The graph before `end`, weights shared, `relu` replaced by a fake one."""
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
    """The ReLU before the features, if any, and the name of the last operation."""
    while True:
        kind: Any = (
            type(network.get_submodule(str(node.target)))
            if node.op == "call_module"
            else node.target
        )
        if kind in _RELUS:
            return node, "ReLU"
        if kind not in _POOLS or not node.all_input_nodes:
            return None, getattr(kind, "__name__", str(kind))
        node = node.all_input_nodes[0]


def _last_map(
    network: fx.GraphModule, feature: fx.Node, site: Site
) -> tuple[Any, list[tuple[int, ...]]]:
    """The last node with positions before the features, and the axis orders (n, channels, …).

    Several orders if a smaller image does not decide. The search passes only nodes of one input,
    and no linear layer, since those mix components.
    """
    shapes = []
    for images in (site.images, site.images[[0, 1, 0]], site.images[:, :, ::2, ::2]):
        run = fx.Interpreter(network, garbage_collect_values=False)
        # a fixed-size network fails partway on the smaller images
        with torch.no_grad(), contextlib.suppress(Exception):
            run.run(images.clone())
        shapes.append({node: tuple(getattr(value, "shape", ())) for node, value in run.env.items()})
    channels = [a for a in range(1, site.features.ndim) if a not in (site.positions or ())]
    node, wide = feature, math.prod(site.features.shape[a] for a in channels)
    for _ in range(16):  # more than any pooling, norm, flattening and dropout
        shape, other, small = (found.get(node, ()) for found in shapes)
        batch = [axis for axis, length in enumerate(shape) if length != other[axis]]
        if (
            len(shape) in (3, 4)
            and len(batch) == 1
            and (shape[batch[0]], other[batch[0]]) == (2, 3)
        ):
            rest = [axis for axis in range(len(shape)) if axis != batch[0]]
            own = [
                axis for axis in rest if len(small) == len(shape) and small[axis] == shape[axis] > 1
            ]
            own = (
                [rest[a - 1] for a in channels] if node is feature else own * (len(own) < len(rest))
            )
            fitting = own or [axis for axis in rest if shape[axis] == wide] or rest[:1]
            # (tokens, channels), but (channels, h, w)
            fitting = fitting[::-1] if len(shape) == 3 else fitting
            if len(own) < 2 and math.prod(shape) > 2 * shape[fitting[0]]:  # more than one position
                return node, [
                    (batch[0], one, *(axis for axis in rest if axis != one)) for one in fitting
                ]
        mixing = node.op == "call_module" and isinstance(
            network.get_submodule(str(node.target)), nn.Linear | nn.Conv2d
        )
        # excluding a norm's weights
        inputs = [one for one in node.all_input_nodes if one.op != "get_attr"]
        if mixing or len(inputs) != 1:
            break
        node = inputs[0]
    return None, [()]


class _Reached(Exception):
    """Raised by a hook to end the forward pass."""


class Hooked(nn.Module):
    """An untraceable network, cut by a hook that raises."""

    def __init__(self, network: nn.Module, site: Site):
        super().__init__()
        self.network, self.site, self.before, self.calls = (
            network,
            site.name,
            site.before,
            site.calls,
        )
        self.batch = site.batch
        self.head: Any = network.get_submodule(site.name) if site.head else None

    def features(self, x: Tensor, fake: bool) -> Tensor:
        """The representation before pooling over positions, images first; ignores `fake`."""
        seen: list[Tensor] = []

        def hook(module: nn.Module, args: tuple, kwargs: dict, output: Any = None) -> None:
            seen.append(first_input(args, kwargs) if self.before else output)
            if len(seen) == self.calls:
                raise _Reached

        module = self.network.get_submodule(self.site)
        with _HOOKING:
            register: Any = (
                module.register_forward_pre_hook if self.before else module.register_forward_hook
            )
            handle = register(hook, with_kwargs=True)
            try:
                self.network(x)
            except _Reached:
                return seen[-1].movedim(self.batch, 0)
            finally:
                handle.remove()
        raise ValueError(
            f"layer {self.site!r} was called {len(seen)} times for these images and {self.calls} "
            "for the first ones: the network takes another path (an early exit?); name a layer= "
            "that all images pass"
        )

    def maps(self, x: Tensor, fake: bool) -> Tensor | None:
        """None: finding the pooling needs a trace."""
        return None

    def logits(self, x: Tensor) -> Tensor:
        """The network's logits."""
        return self.network(x) if self.head is None else self.head(self.features(x, False))
