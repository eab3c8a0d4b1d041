"""A network for the exported page: its traced, folded graph as a list of operations, its weights
in half precision.
"""

import base64
import copy
from collections.abc import Callable, Sequence
from typing import Any

import numpy
import torch
from torch import Tensor, fx, nn
from torch.fx.passes.shape_prop import ShapeProp

from nbhelpers.networks.cutting import FakeReLULayer, Traced
from nbhelpers.networks.model import Model
from nbhelpers.page.operations import ACTIVATIONS, IDENTITIES, RESHAPES, SKIPPED, Rule, rule_of
from nbhelpers.types import Images


def export_network(model: Model) -> dict[str, Any]:
    """What `engine.js` needs to compute a model's representation, its gradient and its logits.

    Args:
        model: traced, with a linear head and maps of channels first.

    Returns:
        `nodes`, operations in order, each with the indices of its inputs (node 0 is the normalised
        image); `map` and `features`, the nodes of both forms of the representation; `layers`, the
        nodes that blocks end on, with their size as a name; `tensors`,
        the place of each tensor among `floats` numbers of float32 and `halves` of half precision;
        `weights`, these numbers, see `packed`; `mean`, `std`, `classes`, `sides`, `components`.

    Raises:
        ValueError: the network was not traced, or has an operation that the page does not know; the
            message names it.
    """
    parts = model.parts
    if not isinstance(parts, Traced):
        raise ValueError(
            f"{model.name}: was not traced ({model.note}), so the page cannot compute it"
        )
    if parts.head is None:
        raise ValueError(
            f"{model.name}: the representation is layer {model.layer!r}, without a head; load it "
            "without"
        )
    if parts.batch != 0 or (parts.mapped is not None and parts.order != (0, 1, 2, 3)):
        raise ValueError(
            f"{model.name}: its representation is made of tokens; the page knows maps of channels "
            "only"
        )
    graph = parts.faked if parts.faked is not None else parts.trunk
    mapped = parts.mapped_faked if parts.mapped_faked is not None else parts.mapped
    writer = _Writer(model, graph)
    features = writer.write()
    source = None if mapped is None else writer.places[_output(mapped).name]
    head = parts.head
    writer.nodes.append(
        {"op": "linear", "from": [features], **writer.linear(head.weight, head.bias)}
    )
    return {
        "nodes": writer.nodes,
        "map": features if source is None else source,
        "features": features,
        "logits": len(writer.nodes) - 1,
        "layers": writer.layers(),
        "positions": list(model.positions),
        "tensors": writer.tensors,
        "floats": sum(map(len, writer.floats)),
        "halves": sum(map(len, writer.halves)),
        "weights": packed(numpy.concatenate(writer.floats), numpy.concatenate(writer.halves)),
        "mean": model.mean.flatten().tolist(),
        "std": model.std.flatten().tolist(),
        "classes": list(model.classes),
        "sides": list(model.sides),
        "components": model.components,
    }


def layer_of(model: Model, node: int) -> Callable[[Images], Tensor]:
    """What a node of the exported network is of images, (n, numbers), as PyTorch computes it."""
    parts = model.parts
    assert isinstance(parts, Traced)
    graph = parts.faked if parts.faked is not None else parts.trunk
    writer = _Writer(model, graph)
    writer.write()
    name = next(name for name, place in writer.places.items() if place == node)
    cut = fx.GraphModule(graph, copy.deepcopy(graph.graph))
    cut.graph.erase_node(cut.graph.output_node())
    cut.graph.output(next(one for one in cut.graph.nodes if one.name == name))
    cut.graph.eliminate_dead_code()
    cut.recompile()
    return lambda images: cut((images - model.mean) / model.std).flatten(1)


def stored(tensor: Tensor) -> tuple[numpy.ndarray, numpy.ndarray]:
    """A weight (…, out) in half precision, and for each output the float32 that one is worth.

    Folding multiplies a checkpoint's half-precision weights with one number for each output. Where
    that number can be found again, nothing is lost by storing halves; else they are rounded. It
    matters: hundreds of steps amplify a weight's rounding until the pictures of the standard
    network are others.
    """
    values = tensor.detach().cpu().double().numpy()
    flat = values.reshape(-1, values.shape[-1])
    largest = numpy.abs(flat).max(0)
    scale = numpy.where(largest > 0, largest, 1) / 2047
    for k in (largest > 0).nonzero()[0]:
        found = _divisor(flat[:, k])
        scale[k] = scale[k] if found is None else found
    return (values / scale).astype("<f2"), scale.astype("<f4")


def packed(floats: numpy.ndarray, halves: numpy.ndarray) -> str:
    """Numbers as base64 of float32, then half precision, both little-endian."""
    content = floats.astype("<f4").tobytes() + halves.astype("<f2").tobytes()
    return base64.b64encode(content).decode()


