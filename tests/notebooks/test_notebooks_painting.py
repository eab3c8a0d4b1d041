"""Notebooks 7 and 8 on a small folder without labels, swapped networks, and any network."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from test_notebooks_imported import TINY, run

from nbhelpers import checkpoints
from nbhelpers.networks.loading import build_network

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("name", ["7_paint_with_features", "8_distance"])
def test_on_photographs_of_other_things(name, tmp_path, capsys):
    folder = tmp_path / "mine"
    shutil.copytree(ROOT / "data" / "out-of-distribution", folder)
    places = {"checkpoint": "cifar10-standard", "baseline": "cifar10-l2-0.5"}
    result = run(
        ROOT / "notebooks" / f"{name}.ipynb",
        tmp_path,
        dataset=str(folder),
        **places,
        **TINY,
        n_strengths=2,
    )
    assert len(result["images"]) == 2 and result["parameters"]["steps"] == 2
    columns = {column.split(",")[0] for row in result["numbers"].values() for column in row}
    assert (
        {"robust", "standard"}
        <= columns
        <= {"robust", "standard", "another class", "left alone", "pixels", "random weights"}
    )
    assert "accuracy not checked" in capsys.readouterr().out
    assert json.dumps(result["numbers"])


def test_random_weights_of_any_network_tell_images_apart(tmp_path):
    """Random normalisation scales, since zeros would erase the image."""
    torch.manual_seed(0)
    facts = checkpoints.dataset_facts("cifar10") | {"image_size": 160}
    known = checkpoints.Entry("", "", "timm:test_efficientnet", **facts)
    network = build_network(known.architecture, 10, {})
    checkpoints.save_checkpoint(tmp_path / "mine.safetensors", network.state_dict(), known)
    folder, mine = tmp_path / "pictures", str(tmp_path / "mine.safetensors")
    shutil.copytree(ROOT / "data" / "out-of-distribution", folder)
    changed = {
        "checkpoint": mine,
        "baseline": mine,
        "dataset": str(folder),
        **TINY,
        "n_strengths": 2,
    }
    numbers = run(ROOT / "notebooks" / "8_distance.ipynb", tmp_path, **changed)["numbers"]
    assert numbers["grows with a distortion"]["random weights"] > 0.2
    assert numbers["finds the original"]["random weights"] > 0.6
