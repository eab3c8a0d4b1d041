"""Notebooks 7 and 8 run on a small folder without labels, on networks that trade places."""

import json
import shutil
from pathlib import Path

import pytest
from test_notebooks_imported import TINY, run

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("name", ["7_paint_with_features", "8_distance"])
def test_on_photographs_of_other_things(name, tmp_path, capsys):
    folder = tmp_path / "mine"
    shutil.copytree(ROOT / "data" / "out-of-distribution", folder)
    places = {"checkpoint": "cifar10-standard", "baseline": "cifar10-l2-0.5"}
    result = run(ROOT / "notebooks" / f"{name}.ipynb", tmp_path, dataset=str(folder), **places, **TINY, n_strengths=2)
    assert len(result["images"]) == 4 and result["parameters"]["steps"] == 2
    columns = {column.split(",")[0] for row in result["numbers"].values() for column in row}
    assert {"robust", "standard"} <= columns <= {"robust", "standard", "real images", "pixels", "random weights"}
    assert "accuracy not checked" in capsys.readouterr().out
    assert json.dumps(result["numbers"])
