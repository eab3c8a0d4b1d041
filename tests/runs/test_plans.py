"""A plan reads each file once, and refuses errors before any run."""

import datetime
import json
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook

from nbhelpers import files
from nbhelpers.commands import main
from nbhelpers.runs import demos, sweeps
from nbhelpers.runs.grid import axes, from_words
from nbhelpers.runs.parameters import parse, read_notebook
from nbhelpers.runs.reports import report
from nbhelpers.runs.sweeps import plan

SAVE = 'import pathlib\npathlib.Path(out, "result.json").write_text(\'{"numbers": {}}\')'


def written(path: Path, cell: str, **metadata) -> Path:
    cells = [new_code_cell(cell, metadata={"tags": ["parameters"]}), new_code_cell(SAVE)]
    nbformat.write(new_notebook(cells=cells, metadata=metadata), path)
    return path


@pytest.fixture
def notebook(tmp_path: Path) -> Path:
    return written(
        tmp_path / "n.ipynb", 'when = None\nname: str = ""\nseed: int = 0\nout: str = ""'
    )


@pytest.mark.long
def test_a_sweep_plans_once_and_reads_its_notebook_once(notebook, tmp_path, monkeypatch):
    read, planned, real_read, real_plan = [], [], nbformat.read, sweeps.plan

    def reading(source, *given, **options):
        read.append(Path(source if isinstance(source, str | Path) else source.name))
        return real_read(source, *given, **options)

    monkeypatch.setattr(nbformat, "read", reading)
    monkeypatch.setattr(sweeps, "plan", lambda *a, **k: planned.append(1) or real_plan(*a, **k))
    words = ["sweep", str(notebook), "-p", "seed=0:2", "-o", str(tmp_path / "out"), "--jobs", "2"]
    assert main(words) == 0
    assert read.count(notebook) == 1 and len(planned) == 1
    assert len([*(tmp_path / "out").glob("seed=*/result.json")]) == 2


@pytest.mark.parametrize("text", ["2020-01-02", "2020-01-02T10:00:00", "12:30", "1_000:2", "0x1F"])
def test_dates_and_times_are_texts(notebook, tmp_path, text):
    (found,) = axes(notebook, from_words([f"when=[{text}]"], notebook), [])["when"]
    assert found == [text] or (text == "0x1F" and found == [31])
    (tmp_path / "p.yaml").write_text(f"when: {text}\n")
    assert isinstance(axes(notebook, {}, [tmp_path / "p.yaml"])["when"][0], str)


@pytest.mark.parametrize(
    "value",
    [datetime.date(2020, 1, 2), object(), [datetime.date(2020, 1, 2)], ...],
    ids=["date", "object", "dates", "ellipsis"],
)
def test_a_value_that_no_cell_can_hold_is_refused(notebook, tmp_path, value):
    for name in ("when", "name"):
        with pytest.raises(ValueError, match=f"{name}: "):
            plan(notebook, {name: value}, tmp_path / "out")


def test_a_kernel_that_is_not_here_gives_way_to_this_environments(tmp_path):
    cell, path = 'seed: int = 0\nout: str = ""', tmp_path / "n.ipynb"
    conda = {"name": "my-conda-env", "display_name": "x", "language": "python"}
    for metadata in ({}, {"kernelspec": conda}, {"language_info": {"name": "ipython"}}):
        assert read_notebook(written(path, cell, **metadata)).kernel == "python3"
    written(path, cell, kernelspec={"name": "ir", "display_name": "R", "language": "R"})
    with pytest.raises(ValueError, match=r"n.ipynb needs the kernel 'ir' \(R\), which is not inst"):
        plan(path, {"seed": 1}, tmp_path / "out")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["-p", "n_images=abc"], "n_images: got 'abc' in -p, wanted int"),
        (["-p", "n_images="], "wanted int"),
        (["-p", "steps=1e2"], "wanted int"),
        (["-p", "steps=1:3"], "wanted int"),
        (["-p", "checkpoint=cifar10-l2-05"], "near names: cifar10-l2-0.5"),
        (["-p", "dataset=cifar10-sampel"], "near names: cifar10-sample"),
        (["-p", "checkpoints=cifar10-standard"], "notebook 2 has no such parameter"),
        (["-p", "out=x"], "each notebook gets its own folder"),
        (["-p", "steps"], "wanted NAME=VALUE"),
        (["--only", "2", "77"], "no notebook of number 77; there are 0, 1, 2"),
    ],
    ids=lambda one: " ".join(one) if isinstance(one, list) else "",
)
def test_a_demo_refuses_before_it_runs(words, message, tmp_path, capsys):
    only = [] if "--only" in words else ["--only", "2"]
    assert main(["demo", str(tmp_path / "out"), *only, *words, "--dry-run"]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1 and not (tmp_path / "out").exists()


def test_a_demo_begins_with_the_notebook_that_took_longest(tmp_path, monkeypatch, capsys):
    paths = [written(tmp_path / f"{name}.ipynb", 'out: str = ""') for name in ("0_a", "1_b", "2_c")]
    ends = ("soon", "2026-01-01T10:00:07Z", "2026-01-01T10:00:40.5Z")
    for path, end in zip(paths, ends, strict=True):
        content = nbformat.read(path, as_version=4)
        times = {"iopub.execute_input": "2026-01-01T10:00:00.5Z", "shell.execute_reply": end}
        content.cells[0].metadata["execution"] = times
        nbformat.write(content, path)
    begun = []

    def run_all(runs, jobs):
        begun.extend(run.notebook.stem for run in runs)
        return [demos.Outcome(run, "failed", "on purpose") for run in runs]

    monkeypatch.setattr(files, "notebooks", lambda: paths)
    monkeypatch.setattr(demos, "run_all", run_all)
    assert main(["demo", str(tmp_path / "out")]) == 1
    assert begun == ["2_c", "1_b", "0_a"]
    told = [line for line in capsys.readouterr().err.splitlines() if line]
    assert told == [f"failed: {path.stem}: on purpose" for path in paths]


def finished(place: Path, seed: int, **files: str) -> None:
    place.mkdir(parents=True)
    run = {"notebook": "n.ipynb", "index": seed, "parameters": {"seed": seed}}
    run |= {"duration_s": 1, "peak_memory_mib": None}
    (place / "run.json").write_text(json.dumps(run))
    for name, text in files.items():
        (place / f"{name}.json").write_text(text)


def test_a_run_without_a_result_is_open(tmp_path):
    finished(tmp_path / "seed=0", 0, result='{"numbers": {"value": {"robust": 1.0}}}')
    finished(tmp_path / "seed=1", 1)
    page = report(tmp_path).read_text(encoding="utf-8")
    assert "1 done, 0 failed, 1 open" in page and "<th>all<td>1<td>1<td>" in page
    assert "open: no result.json" in (tmp_path / "results.csv").read_text(encoding="utf-8")


def test_a_report_over_nothing_and_into_a_folder_is_refused(tmp_path):
    finished(tmp_path / "seed=0", 0, result='{"numbers": {"value": {"robust": 1.0}}}')
    with pytest.raises(ValueError, match="no run has 'sed'; did you mean seed"):
        report(tmp_path, over="sed")
    (tmp_path / "report.html").mkdir()
    with pytest.raises(ValueError, match=r"report\.html is a folder; name a file"):
        report(tmp_path)


def test_an_expression_is_never_computed() -> None:
    assert parse("e = 9**9**9\nd = __import__('os').getpid()").keys() == {"e", "d"}
