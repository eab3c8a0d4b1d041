"""Sweeps: checked before running, complete after kills (real kernels, a real cluster)."""

import csv
import errno
import json
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import nbformat
import PIL.Image
import psutil
import pytest
from nbformat.v4 import new_code_cell, new_notebook
from samples import put

from nbhelpers.commands import main
from nbhelpers.runs import sweeps
from nbhelpers.runs.grid import run_name, split_values
from nbhelpers.runs.reports import read_runs, report
from nbhelpers.runs.sweeps import Run, plan, sweep
from nbhelpers.runs.workers import cores, dask_executor, shares

PARAMETERS = """\
from typing import Optional
checkpoint: str = "one"  # network
seed: int = 0  # random generator
rate: float = 1e-3  # step
flag: bool = False  # a switch
limit: Optional[int] = None  # or none
picks: list = [1, 2]  # indices
pause: float = 0.0  # seconds
log: str = ""  # one line per execution
out: str = ""  # folder
"""
BODY = """\
import json, os, pathlib, time
def note(word):
    with open(log, "a") as file:
        file.write(f"{word} {seed} {os.getpid()} {os.environ.get('OMP_NUM_THREADS')}\\n")
if log: note("begin")
time.sleep(pause)
if flag and seed == 3: raise ValueError("on purpose")
if flag and seed == 5: os.kill(os.getpid(), 9)
"""
END = """\
pathlib.Path(out, "picture.png").write_bytes(b"picture")
numbers = {"loss": {"robust": seed / 10, "null": 1.0}}
result = dict(parameters=dict(seed=seed), numbers=numbers, images=[], versions={}, device="cpu", seed=seed)
pathlib.Path(out, "result.json").write_text(json.dumps(result))
if log: note("end")
"""


@pytest.fixture
def notebook(tmp_path: Path) -> Path:
    parameters = new_code_cell(PARAMETERS)
    parameters.metadata.tags = ["parameters"]
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    notebook = new_notebook(
        cells=[parameters, new_code_cell(BODY), new_code_cell(END)], metadata={"kernelspec": kernel}
    )
    nbformat.write(notebook, tmp_path / "tiny.ipynb")
    return tmp_path / "tiny.ipynb"


def parameters_of(runs: list[Run], *names: str) -> list[tuple]:
    return [tuple(run.parameters[name] for name in names) for run in runs]


def test_a_plan_is_all_combinations_in_order_with_the_notebooks_types(
    notebook: Path, tmp_path: Path
) -> None:
    (tmp_path / "fixed.yaml").write_text("rate: 1e-2\npicks: [5]\nseed: 9\n")
    grid = {"checkpoint": ["one", "two"], "seed": range(2), "limit": "none", "flag": "true"}
    runs = plan(notebook, grid, tmp_path / "out", presets=["fixed.yaml"])
    assert parameters_of(runs, "checkpoint", "seed") == [
        ("one", 0),
        ("one", 1),
        ("two", 0),
        ("two", 1),
    ]
    assert parameters_of(runs, "rate", "picks", "limit", "flag") == [(0.01, [5], None, True)] * 4
    assert len({run.name for run in runs}) == 4


@pytest.mark.parametrize(
    ("text", "kind", "values"),
    [
        ("0:3", int, [0, 1, 2]),
        ("0:10:4", int, [0, 4, 8]),
        ("3:0:-1", int, [3, 2, 1]),
        ("1,5", int, ["1", "5"]),
        ("cuda:0,cpu", str, ["cuda:0", "cpu"]),
    ],
)
def test_values_of_the_command_line(text: str, kind: type, values: list) -> None:
    assert split_values(text, kind) == values


def test_run_names_are_readable_safe_and_different() -> None:
    assert (
        run_name({"checkpoint": "cifar10-l2-0.5", "seed": 3}) == "checkpoint=cifar10-l2-0.5,seed=3"
    )
    odd = ["a/b", "a b", "a:b", "../a", "x" * 300, "x" * 301, "é"]
    names = [run_name({"checkpoint": value}) for value in odd]
    assert len(set(names)) == len(odd) and all(len(name) < 130 and name.isascii() for name in names)
    assert not any(character in name for name in names for character in '/\\: *?"<>|')


