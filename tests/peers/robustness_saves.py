"""Put weights into robustness 1.2.1's own ImageNet network, and save them as its training does.

    python robustness_saves.py ARCHITECTURE FILE…     (with robustness, cox, dill and pandas on PYTHONPATH)

Beside each FILE stands one with the ending .npz, the state dict of torchvision's network of that name, resnet18 or
resnet50.
"""

import sys
import warnings
from pathlib import Path

import numpy as np
import torch

warnings.simplefilter("ignore")
import robustness_writes  # noqa: E402, F401 - puts back what the library of 2020 imports

import dill  # noqa: E402  isort: skip
from robustness import datasets, model_utils  # noqa: E402  isort: skip

if __name__ == "__main__":
    model, _ = model_utils.make_and_restore_model(
        arch=sys.argv[1], dataset=datasets.ImageNet("/nowhere")
    )
    for file in map(Path, sys.argv[2:]):
        with np.load(file.with_suffix(".npz")) as arrays:
            model.model.load_state_dict(
                {key: torch.from_numpy(arrays[key]) for key in arrays.files}
            )
        saved = {"model": torch.nn.DataParallel(model).state_dict(), "epoch": 13, "nat_prec1": 57.9}
        torch.save(saved, file, pickle_module=dill)
