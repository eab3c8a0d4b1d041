"""Put trained weights into robustness 1.2.1's own network, and save them as its training does.

    python robustness_wraps.py WEIGHTS.npz FILE     (with robustness, cox, dill and pandas on PYTHONPATH)

WEIGHTS.npz holds a CIFAR ResNet-18's state dict, and `mean` and `std`.
"""

import sys
import warnings

import numpy as np
import torch

warnings.simplefilter("ignore")
import robustness_writes  # noqa: E402, F401 - puts back what the library of 2020 imports

import dill  # noqa: E402  isort: skip
from robustness import datasets, model_utils  # noqa: E402  isort: skip
from robustness.cifar_models.resnet import ResNet18  # noqa: E402  isort: skip

if __name__ == "__main__":
    with np.load(sys.argv[1]) as arrays:
        state = {key: torch.from_numpy(arrays[key]) for key in arrays.files}
    dataset = datasets.CIFAR("/nowhere")
    dataset.mean, dataset.std = state.pop("mean"), state.pop("std")
    network = ResNet18(wm=len(state["conv1.weight"]) / 64)
    network.load_state_dict(state)
    model, _ = model_utils.make_and_restore_model(arch=network, dataset=dataset)
    saved = {"model": torch.nn.DataParallel(model).state_dict(), "epoch": 13, "nat_prec1": 77.4}
    torch.save(saved, sys.argv[2], pickle_module=dill)
