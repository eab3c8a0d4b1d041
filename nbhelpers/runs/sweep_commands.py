"""The commands `nbhelpers sweep` and `nbhelpers report`."""

import contextlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from nbhelpers.commands import command_parser

if TYPE_CHECKING:
    from nbhelpers.runs.sweeps import Run


def sweep_command(argv: Sequence[str]) -> int:
    """Run a sweep; returns 0 all runs done, 1 some failed."""
    parser = command_parser(
        "sweep", "Run a notebook once per parameter set. The same command again resumes."
    )
    parser.add_argument("notebook", type=Path, help="with a cell tagged `parameters`")
    parser.add_argument(
        "-p",
        dest="grid",
        action="append",
        default=[],
        metavar="NAME=VALUES",
        help="a,b or 0:5 or '[1, 2]'",
    )
    parser.add_argument(
        "-f", dest="presets", action="append", default=[], metavar="YAML", help="fixed parameters"
    )
    parser.add_argument(
        "-o", dest="out", type=Path, required=True, metavar="FOLDER", help="for the runs"
    )
    parser.add_argument(
        "--jobs", type=int, help="runs at a time here (default: one per GPU, or else per core)"
    )
    parser.add_argument(
        "--dask", metavar="ADDRESS", help="a scheduler's address, tcp://HOST:PORT, or local"
    )
    parser.add_argument("--retry-failed", action="store_true", help="run failed runs again")
    parser.add_argument("--dry-run", action="store_true", help="print the plan and end")
    given = parser.parse_args(argv)
    if given.jobs and given.dask and given.dask != "local":
        raise ValueError("--jobs: a Dask scheduler has its own workers; remove --jobs")
    from nbhelpers.runs.grid import from_words
    from nbhelpers.runs.inputs import check_named
    from nbhelpers.runs.parameters import read_notebook
    from nbhelpers.runs.sweeps import plan, run_all
    from nbhelpers.runs.workers import dask_executor

    notebook = read_notebook(given.notebook)
    grid = from_words(given.grid, notebook)
    runs = plan(notebook, grid, given.out, presets=given.presets, retry_failed=given.retry_failed)
    check_named(
        {name: [run.parameters[name] for run in runs] for name in runs[0].asked},
        notebook.defaults,
        notebook.path,
    )
    states = [run.state for run in runs]
    open_runs = states.count("open") + given.retry_failed * states.count("failed")
    print(
        f"{len(runs)} runs in {given.out}: {states.count('done')} done, "
        f"{states.count('failed')} failed, {open_runs} to do"
    )
    _warn_of_changed_code(runs)
    if given.dry_run:
        print(
            *(f"{state:6}  {run.name}" for run, state in zip(runs, states, strict=True)), sep="\n"
        )
        return 0
    dask = dask_executor(given.dask, given.jobs) if given.dask else contextlib.nullcontext()
    with dask as executor:
        outcomes = run_all(runs, executor, jobs=given.jobs)
    failed = [outcome for outcome in outcomes if outcome.state == "failed"]
    print(f"{len(outcomes) - len(failed)} done, {len(failed)} failed")
    for outcome in failed:
        print(f"failed: {outcome.run.folder}: {outcome.message}")
    if any(not outcome.fresh for outcome in failed):
        print("--retry-failed runs them again")
    return 1 if failed else 0


def _warn_of_changed_code(runs: "list[Run]") -> None:
    done = [run.folder / "run.json" for run in runs if run.state == "done"]
    changed = sum(
        json.loads(path.read_text(encoding="utf-8"))["code"] != runs[0].code
        for path in done
        if path.exists()
    )
    if changed:
        print(
            f"note: {changed} of them ran an earlier version of {runs[0].notebook.name}; delete "
            "those to run anew"
        )


def report_command(argv: Sequence[str]) -> int:
    """Report on a sweep; returns the exit status."""
    parser = command_parser("report", "Write report.html and results.csv into a sweep's folder.")
    parser.add_argument("folder", type=Path, help="of a sweep")
    parser.add_argument(
        "--over", default="seed", metavar="NAME", help="the parameter to average over"
    )
    given = parser.parse_args(argv)
    from nbhelpers.runs.reports import report

    print(report(given.folder, over=given.over))
    return 0
