"""The report of a sweep, for any recorded runs."""

import base64
import csv
import html
import json
import math
import re
import sys
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbformat.v4 import new_markdown_cell, new_notebook

from nbhelpers.runs.pages import notebook_page
from nbhelpers.runs.reports import report

NAN, INF = math.nan, math.inf


def write(folder: Path, runs: list[tuple[dict[str, Any], Any]]) -> str:
    for index, (parameters, value) in enumerate(runs):
        place = folder / str(index)
        place.mkdir(parents=True)
        numbers = value if isinstance(value, dict) else {"loss": {"m": value}}
        run = {
            "notebook": "n.ipynb",
            "index": index,
            "parameters": parameters,
            "duration_s": 1,
            "peak_memory_mib": None,
        }
        (place / "run.json").write_text(json.dumps(run))
        (place / "result.json").write_text(json.dumps({"numbers": numbers}))
        nbformat.write(new_notebook(cells=[new_markdown_cell(f"run {index}")]), place / "n.ipynb")
    return report(folder).read_text()


@pytest.mark.parametrize(
    "runs",
    [
        [({"seed": 0}, NAN), ({"seed": 1}, 1.0)],
        [({"seed": 0}, INF), ({"seed": 1}, -INF)],
        [({"seed": 0, "a": 1}, 1e308), ({"seed": 1, "a": 2}, 1e308), ({"seed": 1, "a": 2}, -1e308)],
        [
            ({"seed": 0, "radii": [1]}, 1.0),
            ({"seed": 0, "radii": [2, None]}, 2.0),
            ({"seed": 0, "radii": {"a": 1}}, 3.0),
        ],
        [({"seed": [1]}, 1.0), ({"seed": [2]}, 2.0)],
        [({"seed": 0, "rate": 1.0}, 1.0), ({"seed": 0, "rate": 2.0}, 2.0), ({"seed": 1}, 3.0)],
        [({"seed": 0}, 1.0), ({"seed": 0, "new": "x"}, 2.0)],
        [
            ({"seed": 0, "rate": NAN}, 1.0),
            ({"seed": 1, "rate": NAN}, 2.0),
            ({"seed": 0, "rate": INF}, 3.0),
        ],
        [
            ({"seed": 0, "rate": None}, 1.0),
            ({"seed": 0, "rate": 1}, 2.0),
            ({"seed": 0, "rate": True}, 2.0),
        ],
        [
            ({"seed": 0, "x$": "$1"}, {"a $b": {"$n": 1.0}}),
            ({"seed": 0, "x$": "^$_"}, {"a $b": {"$n": None}}),
        ],
        [({"seed": 0}, {}), ({"seed": 1}, {"loss": None})],
        [({"seed": 0}, {"TITLE BODY": 1.0}), ({"seed": 1}, {"TITLE BODY": 1.0})],
    ],
)
def test_a_report_is_written_whatever_was_recorded(tmp_path: Path, runs: list) -> None:
    page = write(tmp_path / "sweep", runs)
    assert "<h2>All runs</h2>" in page and page.rstrip().endswith("</html>")
    with open(tmp_path / "sweep" / "results.csv", newline="") as file:
        assert len(list(csv.DictReader(file))) == len(runs)


def test_means_leave_out_what_is_not_finite_and_say_so(tmp_path: Path) -> None:
    page = write(
        tmp_path / "some", [({"seed": i}, value) for i, value in enumerate((NAN, 1.0, 3.0))]
    )
    assert "2<small> ± 1.4 (1 of 3 not finite)</small>" in page
    assert "<td>nan" in write(tmp_path / "none", [({"seed": 0}, NAN), ({"seed": 1}, NAN)])


def test_a_parameter_that_the_notebook_gained_is_a_row_of_its_own(tmp_path: Path) -> None:
    page = write(
        tmp_path / "sweep",
        [({"seed": 0, "rate": 1}, 1.0), ({"seed": 0, "rate": 1.0}, 2.0), ({"seed": 1}, 3.0)],
    )
    assert "<th>1<" in page and "<th>–<" in page and "1.5<small>" in page


