"""`make demo`: run the notebooks in parallel, then show their numbers and pages."""

import argparse
import json
import sys
import time
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from nbhelpers import files
from nbhelpers.figures.results import numbers_in, print_numbers
from nbhelpers.files import check_writable
from nbhelpers.runs.grid import one_value
from nbhelpers.runs.inputs import check_named
from nbhelpers.runs.pages import notebook_page
from nbhelpers.runs.parameters import Notebook, read_notebook
from nbhelpers.runs.presets import least_seconds, networks_of, obtain, parts_of, read_preset, survey
from nbhelpers.runs.sweeps import Outcome, Run, plan, run_all
from nbhelpers.types import pick_device


def run_demo(given: argparse.Namespace) -> int:
    """Run `nbhelpers demo`; returns 1 if a notebook failed."""
    known = [read_notebook(path) for path in files.notebooks()]
    notebooks = _chosen(known, given.only)
    words = dict(map(_pair, given.set))
    preset = read_preset(given.preset) if given.preset else {}
    _check_names(preset | words, words, known, notebooks)
    changed = bool(given.preset or given.set)
    if changed:  # the same folder for the same command, to resume
        folder = given.out or Path("runs") / Path(given.preset or "demo").stem
    else:
        folder = (given.out or Path("runs/demo")) / time.strftime("%Y-%m-%d-%H%M%S")
    runs = [_planned(notebook, preset, words, folder, changed) for notebook in notebooks]
    if changed:
        found = survey(networks_of(run.parameters for run in runs), _device(runs))
        _tell(found, [run for run in runs if run.state != "done"], folder)
    elif given.dry_run:
        print(*(run.notebook.stem for run in runs), sep="\n")
    if given.dry_run:
        return 0
    check_writable(folder)
    if changed:
        for one in found:
            if one.address:
                obtain(one.name)
    jobs = 1 if changed and given.jobs is None else given.jobs
    if jobs == 1:
        return _show(run_all(runs, jobs=1))
    # The longest begin first, so that no core is idle at the end.
    first = sorted(runs, key=lambda run: _took(run.notebook), reverse=True)
    ended = {outcome.run.notebook: outcome for outcome in run_all(first, jobs=jobs)}
    return _show([ended[run.notebook] for run in runs])


def _took(path: Path) -> float:
    """Seconds that the saved run of a notebook took; 0 if it has no times that we can read."""
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    times = [time for cell in cells for time in cell["metadata"].get("execution", {}).values()]
    try:
        ends = [datetime.fromisoformat(time) for time in times]
        return (max(ends) - min(ends)).total_seconds() if ends else 0.0
    except (ValueError, TypeError):  # another tool's format
        return 0.0


def _show(outcomes: Sequence[Outcome]) -> int:
    """Print numbers and pages; returns 1 if a notebook failed."""
    done = [outcome.run for outcome in outcomes if outcome.state == "done"]
    failed = [outcome for outcome in outcomes if outcome.state == "failed"]
    executed = [run.folder / run.notebook.name for run in done]
    pages = [notebook_page(path) or path for path in executed]
    for run, page in zip(done, pages, strict=True):
        result = json.loads((run.folder / "result.json").read_text(encoding="utf-8"))
        print(f"\n{run.notebook.stem}   {page}")
        print_numbers(numbers_in(result))
    for outcome in failed:
        print(f"\nfailed: {outcome.run.notebook.stem}: {outcome.message}", file=sys.stderr)
    print(f"\n{len(done)} passed, {len(failed)} failed")
    return 1 if failed else 0


def _chosen(known: Sequence[Notebook], numbers: Sequence[str]) -> list[Notebook]:
    """The notebooks with the given numbers, or all."""
    there = {notebook.path.stem.partition("_")[0]: notebook for notebook in known}
    if strange := [number for number in numbers if number not in there]:
        raise ValueError(
            f"--only: no notebook of number {', '.join(strange)}; there are {', '.join(there)}"
        )
    return [notebook for number, notebook in there.items() if not numbers or number in numbers]


def _pair(word: str) -> tuple[str, str]:
    name, equals, text = word.partition("=")
    if not equals:
        raise ValueError(f"-p {word}: wanted NAME=VALUE")
    if name == "out":
        raise ValueError("-p out: each notebook gets its own folder; FOLDER is given without -p")
    return name, text


def _check_names(
    values: Mapping[str, Any],
    words: Mapping[str, str],
    known: Sequence[Notebook],
    chosen: Sequence[Notebook],
) -> None:
    """Refuse parameters that no notebook has, and words that no chosen notebook has."""
    there = {name for notebook in known for name in notebook.parameters}
    if strange := sorted(values.keys() - there):
        raise ValueError(
            f"no notebook has the parameter {', '.join(strange)}; there are "
            f"{', '.join(sorted(there - {'out'}))}"
        )
    # `checkpoints` is filled from checkpoint and baseline.
    used = {name for notebook in chosen for name in parts_of(values, notebook.parameters)}
    used |= {"checkpoint", "baseline"} if "checkpoints" in used else set()
    if unused := sorted(words.keys() - used):
        numbers = ", ".join(notebook.path.stem.partition("_")[0] for notebook in chosen)
        raise ValueError(f"-p {', '.join(unused)}: notebook {numbers} has no such parameter")


def _planned(
    notebook: Notebook,
    preset: Mapping[str, Any],
    words: Mapping[str, str],
    folder: Path,
    changed: bool,
) -> Run:
    """A run with the values that are parameters of the notebook."""
    values = {
        name: one_value(value, notebook.parameters[name]) if name in words else value
        for name, value in parts_of({**preset, **words}, notebook.parameters).items()
    }
    place = folder / notebook.path.stem
    run, *more = plan(notebook, {}, place, presets=[values], retry_failed=changed)
    if more:
        raise ValueError("a demo takes one value of each parameter; nbhelpers sweep takes several")
    asked = {name: [run.parameters[name]] for name in run.asked}
    check_named(asked, notebook.defaults, notebook.path)
    return run


def _device(runs: Sequence[Run]) -> str:
    return str(runs[0].parameters.get("device", "auto"))


def _tell(found: Sequence[Any], todo: Sequence[Run], folder: Path) -> None:
    """Print the downloads (size, address) and the minimal duration."""
    for one in found:
        size = f"{'' if one.exact else 'at least '}{one.size / 1e6:.0f} MB"
        where = f"to download, {size}, from {one.address}" if one.address else "here already"
        print(f"{one.name}: {where}")
    print(f"{len(todo)} notebooks into {folder}", end="")
    if todo:
        seconds = {one.name: one.seconds for one in found}
        takes = sum(least_seconds(run.parameters, seconds) for run in todo)
        speeds = " and ".join(f"{1000 * one.seconds:.3g} ms" for one in found)
        print(
            f": at least {_duration(takes)} on this {pick_device(_device(todo)).type} ({speeds} "
            "per image and step, timed on two steps)",
            end="",
        )
    print("; after a stop, repeat the command to continue")


def _duration(seconds: float) -> str:
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{max(1, minutes)} min"
