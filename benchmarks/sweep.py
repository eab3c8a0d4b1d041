"""Overhead of a sweep beyond papermill, and the gain of a second job.

Prints seconds per run outside papermill.execute_notebook, and the wall time of four runs of one
busy core each, with one job and with two. Run it on an idle machine.
"""

import os
import platform
import statistics
import tempfile
import time
from pathlib import Path

import nbformat
import papermill
from nbformat.v4 import new_code_cell, new_notebook

from nbhelpers.runs.sweeps import sweep

PARAMETERS = 'seed: int = 0  # a number\nlaps: int = 100  # work\nout: str = ""  # folder'
WORK = """\
import json, pathlib
total = 0
for lap in range(laps):
    total += sum(range(100_000))
pathlib.Path(out, "result.json").write_text(json.dumps({"numbers": {"total": total}}))"""


def main() -> None:
    inside: list[float] = []
    execute = papermill.execute_notebook

    def timed(*arguments, **options):
        began = time.perf_counter()
        try:
            return execute(*arguments, **options)
        finally:
            inside.append(time.perf_counter() - began)

    papermill.execute_notebook = timed
    with tempfile.TemporaryDirectory() as folder:
        cell = new_code_cell(PARAMETERS)
        cell.metadata.tags = ["parameters"]
        kernel = {
            "kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}
        }
        notebook = Path(folder) / "work.ipynb"
        nbformat.write(new_notebook(cells=[cell, new_code_cell(WORK)], metadata=kernel), notebook)

        sweep(notebook, {"seed": range(10), "laps": 1}, f"{folder}/small", jobs=1)
        began = time.perf_counter()
        sweep(notebook, {"seed": range(10, 20), "laps": 1}, f"{folder}/small", jobs=1)
        total, papermills = (time.perf_counter() - began) / 10, statistics.fmean(inside[-10:])
        print(
            f"a run: {total:.3f} s, of it papermill {papermills:.3f} s: overhead "
            f"{total / papermills - 1:.1%}"
        )

        walls = {}
        for jobs in (1, 2):
            began = time.perf_counter()
            sweep(notebook, {"seed": range(4), "laps": 5000}, f"{folder}/{jobs}", jobs=jobs)
            walls[jobs] = time.perf_counter() - began
        print(
            f"four runs: one job {walls[1]:.1f} s, two jobs {walls[2]:.1f} s: "
            f"{walls[1] / walls[2]:.2f} times faster"
        )
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else float("nan")
    print(f"({os.cpu_count()} cores, load average {load:.1f}, Python {platform.python_version()})")


if __name__ == "__main__":
    main()