def test_networks_go_by_the_parameter_that_names_them(tmp_path: Path) -> None:
    def numbers(robust: float) -> dict:
        both = {"robust": robust, "standard": 0.1}
        return {
            "distance": both,
            "… of pairs": both,
            "other network sees it": both,
            "… in pairs": both,
        }

    runs = [
        ({"checkpoint": name, "baseline": "standard"}, numbers(0.2)) for name in ("l2", "standard")
    ]
    page = write(tmp_path / "sweep", runs)
    assert (
        "distance · checkpoint" in page and "distance · baseline" in page and "robust" not in page
    )
    with open(tmp_path / "sweep" / "results.csv", newline="") as file:
        other, same = csv.DictReader(file)
    assert (
        other["other network sees it … in pairs · checkpoint"] == "0.2"
        and same["distance … of pairs · checkpoint"]
    )
    assert not same["distance · baseline"]  # the same network
    assert (
        not same["other network sees it · checkpoint"]
        and not same["other network sees it … in pairs · checkpoint"]
    )


def test_links_lead_to_pages_and_damaged_runs_are_told(tmp_path: Path) -> None:
    write(tmp_path / "sweep", [({"seed": 0}, 1.0), ({"seed": 1}, 1.0), ({"seed": 2}, 1.0)])
    (tmp_path / "sweep" / "1" / "n.ipynb").write_text("{")
    (tmp_path / "sweep" / "1" / "n.html").unlink()
    (tmp_path / "sweep" / "2" / "run.json").write_text("{")
    (tmp_path / "sweep" / "0" / "x.png").write_bytes(b"no picture")
    page = report(tmp_path / "sweep").read_text()
    assert (
        'href="0/n.html"' in page and 'href="0/n.ipynb"' not in page and 'href="1/n.ipynb"' in page
    )
    assert "run 0" in (tmp_path / "sweep" / "0" / "n.html").read_text()
    assert "its files cannot be read (JSONDecodeError" in page


def test_pictures_of_a_page_say_what_they_show(tmp_path: Path) -> None:
    picture = {
        "image/png": base64.b64encode(b"picture").decode(),
        "text/plain": "Figure(2 × 3 <images>)",
    }
    told = nbformat.v4.new_output(
        "display_data", picture, metadata={"image/png": {"alt": "a still"}}
    )
    outputs = [nbformat.v4.new_output("execute_result", picture), told]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("", outputs=outputs)])
    nbformat.write(notebook, tmp_path / "n.ipynb")
    text = notebook_page(tmp_path / "n.ipynb").read_text()
    found = re.findall(r'<img\b[^>]*?alt="(.*?)"', text)
    assert [html.unescape(alt) for alt in found] == ["Figure(2 × 3 <images>)", "a still"]


def test_an_nbconvert_that_cannot_be_imported_ends_nothing(tmp_path, monkeypatch):
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell("read")])
    nbformat.write(notebook, tmp_path / "n.ipynb")
    monkeypatch.setitem(sys.modules, "nbconvert", None)  # as with an old version and a new lxml
    assert notebook_page(tmp_path / "n.ipynb") is None


@pytest.mark.parametrize(("number", "index"), [(10**400, 0), (1.0, None)])
def test_a_report_tells_of_a_run_that_cannot_be_read(tmp_path, number, index):
    for k, (value, place) in enumerate([(1.0, 0), (number, index)]):
        (tmp_path / str(k)).mkdir()
        about = {
            "notebook": "n.ipynb",
            "index": place,
            "parameters": {"a": k},
            "duration_s": 1,
            "peak_memory_mib": 1,
        }
        (tmp_path / str(k) / "run.json").write_text(json.dumps(about))
        (tmp_path / str(k) / "result.json").write_text(
            json.dumps({"numbers": {"loss": {"m": value}}})
        )
    assert "cannot be read" in report(tmp_path).read_text(encoding="utf-8")
