"""The exported page: seconds to write it, megabytes, and in the browser seconds until the first
screen, to a first frame, to 100 steps of both networks, and until a click is answered.
"""

import os
import re
import statistics
import tempfile
import time
from pathlib import Path

from benchmarks import measure
from nbhelpers.page import export_page
from tests.browser_support import browser, chromium

PICKS = range(1, 6)
# Seconds and megabytes on two quiet cores.
AIMS = {"write": 90, "size": 7, "screen": 1.5, "first": 0.3, "hundred": 5.0, "answer": 0.05}
# A pick: seconds to its first frame and to the hundredth step of both networks, and the longest
# that the page kept a timer waiting meanwhile. All as the browser puts it on the screen.
TIMED = """(option) => new Promise((resolve) => {
  const [bar, { body }] = [document.getElementById("bar"), document];
  const second = document.querySelectorAll("#stage figcaption span")[1];
  const began = performance.now();
  let first, answer = 0, last = began;
  const timer = setInterval(() => {
    const now = performance.now();
    answer = Math.max(answer, (now - last - 5) / 1000);
    last = now;
  }, 5);
  option.click();
  const look = () => {
    const seconds = (performance.now() - began) / 1000;
    if (bar.value < 50 && /^step /.test(document.getElementById("status").textContent)) first ??= seconds;
    if (first === undefined || bar.value < 100) return requestAnimationFrame(look);
    clearInterval(timer);
    resolve({ first, hundred: seconds, answer });
  };
  bar.value = 100;
  document.getElementById("status").textContent = "";
  requestAnimationFrame(look);
})"""


def parts(path: Path) -> list[dict[str, object]]:
    """Megabytes of a page by what they are."""
    text = path.read_text(encoding="utf-8")
    found = {"networks": 0, "posters": 0}
    for name, content in re.findall(
        r'<script[^>]*id="([a-z]+)[^"]*">(.*?)</script>', text, re.DOTALL
    ):
        key = "networks" if name == "weights" else name
        found[key] = found.get(key, 0) + len(content.encode())
    found["posters"] = sum(map(len, re.findall(r'src="data:(.*?)"', text)))
    found["page"] = len(text.encode())
    return [{"what": name, "MB": size / 1e6} for name, size in found.items()]


def opening(chrome, path: Path, k: int) -> dict[str, float]:
    """One visit: the page from its file, then another picture."""
    page = chrome.new_context(offline=True).new_page()
    began = time.perf_counter()
    page.goto(path.as_uri())
    page.wait_for_selector("body[data-ready]")
    there = time.perf_counter() - began
    page.wait_for_function("() => document.getElementById('bar').value > 0")
    forming = time.perf_counter() - began
    page.wait_for_selector("body[data-state=done]", timeout=300_000)
    option = page.locator(".nb-film [role=option]").nth(k).element_handle()
    found = page.evaluate(TIMED, option)
    page.context.close()
    return {"pictures": there, "screen": forming, **found}


def main() -> None:
    print("\n# page: written, opened, and from a click to what its engine computes")
    if chromium() is None:
        print("no Chromium: install the system's package `chromium`")
        return
    about = measure.header()
    with tempfile.TemporaryDirectory() as folder, browser() as chrome:
        began = time.perf_counter()
        path = export_page(Path(folder) / "page.html")
        written, sizes = time.perf_counter() - began, parts(path)
        runs = [opening(chrome, path, k) for k in PICKS]
        print(f"chromium {chrome.version}")
    about |= {"load after": round(os.getloadavg()[0], 1)}
    print(f"load after {about['load after']}")
    rows = [{"what": "write", "median": written, "least": written, "most": written}]
    for what in ("pictures", "screen", "first", "hundred", "answer"):
        seconds = [run[what] for run in runs]
        middle = statistics.median(seconds)
        rows.append({"what": what, "median": middle, "least": min(seconds), "most": max(seconds)})
    measure.table([row | {"aim": AIMS.get(str(row["what"]), "")} for row in rows])
    measure.table(sizes)
    measure.save("page", {"about": about, "rows": rows, "runs": runs, "sizes": sizes})
