"""Save RobustBench 1.1.1's own architectures, with seeded random weights, the ways its model zoo's files are saved.

python robustbench_writes.py FOLDER     (with robustbench and pandas on PYTHONPATH)
"""

import sys
import warnings
from pathlib import Path
from unittest.mock import MagicMock

import numpy as np
import torch

warnings.simplefilter("ignore")
# Imported by the package at once, and used by nothing here.
for absent in (
    "pkg_resources",
    "autoattack",
    "autoattack.state",
    "gdown",
    "torchdiffeq",
    "geotorch",
):
    sys.modules[absent] = MagicMock()

from robustbench.model_zoo import cifar10  # noqa: E402
from robustbench.model_zoo.architectures.resnet import ResNet18  # noqa: E402
from robustbench.model_zoo.architectures.wide_resnet import WideResNet  # noqa: E402
from robustbench.utils import rm_substr_from_state_dict  # noqa: E402

# Its network, and how to save a state dict of it.
CASES = {
    "Engstrom2019Robustness": (cifar10.Engstrom2019RobustnessNet, lambda state: state),
    "Modas2021PRIMEResNet18": (
        cifar10.Modas2021PRIMEResNet18,
        lambda state: {f"module.{k}": state[k] for k in state},
    ),
    "Sehwag2021Proxy_R18": (ResNet18, lambda state: {f"module.{k}": state[k] for k in state}),
    "Carmon2019Unlabeled": (
        lambda: WideResNet(depth=16, widen_factor=2, sub_block1=True),
        lambda state: {
            "state_dict": {f"module.{k}": state[k] for k in state},
            "epoch": 200,
            "num_classes": 10,
        },
    ),
    "Chen2020Efficient": (
        lambda: cifar10.Chen2020EfficientNet(depth=16, widen_factor=2),
        lambda state: {"state_dict": {f"module.model.{k}": state[k] for k in state}},
    ),
    "Rade2021Helper": (
        lambda: WideResNet(depth=10, widen_factor=1),
        lambda state: {"last": state, "best": state},
    ),
}

if __name__ == "__main__":
    for number, (name, (build, dress)) in enumerate(CASES.items()):
        torch.manual_seed(number)
        network = build().eval()
        for module in network.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.running_mean.normal_(0, 0.1)
                module.running_var.uniform_(0.5, 1.5)
        content = dress(network.state_dict())
        torch.save(content, Path(sys.argv[1]) / f"{name}.pt")
        # Load as the package does, to be sure that the file is one of its own.
        state = content.get("state_dict", content.get("last", content))
        state = rm_substr_from_state_dict(rm_substr_from_state_dict(state, "module."), "model.")
        network.load_state_dict(state, strict=True)
        images = torch.rand(4, 3, 32, 32)
        with torch.no_grad():
            np.savez(Path(sys.argv[1]) / f"{name}.npz", images=images, logits=network(images))