@pytest.mark.parametrize(
    ("grid", "message"),
    [
        ({"sed": 1}, "unknown parameter 'sed' in the grid; did you mean seed?"),
        ({"seed": "x"}, "seed: got 'x' in the grid, wanted int"),
        ({"seed": 0.5}, "wanted int"),
        ({"seed": True}, "wanted int"),
        ({"flag": "yes please"}, "wanted bool"),
        ({"seed": None}, "wanted int"),
        ({"seed": []}, "no value"),
        ({"out": "elsewhere"}, "out: the sweep itself"),
    ],
)
def test_a_wrong_grid_is_refused_before_anything_runs(
    notebook: Path, tmp_path: Path, grid: dict, message: str
) -> None:
    with pytest.raises(ValueError, match=message.replace("?", r"\?")):
        sweep(notebook, grid, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_other_mistakes_are_one_clear_line(
    notebook: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("in the way")
    (tmp_path / "bad.yaml").write_text("sede: 1\n")
    (tmp_path / "broken.ipynb").write_text("{")
    here, there = str(notebook), ["-o", str(tmp_path / "out")]
    cases = {
        "did you mean tiny.ipynb": [str(tmp_path / "tinny.ipynb"), *there],
        "cannot be read as a notebook": [str(tmp_path / "broken.ipynb"), *there],
        "no parameter file": [here, "-f", "none.yaml", *there],
        "bad.yaml; did you mean seed?": [here, "-f", str(tmp_path / "bad.yaml"), *there],
        "wanted NAME=VALUES": [here, "-p", "seed", *there],
        "cannot write to": [here, "-o", str(tmp_path / "file")],
        "no run in": ["report", str(tmp_path)],
    }
    for message, words in cases.items():
        assert main(words if words[0] == "report" else ["sweep", *words]) == 2
        error = capsys.readouterr().err
        assert message in error and error.count("\n") == 1


def test_a_dry_run_prints_the_plan_and_runs_nothing(
    notebook: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert (
        main(["sweep", str(notebook), "-p", "seed=0:3", "-o", str(tmp_path / "out"), "--dry-run"])
        == 0
    )
    printed = capsys.readouterr().out
    assert "3 runs" in printed and "3 to do" in printed and "open    seed=2" in printed
    assert not (tmp_path / "out").exists()


def lines(log: Path, word: str) -> list[list[str]]:
    return [line.split() for line in log.read_text().splitlines() if line.startswith(word)]


def wait_for(condition, seconds: float = 300) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.02)


def check_finished(out: Path, seeds: set[int]) -> None:
    """Every result is complete."""
    for place in out.glob("seed=*"):
        done, failed = (place / "result.json").exists(), (place / "error.txt").exists()
        assert done != failed
        record = json.loads((place / "run.json").read_text())
        nbformat.validate(nbformat.read(place / "tiny.ipynb", 4))
        assert (
            str(place) in (place / "tiny.ipynb").read_text()
            and record["parameters"]["seed"] in seeds
        )
        if done:
            result = json.loads((place / "result.json").read_text())
            assert (
                result["duration_s"] > 0
                and result["numbers"]["loss"]["robust"] == result["seed"] / 10
            )
            assert sys.platform != "linux" or result["peak_memory_mib"] > 10
            assert (place / "picture.png").read_bytes() == b"picture"


def test_six_runs_two_failures_and_a_killed_driver(
    notebook: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, log = tmp_path / "out", tmp_path / "log"
    words = [
        str(notebook),
        "-p",
        "seed=0:6",
        "-p",
        "flag=true",
        "-p",
        f"log={log}",
        "-o",
        str(out),
        "--jobs",
        "2",
    ]
    driver = subprocess.Popen(
        [sys.executable, "-m", "nbhelpers", "sweep", *words], stderr=subprocess.DEVNULL
    )
    wait_for(lambda: len(list(out.glob("seed=*/run.json"))) >= 4)
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    check_finished(out, set(range(6)))
    before = {place.name: (place / "run.json").stat().st_mtime_ns for place in out.glob("seed=*")}

    assert main(["sweep", *words]) == 1
    printed = capsys.readouterr()
    assert "4 done, 2 failed" in printed.out and "ValueError: on purpose" in printed.out
    check_finished(out, set(range(6)))
    after = {place.name: (place / "run.json").stat().st_mtime_ns for place in out.glob("seed=*")}
    assert len(after) == 6 and before.items() <= after.items()  # nothing was repeated
    assert len(list(out.glob("seed=*/result.json"))) == 4
    errors = [path.read_text().splitlines()[0] for path in sorted(out.glob("seed=*/error.txt"))]
    assert errors[0] == "ValueError: on purpose" and "DeadKernelError" in errors[1]
    assert not list((out / ".running").iterdir())
    if "OMP_NUM_THREADS" not in os.environ:
        assert {line[3] for line in lines(log, "begin")} == {str(max(1, cores() // 2))}

    # repeated if the driver was killed before the final rename
    ended = lines(log, "end")
    outcomes = sweep(notebook, {"seed": range(6), "flag": True, "log": str(log)}, out)
    # failures are repeated only on request
    assert [outcome.fresh for outcome in outcomes] == [False] * 6
    assert len(ended) >= 4 and lines(log, "end") == ended


def test_failures_are_retried_when_asked(notebook: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    first = sweep(notebook, {"seed": [3], "flag": True}, out, jobs=1)
    assert [outcome.state for outcome in first] == ["failed"]
    source = notebook.read_text().replace("seed == 3", "seed == 30")
    notebook.write_text(source)
    again = sweep(notebook, {"seed": [3], "flag": True}, out, jobs=1, retry_failed=True)
    assert [outcome.state for outcome in again] == ["done"]
    assert not (out / "seed=3,flag=True" / "error.txt").exists()


def test_other_fixed_parameters_do_not_pass_for_done(notebook: Path, tmp_path: Path) -> None:
    sweep(notebook, {"seed": 0}, tmp_path / "out", jobs=1)
    (tmp_path / "fixed.yaml").write_text("rate: 2.0\n")
    with pytest.raises(ValueError, match=r"was run with rate=0.001, now wanted with 2.0"):
        plan(notebook, {"seed": 0}, tmp_path / "out", presets=["fixed.yaml"])


def test_two_sweeps_share_a_folder(notebook: Path, tmp_path: Path) -> None:
    log, outcomes = tmp_path / "log", []
    grid = {"seed": range(3), "pause": 0.5}
    (tmp_path / "fixed.yaml").write_text(f"log: {log}\n")

    def one() -> None:
        outcomes.append(sweep(notebook, grid, tmp_path / "out", presets=["fixed.yaml"], jobs=1))

    threads = [threading.Thread(target=one) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(lines(log, "begin")) == len(lines(log, "end")) == 3
    assert [[outcome.state for outcome in each] for each in outcomes] == [["done"] * 3] * 2


def test_a_full_disk_is_told_and_forgotten(
    notebook: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, text: str) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(sweeps, "_write", full)
        (outcome,) = sweep(notebook, {"seed": 0}, tmp_path / "out", jobs=1)
    assert outcome.state == "failed" and "No space left" in outcome.message
    assert not (tmp_path / "out" / "seed=0").exists() and not list(
        (tmp_path / "out" / ".running").iterdir()
    )
    (outcome,) = sweep(notebook, {"seed": 0}, tmp_path / "out", jobs=1)
    assert outcome.state == "done"


def test_any_executor_will_do_and_its_own_failure_is_an_outcome(
    notebook: Path, tmp_path: Path
) -> None:
    class Broken(ThreadPoolExecutor):
        def submit(self, *_: object, **__: object) -> Future:
            future: Future = Future()
            future.set_exception(RuntimeError("no worker left"))
            return future

    with Broken() as executor:
        (outcome,) = sweep(notebook, {"seed": 0}, tmp_path / "out", executor)
    assert outcome.state == "failed" and "no worker left" in outcome.message
    with ThreadPoolExecutor(1) as executor:
        (outcome,) = sweep(notebook, {"seed": 0}, tmp_path / "out", executor)
    assert outcome.state == "done"


def test_a_dask_worker_dies_and_all_runs_finish(notebook: Path, tmp_path: Path) -> None:
    pytest.importorskip("distributed")
    out, log = tmp_path / "out", tmp_path / "log"
    grid = {"seed": range(3), "pause": 0.5, "log": str(log)}
    with dask_executor("local", 2) as executor:

        def kill_one() -> None:
            wait_for(lambda: log.exists() and lines(log, "begin"))
            worker = psutil.Process(int(lines(log, "begin")[0][2])).ppid()  # the kernel's parent
            os.kill(worker, signal.SIGKILL)

        killer = threading.Thread(target=kill_one)
        killer.start()
        outcomes = sweep(notebook, grid, out, executor)
        killer.join()
    assert [outcome.state for outcome in outcomes] == ["done"] * 3
    check_finished(out, set(range(3)))
    assert len(lines(log, "begin")) > 3  # the killed run was repeated


def test_kernels_killed_on_the_way_leave_only_whole_results(notebook: Path, tmp_path: Path) -> None:
    out, log = tmp_path / "out", tmp_path / "log"
    fresh = {"seed": range(2), "pause": 0.3, "log": str(log)}
    for wait in (0.0, 0.25):  # seconds after a kernel's start
        done = len(lines(log, "begin")) if log.exists() else 0

        def kill_a_kernel(seen: int = done, wait: float = wait) -> None:
            wait_for(lambda: log.exists() and len(lines(log, "begin")) > seen)
            time.sleep(wait)
            try:
                os.kill(int(lines(log, "begin")[-1][2]), signal.SIGKILL)
            except ProcessLookupError:
                return

        killer = threading.Thread(target=kill_a_kernel)
        killer.start()
        sweep(notebook, fresh, out, jobs=1, retry_failed=True)
        killer.join()
        check_finished(out, set(range(2)))
    assert {
        outcome.state for outcome in sweep(notebook, fresh, out, jobs=2, retry_failed=True)
    } == {"done"}


def fake_run(out: Path, index: int, checkpoint: str, seed: int, error: str = "") -> None:
    place = out / f"checkpoint={checkpoint},seed={seed}"
    place.mkdir(parents=True)
    parameters = {"checkpoint": checkpoint, "seed": seed, "rate": 0.1}
    run = {
        "notebook": "n.ipynb",
        "index": index,
        "parameters": parameters,
        "duration_s": 2.0,
        "peak_memory_mib": 90.0,
    }
    (place / "n.ipynb").write_text("{}")
    (place / "run.json").write_text(json.dumps(run | ({"error": error} if error else {})))
    if error:
        (place / "error.txt").write_text(error)
        return
    numbers = {"distance <x>": {checkpoint: 0.1 * seed, "null": 1.0}}
    (place / "result.json").write_text(
        json.dumps({"numbers": numbers, "device": "cpu", "versions": {"torch": "2"}})
    )
    PIL.Image.new("RGB", (900, 300), (seed * 40, 90, 90)).save(place / "images.png")


def test_the_report_averages_over_seeds_links_and_escapes(tmp_path: Path) -> None:
    index = 0
    for checkpoint in ("two", "one"):
        for seed in range(3):
            fake_run(
                tmp_path,
                index,
                checkpoint,
                seed,
                "ValueError: <no>" if (checkpoint, seed) == ("one", 2) else "",
            )
            index += 1
    page = report(tmp_path).read_text()
    assert "0.1<small> ± 0.1</small>" in page  # mean and standard deviation of 0, 0.1, 0.2
    assert (
        "distance &lt;x&gt; · checkpoint" in page
        and "ValueError: &lt;no&gt;" in page
        and "<no>" not in page
    )
    # from tables and from the contact sheet
    assert page.count('href="checkpoint%3Dtwo%2Cseed%3D1/n.ipynb"') >= 3
    assert page.index("<th>two") < page.index("<th>one")  # the plan's order
    assert page.count("data:image/webp") == 5 and "<svg" in page and "#010203" not in page
    assert "src=http" not in page and "<script" not in page
    with open(tmp_path / "results.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert (
        len(rows) == 6
        and rows[1]["distance <x> · checkpoint"] == "0.1"
        and rows[5]["error"] == "ValueError: <no>"
    )
    assert [record.index for record in read_runs(tmp_path)] == list(range(6))


def test_one_run_has_all_cores_and_no_jobs_are_refused(monkeypatch, capsys, tmp_path):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert [share["OMP_NUM_THREADS"] for share in shares(None, 1)] == [str(cores())]
    assert len(shares(3, 2)) == 2 and len(shares(2, 5)) == 2
    assert main(["demo", str(tmp_path), "--only", "3", "--jobs", "0"]) == 2
    assert capsys.readouterr().err.endswith("error: jobs: got 0, wanted at least 1\n")


def notebook_of(folder: Path) -> Path:
    source = 'dataset: str = "mine"\ncheckpoint: str = "net.pt#ema"\nseed: int = 0\nout: str = ""'
    cell = new_code_cell(source, metadata={"tags": ["parameters"]})
    nbformat.write(new_notebook(cells=[cell]), folder / "n.ipynb")
    return folder / "n.ipynb"


@pytest.mark.parametrize("changed", ["mine", "net.pt"])
def test_a_sweep_goes_on_with_the_same_images_and_weights_only(tmp_path, changed):
    put(tmp_path / "mine", "0.png", "1.png")
    (tmp_path / "net.pt").write_bytes(b"weights")
    notebook, out = notebook_of(tmp_path), tmp_path / "out"
    (run,) = plan(notebook, {"seed": [1]}, out)
    run.folder.mkdir(parents=True)
    record = {"parameters": dict(run.parameters), "made_from": dict(run.made_from)}
    (run.folder / "run.json").write_text(json.dumps(record))
    (run.folder / "result.json").write_text("{}")
    assert plan(notebook, {"seed": [1]}, out)[0].state == "done"
    if changed == "mine":
        put(tmp_path / "mine", "1.png")
    else:
        (tmp_path / "net.pt").write_bytes(b"others")
    with pytest.raises(ValueError, match=f"other contents of .*{changed}.*; choose another folder"):
        plan(notebook, {"seed": [1]}, out)
