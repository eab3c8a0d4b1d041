"""Files in RobustBench's format and architectures give RobustBench's logits."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import nbhelpers as nb

HERE = Path(__file__).parents[1]
PEERS = HERE.parent / ".peers"
NAMES = [
    "Engstrom2019Robustness",
    "Modas2021PRIMEResNet18",
    "Sehwag2021Proxy_R18",
    "Carmon2019Unlabeled",
]
NAMES += ["Chen2020Efficient", "Rade2021Helper"]
# many of its networks do not normalise
PLAIN = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    pytest.importorskip("timm", reason="RobustBench imports timm")
    if not (PEERS / "robustbench").is_dir():
        pytest.skip("robustbench is not in .peers; `make .peers/.installed` puts it there")
    folder = tmp_path_factory.mktemp("robustbench")
    command = [sys.executable, str(HERE / "peers" / "robustbench_writes.py"), str(folder)]
    environment = {**os.environ, "PYTHONPATH": str(PEERS), "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


@pytest.mark.parametrize("name", NAMES)
def test_logits_are_theirs(written, name):
    # mu, sigma in the file
    scaled = name in ("Engstrom2019Robustness", "Modas2021PRIMEResNet18", "Chen2020Efficient")
    model = nb.load_model(written / f"{name}.pt", device="cpu", dataset=None if scaled else PLAIN)
    with np.load(written / f"{name}.npz") as theirs:
        images, logits = torch.from_numpy(theirs["images"]), torch.from_numpy(theirs["logits"])
    torch.testing.assert_close(
        model(images), logits, rtol=1e-4, atol=1e-4 * logits.abs().max().item()
    )
    assert "folded" in model.note or "traced" in model.note
