"""Results are written completely or not at all."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import nbhelpers as nb
from nbhelpers.figures.results import Mean, mean_of, numbers_in

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


def test_a_mean_has_an_interval_that_repeats() -> None:
    values = torch.rand(40, generator=torch.Generator().manual_seed(0))
    one = mean_of(values)
    assert one == mean_of(values.numpy()) == mean_of(values.tolist()) and one.n == 40
    assert one.mean == pytest.approx(values.mean().item())
    error = values.std().item() / 40**0.5
    assert one.low == pytest.approx(one.mean - 1.96 * error, abs=0.3 * error)
    assert one.high == pytest.approx(one.mean + 1.96 * error, abs=0.3 * error)
    share = mean_of(torch.tensor([True, False, False, False] * 5))
    assert (share.mean, share.n) == (0.25, 20)  # Wilson's interval, from the textbook
    assert share.low == pytest.approx(0.112, abs=1e-3) and share.high == pytest.approx(
        0.469, abs=1e-3
    )
    assert mean_of([0, 0, 0]).high > 0.5 and mean_of(0.5) == Mean(0.5) == mean_of([0.5])
    assert str(mean_of([1.0, float("inf")])) == "inf" and mean_of(one) is one
    for wrong in ([], torch.zeros(2, 2)):
        with pytest.raises(ValueError, match="wanted one number, or one for each image"):
            mean_of(wrong)


@pytest.mark.parametrize(
    "mean, text",
    [
        (Mean(0.451, 0.44, 0.463, 9), "0.45 (0.44–0.46)"),
        (Mean(0.4512, 0.4498, 0.4541, 9), "0.451 (0.450–0.454)"),
        (Mean(16.51, 15.12, 17.93, 9), "16.5 (15.1–17.9)"),
        (Mean(0.0, 0.0, 0.24, 12), "0.00 (0.00–0.24)"),
        (Mean(0.1, -0.02, 0.22, 12), "0.10 (-0.02 to 0.22)"),
        (Mean(1234.5, 1200, 1270, 12), "1234 (1200–1270)"),
        (Mean(0.123456), "0.123"),
    ],
)
def test_a_mean_is_printed_with_few_digits(mean, text) -> None:
    assert str(mean) == text


def test_values_of_images_are_printed_and_kept_with_their_intervals(tmp_path, capsys) -> None:
    values = torch.arange(9) / 8
    given = {"distance": {"robust, averaged": values, "random pairs": 1.5}, "n": {"grey": 3}}
    nb.print_numbers(given, note="seed 0")
    printed = capsys.readouterr().out
    assert "0.50 (0.29–0.69)" in printed and "(means with 95 % intervals; seed 0)" in printed
    nb.save_result(tmp_path, parameters={}, numbers=given)
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["numbers"]["distance"] == {"robust, averaged": 0.5, "random pairs": 1.5}
    assert result["intervals"]["distance"]["robust, averaged"]["n"] == 9
    nb.print_numbers(numbers_in(result), note="seed 0")  # as in `make demo`
    assert capsys.readouterr().out == printed
    assert numbers_in({"numbers": NUMBERS})["null"] == {"robust": Mean(1.0)}  # an older file


def test_what_is_not_finite_is_named_where_it_is_printed_and_kept(tmp_path, capsys) -> None:
    spoilt = torch.tensor([1.0, float("nan"), float("inf")])
    given = {
        "distance": {"robust": spoilt, "standard": 1.0},
        "loss": {"robust": Mean(float("nan"))},
    }
    wanted = "not finite: distance of robust (2 of 3 values), loss of robust"
    nb.print_numbers(given)
    assert capsys.readouterr().out.splitlines()[-1] == wanted
    nb.save_result(tmp_path, parameters={}, numbers=given)
    assert wanted in capsys.readouterr().err
    assert json.loads((tmp_path / "result.json").read_text())["not_finite"] == wanted
    nb.save_result(tmp_path, parameters={}, numbers=NUMBERS)
    nb.print_numbers(NUMBERS)
    told = capsys.readouterr()
    assert "finite" not in told.out + told.err + (tmp_path / "result.json").read_text()


def test_a_stopped_figure_leaves_the_one_before(tmp_path, monkeypatch) -> None:
    figure = nb.image_grid({"a": torch.rand(1, 3, 8, 8)})
    (tmp_path / "grid.png").write_bytes(b"before")

    def stopped(path, **_) -> None:
        Path(path).write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(figure, "savefig", stopped)
    with pytest.raises(KeyboardInterrupt):
        nb.save_result(tmp_path, parameters={}, numbers=NUMBERS, figures={"grid": figure})
    assert [path.name for path in tmp_path.iterdir()] == ["grid.png"]
    assert (tmp_path / "grid.png").read_bytes() == b"before"


@pytest.mark.parametrize("kept", ["__annotations__", "In"])
def test_of_a_notebooks_globals_its_parameters_are_kept(kept, tmp_path) -> None:
    cells = [
        "%matplotlib inline",
        "import torch",
        "n: int = 3  # images\nseed: int = 0\nout: str = ''",
    ]
    names = {"__name__": "__main__", "In": cells, "torch": torch, "_": 1, "x": 1j}
    exec(cells[2], names)
    if kept == "In":  # Python 3.14 has no annotations there
        names.pop("__annotations__", None)
    names["n"] = 5  # papermill's parameter
    nb.save_result(tmp_path, parameters=names, numbers={})
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["parameters"] == {"n": 5, "seed": 0, "out": ""} and result["seed"] == 0
