"""Which operations of PyTorch the page's engine knows, by what name, and how their options are
written down.
"""

import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx, nn
from torch.nn import functional

Shapes = Sequence[Sequence[int]]
Written = dict[str, Any] | str  # options for the engine, or what it cannot do


@dataclass(frozen=True)
class Rule:
    """How one operation is written down."""

    op: str  # its name in engine.js
    kinds: tuple  # modules, functions and names of methods
    names: dict[str, Any]  # options after the inputs, in the function's order, with their defaults
    # options, shapes of inputs, shape of the output
    check: Callable[[dict, Shapes, Sequence[int]], Written]
    inputs: int = 1

    def options(self, node: fx.Node, module: nn.Module | None) -> dict[str, Any]:
        """The options by name, of a module's attributes or of a call's arguments."""
        if module is not None:
            return {name: getattr(module, name, default) for name, default in self.names.items()}
        given = dict(zip(self.names, node.args[self.inputs :], strict=False))
        return {
            **self.names,
            **given,
            **{key: node.kwargs[key] for key in self.names if key in node.kwargs},
        } | {"args": node.args}

    def write(self, options: dict[str, Any], inputs: Shapes, output: Sequence[int]) -> Written:
        """The options as the engine wants them, or what it cannot do."""
        return self.check(options, inputs, output)


def rule_of(kind: Any) -> Rule | None:
    """The rule for a module's type, a function or a method's name."""
    return _BY_KIND.get(kind)


def pair(value: Any) -> list[int]:
    """Two numbers of one or two."""
    return [int(value)] * 2 if isinstance(value, int) else [int(one) for one in value]


def _plain(*wanted: str) -> Callable[[dict, Shapes, Sequence[int]], Written]:
    return lambda options, _, __: {name: float(options[name]) for name in wanted}


def _pool(options: dict, shapes: Shapes, output: Sequence[int]) -> Written:
    kernel = pair(options["kernel_size"])
    stride = pair(kernel if options["stride"] in (None, [], ()) else options["stride"])
    padding, dilation = pair(options["padding"]), pair(options.get("dilation", 1))
    if dilation != [1, 1] or options.get("return_indices") or options.get("divisor_override"):
        return "pooling with a dilation, indices or a divisor"
    for k in (0, 1):  # `ceil_mode` matters only where it makes one more
        if output[2 + k] != (shapes[0][2 + k] + 2 * padding[k] - kernel[k]) // stride[k] + 1:
            return "pooling with ceil_mode"
    found: dict[str, Any] = {"kernel": kernel, "stride": stride, "padding": padding}
    if "count_include_pad" in options and any(padding):
        found["inside"] = not options["count_include_pad"]
    return found


