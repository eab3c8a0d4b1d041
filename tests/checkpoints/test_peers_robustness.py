"""Checkpoints trained by robustness 1.2.1 give robustness's outputs."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import nbhelpers as nb
from nbhelpers.checkpoints import read_weights

HERE = Path(__file__).parents[1]
PEERS = HERE.parent / ".peers"
CASES = ["cifar-resnet18", "cifar-resnet50", "restricted-resnet18", "imagenet-resnet50"]


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    if not (PEERS / "robustness").is_dir():
        pytest.skip("robustness is not in .peers; `make .peers/.installed` puts it there")
    folder = tmp_path_factory.mktemp("robustness")
    command = [sys.executable, str(HERE / "peers" / "robustness_writes.py"), str(folder)]
    environment = {**os.environ, "PYTHONPATH": str(PEERS), "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr[-3000:]
    yield folder
    for path in folder.rglob("*.pt*"):
        path.unlink()  # 1 GB, which pytest would keep for three runs


def computed(folder: Path) -> dict[str, torch.Tensor]:
    with np.load(folder / "computed.npz") as arrays:
        return {key: torch.from_numpy(arrays[key]) for key in arrays.files}


def close(ours: torch.Tensor, theirs: torch.Tensor) -> None:
    scale = theirs.abs().max().item()
    torch.testing.assert_close(ours.detach(), theirs, rtol=1e-4, atol=1e-4 * scale)


def close_in_length(ours: torch.Tensor, theirs: torch.Tensor) -> None:
    """Tolerance of gradients and steps: rounding decides whether a unit near zero is active.

    Their float32 and float64 gradients differ as much (up to 1e-3); a wrong fake ReLU differs 100
    times more.
    """
    assert theirs.norm() > 0 and (ours - theirs).norm() < 1e-2 * theirs.norm()


@pytest.mark.parametrize("case", CASES)
def test_logits_representation_gradients_and_steps_are_theirs(written, case, capsys):
    theirs = computed(written / case)
    (saved,) = (written / case).glob("*.latest")
    path = saved.with_suffix(".pt")  # the library's own suffix names no format
    saved.rename(path)
    model = nb.load_model(path, device="cpu")
    assert "module.model.* -> *" in capsys.readouterr().out
    close(model.mean.flatten(), theirs["mean"])
    close(model.std.flatten(), theirs["std"])
    close(model(theirs["images"]), theirs["logits"])
    for fake in (False, True):
        start = theirs["images"].clone().requires_grad_()
        features = model.representation(start, fake_relu=fake)
        close(features, theirs["latent"])
        direction = torch.linspace(-1, 1, features.shape[1])
        close_in_length(
            torch.autograd.grad((features * direction).sum(), start)[0], theirs[f"gradient_{fake}"]
        )
    assert (theirs["gradient_False"] - theirs["gradient_True"]).norm() > 0.1 * theirs[
        "gradient_True"
    ].norm()

    published = {"momentum": 0, "schedule": "constant", "keep": "last"}
    ball = nb.l2_ball(theirs["images"], 0.3)
    attacked = nb.minimize(
        model,
        nb.misclassify(theirs["labels"]),
        theirs["images"],
        steps=1,
        solver=nb.Solver(step_size=0.5, **published),
        project=ball,
    )
    close_in_length(attacked.images - theirs["images"], theirs["attacked"] - theirs["images"])
    inverted = nb.minimize(
        model.representation,
        nb.match(theirs["target"]),
        theirs["images"],
        steps=1,
        solver=nb.Solver(step_size=1.0, **published),
        project=nb.box,
    )
    close_in_length(inverted.images - theirs["images"], theirs["inverted"] - theirs["images"])


@pytest.mark.parametrize("name", ["lambda.pt", "legacy.pt"])
def test_a_pickled_code_object_is_named_and_not_run(written, name):
    """As in the schedule of cifar_l2_0_25.pt, which no Python since 3.8 can unpickle."""
    folder = written / "cifar-resnet18"
    expected = read_weights(next(path for path in folder.glob("checkpoint.*")))
    weights = read_weights(folder / name)
    assert "dill" in weights.report and "not run" in weights.report, weights.report
    assert weights.state.keys() == expected.state.keys() and weights.mean == expected.mean
    assert all(torch.equal(weights.state[key], expected.state[key]) for key in expected.state)
