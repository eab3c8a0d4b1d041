"""`make demo`: run the notebooks, one on each core, then show their numbers and where their
pages are.
"""

import argparse
import json
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from nbhelpers import files
from nbhelpers.figures.results import numbers_in, print_numbers
from nbhelpers.files import write_text
from nbhelpers.runs.grid import defaults
from nbhelpers.runs.pages import notebook_page
from nbhelpers.runs.presets import Weights, estimate, obtain, parts_of, read_preset, survey
from nbhelpers.runs.sweeps import Run, plan, run_all
from nbhelpers.types import pick_device


def run_demo(given: argparse.Namespace) -> int:
    """Run every notebook, with its defaults or with a preset; returns 1 where one failed."""
    notebooks = [
        path
        for path in sorted(files.NOTEBOOKS.glob("[0-9]_*.ipynb"))
        if not given.only or path.stem.partition("_")[0] in given.only
    ]
    if not notebooks:
        raise ValueError(f"--only: no notebook of number {', '.join(given.only)}")
    values = (read_preset(given.preset) if given.preset else {}) | dict(map(_pair, given.set))
    known = {name for path in files.NOTEBOOKS.glob("[0-9]_*.ipynb") for name in defaults(path)}
    if strange := sorted(values.keys() - known):
        raise ValueError(
            f"no notebook has the parameter {', '.join(strange)}; there are "
            f"{', '.join(sorted(known))}"
        )
    if given.preset or given.set:  # a folder that the same command finds again
        folder = given.out or Path("runs") / Path(given.preset or "demo").stem
    else:
        folder = (given.out or Path("runs/demo")) / time.strftime("%Y-%m-%d-%H%M%S")
    if values:
        found = survey(values, str(values.get("device", "auto")))
        _tell(
            found, values, [path for path in notebooks if not _finished(folder / path.stem)], folder
        )
        if given.dry_run:
            return 0
        for one in found:
            if one.address:
                obtain(one.name)
    elif given.dry_run:
        print(*(path.stem for path in notebooks), sep="\n")
        return 0
    runs = [_planned(notebook, values, folder / notebook.stem) for notebook in notebooks]
    pages, failed = {}, []
    for outcome in run_all(runs, jobs=1 if values and given.jobs is None else given.jobs):
        name = outcome.run.notebook.stem
        if outcome.state == "done":
            executed = outcome.run.folder / outcome.run.notebook.name
            pages[name] = notebook_page(executed) or executed
        else:
            failed.append(f"{name}: {outcome.message}")
    for name, path in pages.items():
        result = json.loads((path.parent / "result.json").read_text())
        print(f"\n{name}   {path}")
        print_numbers(numbers_in(result))
    for line in failed:
        print(f"\nfailed: {line}", file=sys.stderr)
    print(f"\n{len(pages)} passed, {len(failed)} failed")
    return 1 if failed else 0


def _pair(word: str) -> tuple[str, Any]:
    name, equals, text = word.partition("=")
    if not equals:
        raise ValueError(f"-p {word}: wanted NAME=VALUE")
    return name, yaml.safe_load(text)


def _planned(notebook: Path, values: Mapping[str, Any], folder: Path) -> Run:
    """A run with those of the values that the notebook has parameters for; what an earlier call
    has done stays done.
    """
    if not values:
        return plan(notebook, {}, folder)[0]
    folder.mkdir(parents=True, exist_ok=True)
    preset = folder / "preset.yaml"
    write_text(
        preset,
        yaml.safe_dump(parts_of(values, defaults(notebook)), allow_unicode=True, sort_keys=False),
    )
    return plan(notebook, {}, folder, presets=[preset], retry_failed=True)[0]


def _finished(folder: Path) -> bool:
    return any(folder.glob("*/result.json"))


def _tell(
    found: Sequence[Weights], values: Mapping[str, Any], todo: Sequence[Path], folder: Path
) -> None:
    """What is downloaded, how large, from where; and how long the notebooks may take on this
    device.
    """
    for one in found:
        size = f"{'' if one.exact else 'at least '}{one.size / 1e6:.0f} MB"
        where = f"to download, {size}, from {one.address}" if one.address else "here already"
        print(f"{one.name}: {where}")
    device = pick_device(str(values.get("device", "auto")))
    speeds = " and ".join(f"{1000 * one.seconds:.3g} ms" for one in found)
    seconds = {one.name: one.seconds for one in found}
    takes = 0.0
    for notebook in todo:
        own = defaults(notebook)
        takes += estimate(notebook.stem, own | parts_of(values, own), seconds)
    print(
        f"{len(todo)} notebooks into {folder}: perhaps {_duration(takes)} on this {device.type}",
        end="",
    )
    print(
        f" ({speeds} per image and step, timed on two steps); the same command goes on where it "
        "was stopped"
    )


def _duration(seconds: float) -> str:
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{max(1, minutes)} min"
