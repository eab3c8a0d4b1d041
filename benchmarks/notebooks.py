"""Seconds and peak memory of each notebook with its defaults, kernel start included."""

import subprocess
import sys
import tempfile

from benchmarks import measure
from nbhelpers import files

RUN = """
import resource, sys, time, papermill
began = time.perf_counter()
papermill.execute_notebook(sys.argv[1], sys.argv[2], cwd="notebooks", progress_bar=False)
print(time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024)
"""


def main() -> None:
    print("\n# notebooks: seconds and peak memory of the kernel, defaults")
    about, rows = measure.header(), []
    with tempfile.TemporaryDirectory() as folder:
        for path in files.notebooks():
            done = subprocess.run(
                [sys.executable, "-c", RUN, str(path), f"{folder}/{path.name}"],
                cwd=measure.ROOT,
                capture_output=True,
                text=True,
            )
            if done.returncode:
                print(f"{path.name} failed: {done.stderr.strip().splitlines()[-1]}")
                continue
            seconds, peak = map(float, done.stdout.split()[-2:])
            rows.append({"notebook": path.stem, "seconds": seconds, "peak MB": peak})
    if not rows:
        return
    rows.append(
        {
            "notebook": "all",
            "seconds": sum(r["seconds"] for r in rows),
            "peak MB": max(r["peak MB"] for r in rows),
        }
    )
    measure.table(rows)
    measure.save("notebooks", {"about": about, "rows": rows})
    figure, axes = measure.axes()
    axes.barh([row["notebook"] for row in rows[-2::-1]], [row["seconds"] for row in rows[-2::-1]])
    axes.set(xlabel="seconds", title="Notebooks")
    measure.draw(figure, measure.FOLDER / "notebooks.png")
