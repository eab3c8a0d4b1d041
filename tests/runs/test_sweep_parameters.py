"""A sweep's parameters: parsed and typed by the cell's syntax, passed exactly to the kernel."""

import json
import os
from pathlib import Path
from typing import Any, Literal

import nbformat
import numpy as np
import pytest
import torch
from nbformat.v4 import new_code_cell, new_notebook

from nbhelpers.commands import main
from nbhelpers.files import NOTEBOOKS, notebooks
from nbhelpers.runs.grid import axes, from_words
from nbhelpers.runs.inject import _socket_folder
from nbhelpers.runs.parameters import parse, read_notebook
from nbhelpers.runs.sweeps import plan, sweep

CELL = """\
from typing import Literal, Optional, Union
%matplotlib inline
eps: float = 8 / 255  # a fraction
n: int = 10**3
colour: str = "#ff0000"  # red = warm
shape: tuple = (3, 4)
sides: "tuple[int, int]" = (
    1,  # high
    2,
)  # two
path: str = "a=b,c"
note: str | None = None
limit: Optional[int] = None
schedule: Literal["constant", "cosine"] = "cosine"
radii: list[float] = [0.25, 0.5]
picks: list = [1, 2]
options: dict = {"a": 1}
weights: dict[str, float] = {}
either: int | str = 3
plain = 2.5
text = "none"
known: set = {1}
seed: int = 0
out: str = ""
"""
BODY = """
import json, os, pathlib
names = "eps n colour shape sides path note limit schedule radii picks options weights either plain text known seed"
values = {name: repr(globals()[name]) for name in names.split()}
pathlib.Path(out, "result.json").write_text(json.dumps({"parameters": values, "numbers": {}, "cwd": os.getcwd()}))
"""


@pytest.fixture
def notebook(tmp_path: Path) -> Path:
    return write(tmp_path / "n.ipynb", CELL, BODY)


def write(path: Path, cell: str, body: str) -> Path:
    cells = [new_code_cell(cell, metadata={"tags": ["parameters"]}), new_code_cell(body)]
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    path.parent.mkdir(exist_ok=True)
    nbformat.write(new_notebook(cells=cells, metadata={"kernelspec": kernel}), path)
    return path


def test_every_line_of_the_cell_is_understood(notebook: Path) -> None:
    found = read_notebook(notebook).parameters
    assert list(found) == [*BODY.split('"')[1].split(), "out"]
    assert (found["eps"].default, found["eps"].help, found["eps"].kind) == (
        "8 / 255",
        "a fraction",
        float,
    )
    assert (found["colour"].value, found["colour"].help) == ("#ff0000", "red = warm")
    assert found["path"].value == "a=b,c" and found["sides"].help == "two"
    assert found["note"].kind == str | None and found["limit"].kind == int | None
    assert found["schedule"].kind == Literal["constant", "cosine"]
    assert found["plain"].kind is float and found["either"].kind == int | str
    assert found["weights"].kind == dict[str, float] and found["sides"].kind == tuple[int, int]
    assert parse("a = 8 / 255\nb = -(2**3)\nd = f()\ne = 9**9**9")["e"].kind is Any
    for path in notebooks():
        parameters = read_notebook(path).parameters.values()
        assert all(parameter.kind is not Any and parameter.help for parameter in parameters)


def kernel_saw(
    notebook: Path, grid: dict[str, Any], out: Path
) -> tuple[dict[str, str], dict[str, Any]]:
    (outcome,) = sweep(notebook, grid, out, jobs=1)
    assert outcome.state == "done", outcome.message
    folder = outcome.run.folder
    seen = json.loads((folder / "result.json").read_text())["parameters"]
    return seen, json.loads((folder / "run.json").read_text())["parameters"]


