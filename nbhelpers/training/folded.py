"""A copy of the network for attacks in training: batch norm folded, at the training precision."""

from collections import Counter
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx.experimental.optimization import fuse
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils.fusion import fuse_conv_bn_weights

from nbhelpers.types import Features, Images

# the pairs that `fuse` folds
_FUSED = ((nn.Conv1d, nn.BatchNorm1d), (nn.Conv2d, nn.BatchNorm2d), (nn.Conv3d, nn.BatchNorm3d))
# Tolerance, relative to the logits' norm: rounding passes, a wrong copy does not. TF32 of GPUs has
# ten bits.
_ROUNDING = {(torch.float32, "cpu"): 0.001, (torch.float32, "cuda"): 0.01}


def _folds(before: nn.Module | None, norm: nn.Module | None) -> bool:
    """Whether `fuse` folds this pair."""
    return any(
        type(before) is conv and type(norm) is batch and bool(norm.track_running_stats)
        for conv, batch in _FUSED
    )


class FoldedCopy:
    """The network in evaluation mode, batch norm folded, at the training precision.

    Falls back to the network itself if it cannot be traced, or if the copy differs.
    """

    def __init__(self, network: nn.Module, mean: Tensor, std: Tensor, dtype: torch.dtype):
        self.network, self.mean, self.std, self.dtype = network, mean, std, dtype
        self.pairs: list[tuple[Any, Any, Any]] = []  # (convolution, norm, folded convolution)
        self.twin: nn.Module | None = None
        modes = {module: module.training for module in network.modules()}
        network.eval()
        try:
            self._copy()
        except Exception:  # tracing fails in many ways
            self.twin, self.pairs = None, []
        for module, mode in modes.items():
            module.training = mode

    def _copy(self) -> None:
        traced, modules = fx.symbolic_trace(self.network), dict(self.network.named_modules())
        calls = Counter(str(node.target) for node in traced.graph.nodes if node.op == "call_module")
        names = [
            (str(node.args[0].target), str(node.target))
            for node in traced.graph.nodes
            if node.op == "call_module"
            and node.args
            and isinstance(node.args[0], fx.Node)
            and _folds(modules.get(str(node.args[0].target)), modules.get(str(node.target)))
            and len(node.args[0].users) == 1
        ]
        if any(calls[name] > 1 for pair in names for name in pair):
            return  # a layer used twice would be folded twice
        twin = fuse(traced, no_trace=True).requires_grad_(False)
        folded = {
            id(parameter)
            for conv, _ in names
            for parameter in twin.get_submodule(conv).parameters()
        }
        if any(
            id(p) not in folded and name not in self._own() for name, p in twin.named_parameters()
        ):
            return  # a parameter that `refresh` cannot update
        if any(isinstance(module, _BatchNorm) for module in twin.modules()):
            return  # a norm before its convolution cannot be folded: no gain
        self.pairs = [
            (modules[conv], modules[norm], twin.get_submodule(conv)) for conv, norm in names
        ]
        self.twin = twin.to(self.mean.device, self.dtype).to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def _own(self) -> dict[str, Tensor]:
        both = (self.network.named_parameters, self.network.named_buffers)
        return {name: tensor for named in both for name, tensor in named(remove_duplicate=False)}

    @torch.no_grad()
    def refresh(self) -> None:
        """Copy the network's current weights and running statistics."""
        if self.twin is None:
            return
        for conv, norm, folded in self.pairs:
            weight, bias = fuse_conv_bn_weights(
                conv.weight,
                conv.bias,
                norm.running_mean,
                norm.running_var,
                norm.eps,
                norm.weight,
                norm.bias,
            )
            folded.weight.copy_(weight)
            folded.bias.copy_(bias)
        own = self._own()
        done = {id(parameter) for _, _, folded in self.pairs for parameter in folded.parameters()}
        for name, tensor in [*self.twin.named_parameters(), *self.twin.named_buffers()]:
            if id(tensor) not in done and name in own:
                tensor.copy_(own[name])

    @torch.no_grad()
    def check(self, images: Images) -> bool:
        """Whether the copy's logits are the network's; if not, use the network from now on.

        Call after `refresh`.
        """
        if self.twin is None:
            return True
        try:
            found, wanted = self(images), self._uncopied(images)
            bound = _ROUNDING.get((self.dtype, images.device.type), 0.1)
            far = torch.linalg.vector_norm(found - wanted) <= bound * torch.linalg.vector_norm(
                wanted
            )
            same = found.shape == wanted.shape and bool(far)
        except Exception:  # a trace may be specific to a batch size or dtype
            same = False
        if not same:
            self.twin, self.pairs = None, []
        return same

    def __call__(self, images: Images) -> Features:
        """Logits of pixels in [0, 1]."""
        if self.twin is None:
            return self._uncopied(images)
        return self.twin(self._normalised(images).to(self.dtype)).float()

    def _normalised(self, images: Images) -> Images:
        return ((images - self.mean) / self.std).to(memory_format=torch.channels_last)

    def _uncopied(self, images: Images) -> Features:
        x, was = self._normalised(images), self.network.training
        self.network.eval()
        with torch.autocast(x.device.type, torch.bfloat16, enabled=self.dtype == torch.bfloat16):
            logits = self.network(x)
        self.network.train(was)
        return logits.float()