def _divisor(values: numpy.ndarray) -> float | None:
    """The common factor by which all values are half-precision numbers, or None."""
    largest = numpy.abs(values).argmax()
    # all mantissas that the largest may have
    candidates = numpy.abs(values[largest]) / numpy.arange(1024, 2048)
    spread = values[numpy.linspace(0, len(values) - 1, min(len(values), 12)).astype(int)]
    candidates = candidates[_are_halves(spread[:, None] / candidates).all(0)]
    for candidate in candidates:
        quotients = values / candidate
        if _are_halves(quotients).all():
            halves = quotients.astype("f2").astype(float)
            return float((values * halves).sum() / (halves * halves).sum())
    return None


def _are_halves(numbers: numpy.ndarray) -> numpy.ndarray:
    """Which are half-precision numbers but for the rounding of float32."""
    mantissas = numpy.frexp(numbers)[0] * 2048
    return numpy.abs(mantissas - numpy.round(mantissas)) < 5e-4


class _Writer:
    """Goes through a graph once and gathers its nodes and its bytes."""

    def __init__(self, model: Model, graph: fx.GraphModule):
        self.model, self.graph = model, graph
        self.nodes: list[dict[str, Any]] = []
        self.places: dict[str, int] = {}  # by the name in the graph
        self.shapes: dict[int, tuple[int, ...]] = {}
        self.tensors: list[dict[str, Any]] = []
        self.floats: list[numpy.ndarray] = []  # vectors, and what a half of each weight is worth
        self.halves: list[numpy.ndarray] = []
        self._kept: dict[tuple[int, str], int] = {}  # a layer that is called twice is stored once
        with torch.no_grad():
            zeros = torch.zeros(2, model.channels, *model.sides, device=model.device)
            ShapeProp(graph).propagate(zeros)

    def write(self) -> int:
        """All nodes; returns the place of the representation, averaged over positions."""
        for node in self.graph.graph.nodes:
            if node.op == "placeholder":
                self._add(node, {"op": "input", "from": []})
            elif node.op == "output":
                return self._averaged(node.args[0])
            elif _shape(node) is not None and not self._skipped(node):
                self._node(node)
        raise AssertionError("a graph without an output")

    def layers(self) -> list[dict[str, Any]]:
        """Where blocks end: activations of sums, or else activations before a change of size."""
        maps = [k for k, shape in self.shapes.items() if self.nodes[k]["op"] in ACTIVATIONS]
        maps = [k for k in maps if len(self.shapes[k]) == 4]
        sums = [k for k in maps if self.nodes[self.nodes[k]["from"][0]]["op"] == "add"]
        sizes = [self.shapes[k][1:] for k in maps]
        following = [*sizes[1:], None][: len(sizes)]
        ends = [k for k, one, two in zip(maps, sizes, following, strict=True) if one != two]
        return [
            {"node": k, "name": "{1} × {2} × {0}".format(*self.shapes[k][1:])} for k in sums or ends
        ]

    def linear(self, weight: Tensor, bias: Tensor | None) -> dict[str, int]:
        """A linear layer's tensors, (in, out) and (out,)."""
        found = {"weight": self._weight(weight.T)}
        return found if bias is None else found | {"bias": self._vector(bias)}

    def _averaged(self, node: fx.Node) -> int:
        place, shape = self.places[node.name], _shape(node)
        assert shape is not None
        if len(shape) == 2:
            return place
        if (
            len(shape) != 4
            or (self.model.pooled_axes != (2, 3) and shape[2:] != (1, 1))
            or self.model.pool != "mean"
        ):
            self._refuse(node, f"a representation of shape {shape[1:]}")
        self.nodes.append({"op": "mean", "from": [place]})
        return len(self.nodes) - 1

    def _node(self, node: fx.Node) -> None:
        module = self.graph.get_submodule(str(node.target)) if node.op == "call_module" else None
        if node.op == "get_attr":
            self._constant(node)
            return
        if isinstance(module, FakeReLULayer):
            self._add(node, {"op": "fake_relu", "from": self._inputs(node)})
            return
        kind = node.target if module is None else type(module)
        if isinstance(module, nn.Conv2d):
            self._add(node, self._convolution(node, module))
        elif isinstance(module, nn.Linear) and len(_shape(node) or ()) == 2:
            inputs = self._inputs(node)
            self._add(
                node, {"op": "linear", "from": inputs, **self.linear(module.weight, module.bias)}
            )
        elif (
            isinstance(module, nn.BatchNorm2d)
            and module.running_mean is not None
            and not module.training
        ):
            self._add(node, self._norm(node, module))
        elif kind in IDENTITIES:
            self.places[node.name] = self._inputs(node)[0]
        elif kind in RESHAPES:
            self._reshaped(node)
        elif (rule := rule_of(kind)) is not None:
            self._ruled(node, rule, module)
        else:
            self._refuse(node, getattr(kind, "__name__", str(kind)))

    def _ruled(self, node: fx.Node, rule: Rule, module: nn.Module | None) -> None:
        given = rule.options(node, module)
        shapes = [_shape(one) or () for one in node.all_input_nodes]
        found = rule.write(given, shapes, _shape(node) or ())
        if isinstance(found, str):
            raise self._refusal(node, found)
        inputs = self._inputs(node)
        wanted = rule.inputs
        if (
            wanted == 2
            and len(inputs) == 1
            and len(node.all_input_nodes) == 1
            and node.args[:2].count(node.args[0]) > 1
        ):
            inputs = inputs * 2  # x + x
        self._add(node, {"op": rule.op, "from": inputs, **found})

    def _convolution(self, node: fx.Node, layer: nn.Conv2d) -> dict[str, Any]:
        if layer.padding_mode != "zeros" or isinstance(layer.padding, str):
            kind = layer.padding if isinstance(layer.padding, str) else layer.padding_mode
            self._refuse(node, f"a convolution padded with {kind!r}")
        found: dict[str, Any] = {"op": "conv", "from": self._inputs(node)}
        found["weight"] = self._weight(layer.weight.permute(2, 3, 1, 0), id(layer.weight))
        if layer.bias is not None:
            found["bias"] = self._vector(layer.bias, id(layer.bias))
        own = {"stride": layer.stride, "padding": layer.padding, "dilation": layer.dilation}
        return found | {key: list(value) for key, value in own.items()} | {"groups": layer.groups}

    def _norm(self, node: fx.Node, layer: nn.BatchNorm2d) -> dict[str, Any]:
        assert layer.running_mean is not None and layer.running_var is not None
        scale = (layer.running_var.double() + layer.eps).rsqrt()
        scale = scale if layer.weight is None else scale * layer.weight
        shift = -layer.running_mean * scale + (0 if layer.bias is None else layer.bias)
        return {
            "op": "affine",
            "from": self._inputs(node),
            "scale": self._vector(scale),
            "shift": self._vector(shift),
        }

    def _constant(self, node: fx.Node) -> None:
        shape = _shape(node) or ()
        value: Any = self.graph
        for name in str(node.target).split("."):
            value = getattr(value, name)
        if not isinstance(value, Tensor) or not (
            (len(shape) == 4 and shape[0] == 1) or len(shape) == 3
        ):
            self._refuse(node, f"a constant of shape {shape}")
        if shape[-2:] != (1, 1):
            self._refuse(node, f"a constant of shape {shape}, not one number a channel")
        self._add(node, {"op": "constant", "from": [], "value": self._vector(value.flatten())})

    def _reshaped(self, node: fx.Node) -> None:
        before, after = _shape(node.all_input_nodes[0]) or (), _shape(node) or ()
        if before == after:
            self.places[node.name] = self._inputs(node)[0]
        elif len(before) == 4 and len(after) == 2 and before[0] == after[0]:
            self._add(node, {"op": "flatten", "from": self._inputs(node)[:1]})
        elif len(before) == 2 and len(after) == 4 and after == (*before, 1, 1):
            self._add(node, {"op": "unflatten", "from": self._inputs(node)[:1]})
        else:
            self._refuse(node, f"a change of shape from {before} to {after}")

    def _inputs(self, node: fx.Node) -> list[int]:
        for one in node.all_input_nodes:
            if _shape(one) is not None and one.name not in self.places:
                self._refuse(node, f"what {one.name} gives it")
        return [self.places[one.name] for one in node.all_input_nodes if one.name in self.places]

    def _skipped(self, node: fx.Node) -> bool:
        return node.op in ("call_method", "call_function") and node.target in SKIPPED

    def _add(self, node: fx.Node, written: dict[str, Any]) -> None:
        self.places[node.name] = len(self.nodes)
        self.shapes[len(self.nodes)] = _shape(node) or ()
        self.nodes.append(written)

    def _weight(self, tensor: Tensor, key: int = 0) -> int:
        if key and (key, "w") in self._kept:
            return self._kept[key, "w"]
        halves, scale = stored(tensor)
        about = {"shape": list(tensor.shape), "halves": sum(map(len, self.halves))}
        self.halves.append(halves.ravel())
        return self._store(about, scale, (key, "w"))

    def _vector(self, tensor: Tensor, key: int = 0) -> int:
        if key and (key, "v") in self._kept:
            return self._kept[key, "v"]
        values = tensor.detach().cpu().float().numpy()
        return self._store({"shape": list(tensor.shape)}, values.ravel(), (key, "v"))

    def _store(self, about: dict[str, Any], floats: numpy.ndarray, key: tuple[int, str]) -> int:
        self.tensors.append(about | {"floats": sum(map(len, self.floats))})
        self.floats.append(floats.astype("<f4"))
        self._kept[key] = len(self.tensors) - 1
        return len(self.tensors) - 1

    def _refuse(self, node: fx.Node, what: str) -> None:
        raise self._refusal(node, what)

    def _refusal(self, node: fx.Node, what: str) -> ValueError:
        return ValueError(
            f"{self.model.name}: the page cannot compute {what} (at {node.name!r}); leave this "
            "network out of it"
        )


def _shape(node: fx.Node) -> tuple[int, ...] | None:
    found = node.meta.get("tensor_meta")
    shape: Sequence[int] | None = getattr(found, "shape", None)
    return None if shape is None else tuple(shape)


def _output(graph: fx.GraphModule) -> fx.Node:
    node: Any = graph.graph.output_node()
    return node.args[0]