@pytest.mark.long
def test_defaults_stay_the_notebooks_own_and_values_arrive_as_asked(
    notebook: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    long = tmp_path / ("x" * 120)
    long.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(long))  # too long for a socket's path
    seen, recorded = kernel_saw(notebook, {"seed": [1]}, tmp_path / "own")
    assert seen["eps"] == repr(8 / 255) and seen["n"] == "1000" and seen["colour"] == "'#ff0000'"
    assert (
        seen["shape"] == "(3, 4)"
        and seen["sides"] == "(1, 2)"
        and seen["known"] == "{1}"
        and seen["seed"] == "1"
    )
    assert (
        seen["note"] == seen["limit"] == "None"
        and seen["path"] == "'a=b,c'"
        and seen["text"] == "'none'"
    )
    assert recorded["eps"] == "8 / 255" and recorded["shape"] == [3, 4] and recorded["seed"] == 1
    given = {
        "shape": (5, 6),
        "sides": [7, 8],
        "radii": [1, 0.5],
        "picks": [[1], [2]][0],
        "options": {"b": [None, (1,)]},
    }
    given |= {
        "eps": float("inf"),
        "colour": 'a"b\n',
        "known": {2, 3},
        "note": "none",
        "text": "none",
        "limit": 4,
    }
    seen, _ = kernel_saw(notebook, given, tmp_path / "given")
    assert seen["shape"] == "(5, 6)" and seen["sides"] == "(7, 8)" and seen["radii"] == "[1.0, 0.5]"
    assert (
        seen["picks"] == "[1]" and seen["options"] == "{'b': [None, (1,)]}" and seen["eps"] == "inf"
    )
    assert seen["colour"] == repr('a"b\n') and seen["known"] == "{2, 3}" and seen["note"] == "None"
    assert seen["text"] == "'none'" and seen["limit"] == "4"


@pytest.mark.parametrize(
    ("words", "name", "values"),
    [
        (["radii=[0.5]"], "radii", [[0.5]]),
        (["radii=[1, 1e-3]", "radii=[2]"], "radii", [[1.0, 0.001], [2.0]]),
        (["picks=[]"], "picks", [[]]),
        (["picks=[1e-3, a]"], "picks", [[0.001, "a"]]),
        (["options={b: 2}"], "options", [{"b": 2}]),
        (["options={'b': None}"], "options", [{"b": None}]),
        (["weights={a: 1e-2}"], "weights", [{"a": 0.01}]),
        (["shape=(5, 6)"], "shape", [(5, 6)]),
        (["shape=[5, 6]"], "shape", [(5, 6)]),
        (["seed=0:3"], "seed", [0, 1, 2]),
        (["seed=1,5", "seed=7"], "seed", [1, 5, 7]),
        (["either=3,x"], "either", [3, "x"]),
        (["note=a,none"], "note", ["a", None]),
        (["schedule=constant"], "schedule", ["constant"]),
        (["path=x=y"], "path", ["x=y"]),
        (["text=none"], "text", ["none"]),
        (["plain=1e-3"], "plain", [0.001]),
    ],
)
def test_words_of_the_command_line(
    notebook: Path, words: list[str], name: str, values: list
) -> None:
    assert repr(axes(notebook, from_words(words, notebook), [])[name]) == repr(values)


