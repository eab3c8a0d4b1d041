"""A classifier as representation + linear head, speaking [0, 1] pixels; and the door to the checkpoints."""

import copy
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, fx, nn
from torch.fx.experimental.optimization import fuse
from torch.nn import functional

from nbhelpers import checkpoints
from nbhelpers.resnet import resnet
from nbhelpers.types import Features, Images, check_images

# What may stand between the last ReLU and the representation without mixing components.
_POOLS: tuple = (nn.AdaptiveAvgPool2d, nn.AvgPool2d, nn.Flatten, nn.Dropout, nn.Identity)
_POOLS += (functional.adaptive_avg_pool2d, functional.avg_pool2d, functional.dropout, torch.flatten, torch.mean)
_POOLS += ("flatten", "view", "reshape", "mean", "squeeze", "contiguous")
_RELUS: tuple = (nn.ReLU, functional.relu, functional.relu_, torch.relu, torch.relu_, "relu", "relu_")


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


class Model(nn.Module):
    """A frozen classifier, cut at its last linear layer. It normalises by itself: give it pixels in [0, 1].

    The network is traced, batch norm is folded into convolutions, and the last ReLU can be swapped for a fake one.
    A network that cannot be traced works all the same, without the latter two; `repr` says so.

    Args:
        network: a classifier (n, 3, h, w) → (n, classes) that ends in a `torch.nn.Linear`; copied.
        mean, std: of each channel, pixels in [0, 1], as in training.
        classes: class names; their indices where None.
        image_size: side in pixels that the network was trained for; None if any.
        name: for `repr` and results.

    Raises:
        ValueError: no linear layer, or mean and std do not fit.
    """

    def __init__(
        self,
        network: nn.Module,
        *,
        mean: Sequence[float] = (0.0, 0.0, 0.0),
        std: Sequence[float] = (1.0, 1.0, 1.0),
        classes: Sequence[str] | None = None,
        image_size: int | None = None,
        name: str = "",
    ):
        super().__init__()
        if len(mean) != len(std) or not all(value > 0 for value in std):
            raise ValueError(f"mean and std: got {tuple(mean)} and {tuple(std)}, wanted one positive std per channel")
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32)[:, None, None])
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32)[:, None, None])
        self.image_size, self.name = image_size, name or type(network).__name__
        network = copy.deepcopy(network).eval()
        self.note = "batch norm folded"
        try:
            trunk = fuse(fx.symbolic_trace(network))
            self.head = _cut(trunk)
            faked = _with_fake_relu(trunk)
            if faked is None:
                self.note += ", no final ReLU found"
        except Exception as error:  # whatever the tracer stumbles over, the hook still works
            trunk, faked = None, None
            linears = [module for module in network.modules() if isinstance(module, nn.Linear)]
            if not linears:
                raise ValueError(f"{self.name}: no torch.nn.Linear to take for the head") from error
            self.head = linears[-1]
            self.note = f"not traced ({type(error).__name__}), no folding, no fake ReLU"
        self._network, self._trunk, self._faked = (network if trunk is None else None), trunk, faked
        self.classes = tuple(classes) if classes is not None else tuple(map(str, range(self.head.out_features)))
        if len(self.classes) != self.head.out_features:
            raise ValueError(f"classes: got {len(self.classes)} names, the head has {self.head.out_features} outputs")
        self.eval().requires_grad_(False)

    @property
    def device(self) -> torch.device:
        """Where the weights are, and where images must be."""
        return self.mean.device

    @property
    def components(self) -> int:
        """Length of the representation."""
        return self.head.in_features

    def representation(self, images: Images, fake_relu: bool = True) -> Features:
        """The penultimate layer R(x), (n, components).

        Args:
            images: (n, 3, h, w), pixels in [0, 1], on the model's device.
            fake_relu: let gradients through inactive units of the last ReLU; values are the same.

        Raises:
            TypeError, ValueError: images of the wrong kind, shape, range or device.
        """
        if not images.requires_grad:  # the optimiser's own iterates were checked once, and a check would stall a GPU
            check_images(images)
        if images.device != self.device:
            raise ValueError(f"images: on {images.device}, the model is on {self.device}; use images.to(model.device)")
        x = (images - self.mean) / self.std
        if self._network is not None:
            return self._captured(x)
        return torch.flatten((self._faked if fake_relu and self._faked is not None else self._trunk)(x), 1)

    def forward(self, images: Images) -> Features:
        """Logits, (n, classes)."""
        return self.head(self.representation(images, fake_relu=False))

    def _captured(self, x: Tensor) -> Features:
        seen: list[Tensor] = []
        handle = self.head.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
        try:
            self._network(x)
        finally:
            handle.remove()
        return torch.flatten(seen[-1], 1)

    def __repr__(self) -> str:
        size = f", {self.image_size} pixels" if self.image_size else ""
        return f"Model({self.name}: {self.components} components, {len(self.classes)} classes{size}; {self.note})"


def load_model(name: str | Path, *, device: str | torch.device = "auto") -> Model:
    """Load a checkpoint by its name in `checkpoints/manifest.toml`.

    Args:
        name: of the checkpoint.
        device: auto, cpu, cuda, cuda:1 or mps; auto takes a GPU where there is one.

    Raises:
        ValueError: unknown name, damaged file, or a device that is not there.
    """
    entry = checkpoints.entry(str(name))
    weights = checkpoints.read_weights(checkpoints.fetch(entry.name))
    network = resnet(entry.architecture, classes=len(entry.classes), **entry.arguments)
    network.load_state_dict(weights.state)
    model = Model(
        network, mean=entry.mean, std=entry.std, classes=entry.classes, image_size=entry.image_size, name=entry.name
    )
    return model.to(pick_device(device))


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
        raise ValueError(f"device: got {str(device)!r}, which this machine does not offer; use 'auto' or 'cpu'") from error
    return picked


def _cut(trunk: fx.GraphModule) -> nn.Linear:
    """Take the final Linear off a traced classifier and return it."""
    output = next(node for node in reversed(trunk.graph.nodes) if node.op == "output")
    last = output.args[0]
    head = trunk.get_submodule(str(last.target)) if isinstance(last, fx.Node) and last.op == "call_module" else None
    if not isinstance(head, nn.Linear):
        raise ValueError("the network does not end in a torch.nn.Linear")
    output.args = (last.args[0],)
    trunk.graph.erase_node(last)
    trunk.delete_all_unused_submodules()
    trunk.recompile()
    return head


def _with_fake_relu(trunk: fx.GraphModule) -> fx.GraphModule | None:
    """The same trunk, weights shared, with its last ReLU faked; None where that ReLU is not found."""
    graph = copy.deepcopy(trunk.graph)
    node = next(node for node in reversed(graph.nodes) if node.op == "output").args[0]
    while isinstance(node, fx.Node):
        kind = type(trunk.get_submodule(str(node.target))) if node.op == "call_module" else node.target
        if kind in _RELUS:
            with graph.inserting_after(node):
                faked = graph.call_function(fake_relu, (node.args[0],))
            node.replace_all_uses_with(faked)
            graph.erase_node(node)
            return fx.GraphModule(trunk, graph)
        if kind not in _POOLS:
            return None
        node = node.args[0]
    return None
