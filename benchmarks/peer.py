"""The peer: `Attacker` of robustness 1.2.1 on the same weights, with the inversion loss of the reference notebooks."""

import itertools
import sys
import types
from collections.abc import Callable
from typing import Any
from unittest.mock import MagicMock, patch

import torch
from torch import Tensor

from benchmarks.measure import ROOT, clock


def load(state: dict[str, Tensor], mean: Any, std: Any, width: int) -> Any:
    """Its model with our weights; None where the package is not there."""
    sys.path.append(str(ROOT / ".peers"))
    hub = types.ModuleType("torchvision.models.utils")  # gone from torchvision, imported and not used here
    hub.load_state_dict_from_url = torch.hub.load_state_dict_from_url  # type: ignore[attr-defined]
    # Its loggers; the attack itself needs none of them.
    absent = {"torchvision.models.utils": hub} | {name: MagicMock() for name in ("tensorboardX", "cox.store", "pandas")}
    try:
        with patch.dict(sys.modules, absent):
            from robustness.attacker import AttackerModel
            from robustness.cifar_models.resnet import BasicBlock, ResNet
    except ImportError as error:
        print(f"no peer: {error}; uv pip install --target .peers --no-deps -r tests/peers/requirements.txt")
        return None
    network = ResNet(BasicBlock, [2, 2, 2, 2], wm=width / 64)
    network.load_state_dict(state)
    dataset = types.SimpleNamespace(mean=torch.as_tensor(mean), std=torch.as_tensor(std))
    return AttackerModel(network, dataset).eval()


def invert(model: Any, start: Tensor, target: Tensor, steps: int) -> tuple[Tensor, list[float]]:
    """The published inversion: images after `steps` steps of length 1, and the seconds of all steps but the first."""
    times: list[float] = []

    def loss(network: Callable, normalised: Tensor, wanted: Tensor) -> tuple[Tensor, None]:
        times.append(clock())
        _, latent = network(normalised, with_latent=True, fake_relu=True)
        return torch.norm(latent - wanted, dim=1) / torch.norm(wanted, dim=1), None

    options = {"constraint": "2", "eps": 1000, "step_size": 1, "iterations": steps, "targeted": True}
    options |= {"custom_loss": loss, "use_best": False, "do_tqdm": False}
    on_cpu = {} if torch.cuda.is_available() else {"cuda": lambda self, *_, **__: self}  # it knows CUDA only
    with patch.multiple(torch.Tensor, **on_cpu) if on_cpu else patch.dict({}):
        images = model.attacker(start, target, **options)
    return images, [after - before for before, after in itertools.pairwise(times)]
