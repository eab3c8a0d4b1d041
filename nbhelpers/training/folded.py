"""The network as the attack of training sees it: batch norm folded, in the passes' own precision."""

from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx.experimental.optimization import fuse
from torch.nn.utils.fusion import fuse_conv_bn_weights

from nbhelpers.types import Features, Images


class FoldedCopy:
    """The network in eval mode as the attack sees it: batch norm folded, in the passes' own precision.

    A network that cannot be traced is attacked as it is.
    """

    def __init__(self, network: nn.Module, mean: Tensor, std: Tensor, dtype: torch.dtype):
        self.network, self.mean, self.std, self.dtype = network, mean, std, dtype
        self.pairs: list[tuple[Any, Any, Any]] = []  # convolution, its norm, both folded
        self.twin: nn.Module | None = None
        was, modules = network.training, dict(network.named_modules())
        network.eval()
        try:
            traced = fx.symbolic_trace(network)
            names = [
                (str(node.args[0].target), str(node.target))
                for node in traced.graph.nodes
                if isinstance(modules.get(str(node.target)), nn.BatchNorm2d)
                and isinstance(modules.get(str(node.args[0].target)), nn.Conv2d)
                and len(node.args[0].users) == 1
            ]
            twin = fuse(traced, no_trace=True).requires_grad_(False)
            if not any(isinstance(module, nn.BatchNorm2d) for module in twin.modules()):
                self.twin = twin.to(mean.device, dtype).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
                self.pairs = [(modules[conv], modules[norm], twin.get_submodule(conv)) for conv, norm in names]
        except (TypeError, AttributeError, RuntimeError, fx.proxy.TraceError):  # control flow the tracer cannot follow
            pass
        network.train(was)

    @torch.no_grad()
    def refresh(self) -> None:
        """Take over the network's weights and running statistics as they are now."""
        if self.twin is None:
            return
        for conv, norm, folded in self.pairs:
            weight, bias = fuse_conv_bn_weights(
                conv.weight, conv.bias, norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
            )
            folded.weight.copy_(weight)
            folded.bias.copy_(bias)
        own = dict(self.network.named_parameters())
        done = {id(parameter) for _, _, folded in self.pairs for parameter in folded.parameters()}
        for name, parameter in self.twin.named_parameters():
            if id(parameter) not in done:
                parameter.copy_(own[name])

    def __call__(self, images: Images) -> Features:
        """Logits of pixels in [0, 1]."""
        x = ((images - self.mean) / self.std).to(memory_format=torch.channels_last)
        if self.twin is not None:
            return self.twin(x.to(self.dtype)).float()
        was = self.network.training
        self.network.eval()
        with torch.autocast(x.device.type, torch.bfloat16, enabled=self.dtype == torch.bfloat16):
            logits = self.network(x)
        self.network.train(was)
        return logits.float()
