"""Seconds from a click to first frame, inversions and means: notebook 2 in JupyterLab."""

import os
import statistics
import tempfile
from importlib.metadata import version
from pathlib import Path

from benchmarks import measure
from tests.browser_support import (
    NOTEBOOKS,
    TIMED_CLICK,
    Notebook,
    browser,
    chromium,
    jupyterlab,
    write_demo,
)

PICKS = range(1, 11)  # distinct, since results are cached
STEPS = 100  # of the inversions; then the means of sixteen begin
AIMS = {"first": 0.25, "reached": 3.0, "finished": ""}  # seconds, on two quiet cores


def main() -> None:
    print(
        "\n# latency: seconds from a click, as the browser shows it, to the first frame, the "
        "inversions, the means"
    )
    if chromium() is None:
        print("no Chromium: install the system's package `chromium`")
        return
    about = measure.header()
    with tempfile.TemporaryDirectory() as folder, browser() as chrome:
        about |= {"chromium": chrome.version, "jupyterlab": version("jupyterlab")}
        source = next(path for path in NOTEBOOKS if "inversion" in path.name)
        write_demo(source, Path(folder) / source.name)
        with jupyterlab(Path(folder)) as address:
            notebook = Notebook(chrome, address, source.name)
            notebook.run_all(widgets=1)
            live = notebook.page.locator(".nb-widget[data-state]").element_handle()
            runs = []
            for k in PICKS:
                notebook.page.wait_for_timeout(500)  # the previous run ends
                option = notebook.page.locator("[role=option]").nth(k).element_handle()
                runs.append(notebook.page.evaluate(TIMED_CLICK, [option, live, STEPS]))
            note = notebook.page.locator(".nb-note").inner_text()
            notebook.close()
    about |= {"load after": round(os.getloadavg()[0], 1)}
    print(
        f"chromium {about['chromium']}  jupyterlab {about['jupyterlab']}  load after "
        f"{about['load after']}"
    )
    print(
        f"{len(runs)} picks; {statistics.median(run['frames'] for run in runs):g} frames each; "
        f"{note}"
    )
    rows = []
    for what, aim in AIMS.items():
        seconds = [run[what] for run in runs]
        middle = statistics.median(seconds)
        rows.append(
            {
                "click to": what,
                "median": middle,
                "least": min(seconds),
                "most": max(seconds),
                "aim": aim,
            }
        )
    measure.table(rows)
    measure.save("latency", {"about": about, "rows": rows, "runs": runs})