@pytest.mark.parametrize(
    ("grid", "values"),
    [
        ({"radii": [0.5]}, [[0.5]]),
        ({"radii": [[0.5], [1]]}, [[0.5], [1.0]]),
        ({"picks": [[1], [2, 3]]}, [[1], [2, 3]]),
        ({"picks": np.arange(2)}, [[0, 1]]),
        ({"picks": range(2)}, [[0, 1]]),
        ({"options": {"a": np.float64(1)}}, [{"a": 1.0}]),
        ({"options": [{"a": 1}, {}]}, [{"a": 1}, {}]),
        ({"seed": np.arange(2)}, [0, 1]),
        ({"seed": torch.tensor([4])}, [4]),
        ({"eps": np.float32(0.5)}, [0.5]),
        ({"colour": Path("x")}, ["x"]),
        ({"shape": (1, 2)}, [(1, 2)]),
    ],
)
def test_values_of_python(notebook: Path, grid: dict, values: list) -> None:
    assert repr(axes(notebook, grid, [])[next(iter(grid))]) == repr(values)


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("radii=0.5", "radii: got 0.5 in the grid, wanted list"),
        ("radii=[a]", "wanted list"),
        ("radii=[0.5", "-p radii="),
        ("sides=[1, 2, 3]", "wanted tuple"),
        ("options=[1]", "options: got .1. in the grid, wanted dict"),
        ("schedule=linear", "schedule: got 'linear' in the grid, wanted Literal"),
        ("seed=none", "wanted int"),
    ],
)
def test_wrong_words_are_one_line(
    notebook: Path, tmp_path: Path, word: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["sweep", str(notebook), "-p", word, "-o", str(tmp_path / "o"), "--dry-run"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and message.split(" in the")[0].replace(".1.", "[1]") in error


def test_paths_count_from_here_or_else_from_the_notebook(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cell = (
        'checkpoint: str = "x"\ndataset: str = "cifar10-sample"\nlog: str = ""\nfiles: list = '
        '[]\nout: str = ""'
    )
    notebook = write(tmp_path / "books" / "n.ipynb", cell, "")
    for path in (
        "here/runs/w.pt",
        "here/runs/cifar10-sample",
        "books/own.pt",
        "here/both.pt",
        "books/both.pt",
    ):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text("")
    monkeypatch.chdir(tmp_path / "here")
    here = tmp_path / "here"

    def found(**grid: Any) -> Any:
        (run,) = plan(notebook, grid, tmp_path / "out")
        assert str(tmp_path) not in run.name
        return run.parameters[next(iter(grid))]

    assert (
        found(checkpoint="runs/w.pt") == str(here / "runs" / "w.pt")
        and found(checkpoint="own.pt") == "own.pt"
    )
    assert found(checkpoint="both.pt") == str(here / "both.pt")
    assert (
        found(checkpoint="cifar10-l2-0.5") == "cifar10-l2-0.5"
        and found(checkpoint="timm:a/b") == "timm:a/b"
    )
    assert (
        found(dataset="runs") == str(here / "runs")
        and found(dataset="cifar10-sample") == "cifar10-sample"
    )
    assert (
        found(log="runs/new.txt") == str(here / "runs" / "new.txt") and found(log="runs") == "runs"
    )
    assert found(log="8/255") == "8/255"
    assert found(files=["runs/w.pt", "no/such"]) == [str(here / "runs" / "w.pt"), "no/such"]
    preset = tmp_path / "here" / "p.yaml"
    preset.write_text("checkpoint: runs/w.pt\n")
    (run,) = plan(notebook, {}, tmp_path / "out", presets=["p.yaml"])
    assert run.parameters["checkpoint"] == str(here / "runs" / "w.pt")


@pytest.mark.parametrize(
    ("word", "message"),
    [
        (
            "checkpoint=cifar10-l2-05",
            "checkpoint: unknown checkpoint 'cifar10-l2-05'; near names: cifar10-l2-0.5",
        ),
        ("baseline=no/such.pt", "baseline: unknown checkpoint"),
        ("checkpoint=torchvision:resnet51", "torchvision has no classifier 'resnet51'"),
        ("dataset=cifar10-sampl", "near names: cifar10-sample"),
        ("dataset=EMPTY", "no image in"),
    ],
)
def test_a_dry_run_refuses_checkpoints_and_data_sets_that_are_not_there(
    tmp_path: Path, word: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    word = word.replace("EMPTY", str(tmp_path / "empty"))
    words = [
        str(NOTEBOOKS / "2_inversion.ipynb"),
        "-p",
        word,
        "-o",
        str(tmp_path / "out"),
        "--dry-run",
    ]
    assert main(["sweep", *words]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


def test_a_dry_run_takes_what_is_there(tmp_path: Path) -> None:
    (tmp_path / "w.pt").write_text("")
    words = [
        "-p",
        f"checkpoint=cifar10-standard,{tmp_path / 'w.pt'}",
        "-o",
        str(tmp_path / "out"),
        "--dry-run",
    ]
    assert main(["sweep", str(NOTEBOOKS / "2_inversion.ipynb"), *words]) == 0
    words = ["-p", "checkpoints=[cifar10-standard]", "-p", "radii=[0.5]", *words[2:]]
    assert main(["sweep", str(NOTEBOOKS / "0_robust_training.ipynb"), *words]) == 0


def test_sockets_lie_in_a_short_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / ("x" * 120)))
    with _socket_folder() as folder:
        assert len(os.fsencode(folder)) < 30


@pytest.mark.parametrize(
    ("line", "given", "values"),
    [
        ("p: list[tuple[int, int]] = [(1, 2)]", [[(1, 2)], [(3, 4)]], [[(1, 2)], [(3, 4)]]),
        ("p: list[list[float]] = [[1.0]]", [[[1.0]], [[2.0]]], [[[1.0]], [[2.0]]]),
        ("p: Optional[list[int]] = None", [[1], None], [[1], None]),
        ("p: list[list[float]] = [[1.0]]", [[1.0]], [[[1.0]]]),
    ],
)
def test_several_values_of_a_parameter_that_is_a_list(tmp_path, line, given, values):
    cell = new_code_cell(f'{line}\nout: str = ""', metadata={"tags": ["parameters"]})
    nbformat.write(new_notebook(cells=[cell]), tmp_path / "n.ipynb")
    assert axes(tmp_path / "n.ipynb", {"p": given}, []) == {"p": values}
