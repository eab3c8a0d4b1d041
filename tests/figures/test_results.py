"""A result is whole or not there."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import nbhelpers as nb

NUMBERS = {"distance": {"robust": 0.123456, "standard": 2.0}, "null": {"robust": 1.0}}


def test_numbers_are_printed_as_a_table(capsys) -> None:
    nb.print_numbers(NUMBERS, note="n = 2")
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["robust", "standard"]
    assert lines[1].split() == ["distance", "0.123", "2"] and lines[3] == "(n = 2)"


def test_result_is_written_whole(tmp_path: Path) -> None:
    figure = nb.image_grid({"a": torch.rand(1, 3, 8, 8)})
    out = tmp_path / "new" / "folder"
    nb.save_result(
        out,
        parameters={"seed": 3, "device": "cpu"},
        numbers=NUMBERS,
        images=[4],
        figures={"grid": figure},
    )
    result = json.loads((out / "result.json").read_text())
    assert result["numbers"] == NUMBERS and result["seed"] == 3 and result["images"] == [4]
    assert (
        result["versions"]["torch"] == torch.__version__.split("+")[0]
        or result["versions"]["torch"]
    )
    assert sorted(path.name for path in out.iterdir()) == ["grid.png", "result.json"]


def test_numbers_of_any_kind_are_written(tmp_path: Path) -> None:
    given = {
        "seed": np.int64(3),
        "eps": torch.tensor(0.5),
        "radii": np.array([1, 2]),
        "out": tmp_path,
    }
    nb.save_result(
        tmp_path, parameters=given, numbers={"loss": {"m": np.float32(0.5)}}, images=torch.arange(2)
    )
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["parameters"] == {"seed": 3, "eps": 0.5, "radii": [1, 2], "out": str(tmp_path)}
    assert (
        result["seed"] == 3
        and result["numbers"] == {"loss": {"m": 0.5}}
        and result["images"] == [0, 1]
    )
    with pytest.raises(TypeError, match=r"result.json: got 1j, wanted numbers"):
        nb.save_result(tmp_path, parameters={"a": 1j}, numbers={})


def test_no_folder_no_file() -> None:
    nb.save_result("", parameters={}, numbers={})


def test_a_folder_that_cannot_be_written_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ValueError, match="cannot write") as caught:
        nb.save_result(tmp_path / "file" / "out", parameters={}, numbers={})
    assert "\n" not in str(caught.value)
