"""The exported page computing by itself: seconds until it is there, to a first frame, and to 100
steps; memory.
"""

import os
import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import nbhelpers as nb
from benchmarks import measure
from nbhelpers.networks.radii import series
from nbhelpers.page import export_page
from nbhelpers.widgets.inverting import epsilon_series, inversion
from nbhelpers.widgets.settings import INVERSION
from tests.browser_support import browser, chromium

PICKS = range(1, 11)
AIMS = {"page": 1.5, "first": 0.3, "hundred": 4.0, "answer": 0.05}  # seconds, on two quiet cores
# A pick that is computed: seconds to its first frame, to both networks' hundredth step (then the
# sixteen starts begin), and the longest that the page kept a timer waiting meanwhile. All as the
# browser puts it on the screen.
TIMED = """(option) => new Promise((resolve) => {
  const live = document.querySelector("#inversion [data-state]");
  const step = [...live.querySelectorAll(".nb-said")][0];
  const began = performance.now();
  const seen = live.dataset.drawn;
  let first, answer = 0, last = began;
  const timer = setInterval(() => {
    const now = performance.now();
    answer = Math.max(answer, (now - last - 5) / 1000);
    last = now;
  }, 5);
  const look = () => {
    if (live.dataset.drawn !== seen && live.dataset.state === "running") first ??= (performance.now() - began) / 1000;
    if (!step.textContent.startsWith("the mean")) return requestAnimationFrame(look);
    clearInterval(timer);
    resolve({ first, hundred: (performance.now() - began) / 1000, answer });
  };
  option.click();
  requestAnimationFrame(look);
})"""

MEMORY_AT = (10, 100)  # picks
# Picks an image and waits until its run shows frames.
PICKED = """([option, frames]) => new Promise((resolve) => {
  const live = document.querySelector("#inversion [data-state]");
  const seen = +live.dataset.drawn;
  const look = () => (live.dataset.drawn >= seen + frames ? resolve() : requestAnimationFrame(look));
  option.click();
  look();
})"""


def memory(chrome, page) -> dict[int, dict[str, float]]:
    """Megabytes after so many picks, each of which ends the run before it: tensors, the page's
    objects, the process.
    """
    devtools, found = page.context.new_cdp_session(page), {}
    options = page.locator("#inversion [role=option]").element_handles()
    for k in range(1, max(MEMORY_AT) + 1):
        page.evaluate(PICKED, [options[k % 12], 3])
        if k in MEMORY_AT:
            page.locator("#inversion").get_by_role("button", name="Stop").click()
            page.wait_for_selector("#inversion [data-state=stopped]")
            devtools.send("HeapProfiler.collectGarbage")
            found[k] = {
                "tensors": page.workers[0].evaluate("() => tf.memory().numBytes") / 1e6,
                "objects": devtools.send("Runtime.getHeapUsage")["usedSize"] / 1e6,
                "process": _largest_renderer(chrome),
            }
    return found


def _largest_renderer(chrome) -> float:
    """Resident megabytes, where the system tells; the page's process is the largest that draws."""
    processes = chrome.new_browser_cdp_session().send("SystemInfo.getProcessInfo")["processInfo"]
    files = [Path(f"/proc/{one['id']}/status") for one in processes if one["type"] == "renderer"]
    texts = [file.read_text() for file in files if file.exists()]
    return max(
        (int(text.partition("VmRSS:")[2].split()[0]) / 1000 for text in texts), default=float("nan")
    )


def small_page(folder: Path) -> Path:
    """A page with the two inversions, of which one step is computed beforehand and a hundred in
    the browser.
    """
    names = {"standard": "cifar10-standard", "robust": "cifar10-l2-0.5"}
    models = {label: nb.load_model(name, device="cpu") for label, name in names.items()}
    images, labels = nb.load_images("cifar10-sample", indices=range(12))
    demos = [inversion(models, images, labels, steps=1)]
    demos.append(
        epsilon_series(series("cifar10-l2-0.5", device="cpu"), images[:1], labels[:1], steps=1)
    )
    for demo in demos:
        assert demo.recipe is not None
        demo.recipe = replace(demo.recipe, steps=INVERSION.live)
    return export_page(
        folder / "page.html",
        models=models,
        demos={demo.title: demo for demo in demos},
        work=folder / "work",
    )


def main() -> None:
    print(
        "\n# page: seconds until the exported page is there, and from a click to what its engine "
        "computes"
    )
    if chromium() is None:
        print("no Chromium: install the system's package `chromium`")
        return
    about = measure.header()
    with tempfile.TemporaryDirectory() as folder, browser() as chrome:
        path, runs = small_page(Path(folder)), []
        for k in PICKS:
            page = chrome.new_context(offline=True).new_page()
            began = time.perf_counter()
            page.goto(path.as_uri())
            page.wait_for_selector("body[data-ready]")
            there = time.perf_counter() - began
            page.wait_for_selector("body[data-engine=true]")
            engine = time.perf_counter() - began
            page.wait_for_timeout(500)  # the other networks are read
            page.locator("#inversion").get_by_label("compute every pick here").check()
            page.locator("#inversion").get_by_role("button", name="Stop").click()
            page.wait_for_selector("#inversion [data-state=stopped]")
            option = page.locator("#inversion [role=option]").nth(k).element_handle()
            runs.append({"page": there, "engine": engine, **page.evaluate(TIMED, option)})
            held = memory(chrome, page) if k == PICKS[-1] else {}
            page.context.close()
    about |= {"load after": round(os.getloadavg()[0], 1)}
    print(f"chromium {chrome.version}  load after {about['load after']}")
    rows = []
    for what in ("page", "engine", "first", "hundred", "answer"):
        seconds = [run[what] for run in runs]
        middle, aim = statistics.median(seconds), AIMS.get(what, "")
        rows.append(
            {
                "what": what,
                "median": middle,
                "least": min(seconds),
                "most": max(seconds),
                "aim": aim,
            }
        )
    measure.table(rows)
    print("megabytes after so many picks:")
    kinds = list(held[MEMORY_AT[0]])
    measure.table(
        [{"what": kind, **{f"pick {k}": held[k][kind] for k in MEMORY_AT}} for kind in kinds]
    )
    measure.save("page", {"about": about, "rows": rows, "runs": runs, "memory": held})
