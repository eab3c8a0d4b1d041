"""Weights that no enclosing module or optimiser can change."""

from typing import Any

from torch import nn


class FrozenParameter(nn.Parameter):
    """A parameter that never requires a gradient."""

    def requires_grad_(self, requires_grad: bool = True) -> Any:
        """Do nothing."""
        return self

    @property
    def requires_grad(self) -> bool:  # type: ignore[override]
        return False

    @requires_grad.setter
    def requires_grad(self, value: bool) -> None:
        pass


def freeze(network: nn.Module) -> None:
    """Replace all parameters by frozen ones; shared parameters stay shared."""
    frozen: dict[int, FrozenParameter] = {}
    for module in network.modules():
        for name, parameter in [*module.named_parameters(recurse=False, remove_duplicate=False)]:
            twin = frozen.get(id(parameter))
            if twin is None:
                twin = FrozenParameter(parameter.detach(), False)
                frozen[id(parameter)] = twin
            if twin is not parameter:
                frozen[id(twin)] = twin
                setattr(module, name, twin)
