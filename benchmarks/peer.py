"""The peer: `Attacker` of robustness 1.2.1, same weights, the reference notebooks' inversion."""

import itertools
import sys
import types
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any
from unittest.mock import MagicMock, patch

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

from benchmarks.measure import ROOT, clock
from nbhelpers import checkpoints


def load(name: str) -> Any:
    """The peer's model with a checkpoint's weights; None without the package."""
    entry = checkpoints.entry(name)
    found = build(entry.mean, entry.std, **entry.arguments)
    if found is not None:
        found.model.load_state_dict(checkpoints.read_weights(checkpoints.fetch(name)).state)
    return found


def build(mean: Any, std: Any, *, width: int, downsample: str = "stride") -> Any:
    """The peer's ResNet-18 for CIFAR-10, random; None without the package."""
    sys.path.append(str(ROOT / ".peers"))
    # removed from torchvision, imported and unused here
    hub = types.ModuleType("torchvision.models.utils")
    hub.load_state_dict_from_url = torch.hub.load_state_dict_from_url  # type: ignore[attr-defined]
    # loggers, unused by the attack
    absent = {"torchvision.models.utils": hub} | {
        name: MagicMock() for name in ("tensorboardX", "cox.store", "pandas")
    }
    try:
        with patch.dict(sys.modules, absent):
            from robustness.attacker import AttackerModel
            from robustness.cifar_models.resnet import BasicBlock, ResNet
    except ImportError as error:
        print(
            f"no peer: {error}; uv pip install --target .peers --no-deps -r "
            "tests/peers/requirements.txt"
        )
        return None
    network = ResNet(BasicBlock, [2, 2, 2, 2], wm=width / 64)
    # average pooling instead of strides, as in nbhelpers.networks.resnets
    if downsample == "pool":
        for layer in (network.layer2, network.layer3, network.layer4):
            layer[0].conv1.stride = layer[0].shortcut[0].stride = (1, 1)
            layer.register_forward_pre_hook(
                lambda _, inputs: (avg_pool2d(inputs[0], 2), *inputs[1:])
            )
    dataset = types.SimpleNamespace(mean=torch.as_tensor(mean), std=torch.as_tensor(std))
    return AttackerModel(network, dataset).eval()


def invert(model: Any, start: Tensor, target: Tensor, steps: int) -> tuple[Tensor, list[float]]:
    """The published inversion: images after `steps` steps of length 1; seconds from the second."""
    times: list[float] = []

    def loss(network: Callable, normalised: Tensor, wanted: Tensor) -> tuple[Tensor, None]:
        times.append(clock())
        _, latent = network(normalised, with_latent=True, fake_relu=True)
        return torch.norm(latent - wanted, dim=1) / torch.norm(wanted, dim=1), None

    options = {
        "constraint": "2",
        "eps": 1000,
        "step_size": 1,
        "iterations": steps,
        "targeted": True,
    }
    options |= {"custom_loss": loss, "use_best": False, "do_tqdm": False}
    with on_this_device():
        images = model.attacker(start, target, **options)
    return images, [after - before for before, after in itertools.pairwise(times)]


def on_this_device() -> AbstractContextManager:
    """On a CPU, `.cuda()` leaves tensors unchanged, since the peer supports only CUDA."""
    stay = {} if torch.cuda.is_available() else {"cuda": lambda self, *_, **__: self}
    return patch.multiple(torch.Tensor, **stay) if stay else nullcontext()