def _adaptive(options: dict, shapes: Shapes, output: Sequence[int]) -> Written:
    kernel = [size // wanted for size, wanted in zip(shapes[0][2:], output[2:], strict=True)]
    if [a * b for a, b in zip(kernel, output[2:], strict=True)] != list(shapes[0][2:]):
        return f"adaptive pooling from {tuple(shapes[0][2:])} to {tuple(output[2:])}"
    return {"kernel": kernel, "stride": kernel, "padding": [0, 0]}


def _mean(options: dict, shapes: Shapes, output: Sequence[int]) -> Written:
    dims = options["dim"] if isinstance(options["dim"], list | tuple) else [options["dim"]]
    if len(shapes[0]) != 4 or {None if d is None else d % 4 for d in dims} != {2, 3}:
        return f"a mean over {options['dim']}"
    return {"keep": len(output) == 4}


def _gelu(options: dict, _: Shapes, __: Sequence[int]) -> Written:
    return {"tanh": options["approximate"] == "tanh"}


def _softplus(options: dict, _: Shapes, __: Sequence[int]) -> Written:
    return {"beta": float(options["beta"])}


def _two(options: dict, shapes: Shapes, output: Sequence[int]) -> Written:
    """Of two tensors; one may have one number per channel, or of a tensor and a number."""
    if options.get("alpha", 1) != 1:
        return "a sum with alpha"
    if any(len(shape) not in (2, 3, 4) for shape in shapes):
        return f"arithmetic of shapes {[tuple(shape) for shape in shapes]}"
    if len(shapes) == 2 or options["args"][0] is options["args"][1]:
        return {}
    first, second = options["args"][:2]
    number = second if isinstance(first, fx.Node) else first
    if not isinstance(number, int | float):
        return f"arithmetic with {number!r}"
    return {"number": float(number), "first": isinstance(first, fx.Node)}


def _cat(options: dict, shapes: Shapes, output: Sequence[int]) -> Written:
    if options["dim"] % len(output) != 1:
        return f"a concatenation along axis {options['dim']}"
    return {}


def _activations() -> list[Rule]:
    f, rules = functional, []
    table: list[tuple[str, tuple, dict[str, Any], Any]] = [
        (
            "relu",
            (nn.ReLU, f.relu, f.relu_, torch.relu, torch.relu_, "relu", "relu_"),
            {},
            _plain(),
        ),
        ("relu6", (nn.ReLU6, f.relu6), {}, _plain()),
        (
            "leaky_relu",
            (nn.LeakyReLU, f.leaky_relu, f.leaky_relu_),
            {"negative_slope": 0.01},
            _plain("negative_slope"),
        ),
        ("elu", (nn.ELU, f.elu, f.elu_), {"alpha": 1.0}, _plain("alpha")),
        ("celu", (nn.CELU, f.celu, f.celu_), {"alpha": 1.0}, _plain("alpha")),
        ("selu", (nn.SELU, f.selu, f.selu_), {}, _plain()),
        ("sigmoid", (nn.Sigmoid, f.sigmoid, torch.sigmoid, "sigmoid", "sigmoid_"), {}, _plain()),
        ("tanh", (nn.Tanh, f.tanh, torch.tanh, "tanh", "tanh_"), {}, _plain()),
        ("silu", (nn.SiLU, f.silu), {}, _plain()),
        ("gelu", (nn.GELU, f.gelu), {"approximate": "none"}, _gelu),
        ("softplus", (nn.Softplus, f.softplus), {"beta": 1.0, "threshold": 20.0}, _softplus),
        ("mish", (nn.Mish, f.mish), {}, _plain()),
        (
            "hardtanh",
            (nn.Hardtanh, f.hardtanh),
            {"min_val": -1.0, "max_val": 1.0},
            _plain("min_val", "max_val"),
        ),
        ("hardsigmoid", (nn.Hardsigmoid, f.hardsigmoid), {}, _plain()),
        ("hardswish", (nn.Hardswish, f.hardswish), {}, _plain()),
    ]
    for op, kinds, names, check in table:
        rules.append(Rule(op, kinds, names, check))
    return rules


_POOL: dict[str, Any] = {"kernel_size": None, "stride": None, "padding": 0}
_RULES = [
    *_activations(),
    Rule(
        "avg_pool",
        (nn.AvgPool2d, functional.avg_pool2d),
        {**_POOL, "ceil_mode": False, "count_include_pad": True, "divisor_override": None},
        _pool,
    ),
    Rule(
        "max_pool",
        (nn.MaxPool2d, functional.max_pool2d, torch.max_pool2d),
        {**_POOL, "dilation": 1, "ceil_mode": False, "return_indices": False},
        _pool,
    ),
    Rule(
        "avg_pool",
        (nn.AdaptiveAvgPool2d, functional.adaptive_avg_pool2d),
        {"output_size": 1},
        _adaptive,
    ),
    Rule("mean", ("mean", torch.mean), {"dim": None, "keepdim": False}, _mean),
    Rule("add", (operator.add, operator.iadd, torch.add, "add", "add_"), {"alpha": 1}, _two, 2),
    Rule("sub", (operator.sub, operator.isub, torch.sub, "sub", "sub_"), {"alpha": 1}, _two, 2),
    Rule("mul", (operator.mul, operator.imul, torch.mul, "mul", "mul_"), {}, _two, 2),
    Rule("cat", (torch.cat, torch.concat), {"dim": 0}, _cat),
]
ACTIVATIONS = {rule.op for rule in _activations()} | {"fake_relu"}
_BY_KIND = {kind: rule for rule in _RULES for kind in rule.kinds}
IDENTITIES = {
    nn.Identity,
    nn.Dropout,
    nn.Dropout2d,
    functional.dropout,
    "contiguous",
    "clone",
    "detach",
}
RESHAPES = {
    nn.Flatten,
    torch.flatten,
    torch.reshape,
    torch.squeeze,
    "flatten",
    "view",
    "reshape",
    "squeeze",
    "unsqueeze",
}
RESHAPES |= {torch.unsqueeze, operator.getitem}
SKIPPED = {"size", "dim", getattr}  # numbers, not pictures
KNOWN = sorted(
    {rule.op for rule in _RULES} | {"conv", "linear", "affine", "fake_relu", "flatten", "constant"}
)
