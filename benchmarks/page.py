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

PICKS = range(1, 10)
# Seconds and megabytes on two quiet cores.
AIMS = {"write": 90, "size": 7, "screen": 1.5, "first": 0.3, "hundred": 5.0, "answer": 0.05}
# Seconds from a pick to its first frame and to the hundredth step of both networks on the screen.
# The page's own changes are watched: a timer, or a request for each frame, takes 10 % of two cores.
PICKED = """(option) => new Promise((resolve) => {
  const [bar, status] = [document.getElementById("bar"), document.getElementById("status")];
  bar.value = 100;
  status.textContent = "";
  const began = performance.now();
  let first;
  const watch = new MutationObserver(() => requestAnimationFrame(() => {
    const seconds = (performance.now() - began) / 1000;
    if (bar.value < 50 && /^step /.test(status.textContent)) first ??= seconds;
    if (first === undefined || bar.value < 100) return;
    watch.disconnect();
    resolve({ first, hundred: seconds });
  }));
  watch.observe(bar, { attributes: true });
  watch.observe(status, { childList: true, characterData: true, subtree: true });
  option.click();
})"""
# The longest, in seconds, that the page keeps a timer waiting during a pick's hundred steps.
ANSWERED = """(option) => new Promise((resolve) => {
  const bar = document.getElementById("bar");
  bar.value = 0;
  let [longest, last] = [0, performance.now()];
  const timer = setInterval(() => {
    const now = performance.now();
    longest = Math.max(longest, (now - last - 5) / 1000);
    last = now;
    if (bar.value < 100) return;
    clearInterval(timer);
    resolve(longest);
  }, 5);
  option.click();
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
    """One visit: the page from its file, then two other pictures."""
    page = chrome.new_context(offline=True).new_page()
    began = time.perf_counter()
    page.goto(path.as_uri())
    page.wait_for_selector("body[data-ready]")
    there = time.perf_counter() - began
    page.wait_for_function("() => document.getElementById('bar').value > 0")
    forming = time.perf_counter() - began
    page.wait_for_selector("body[data-state=done]", timeout=300_000)
    options = page.locator(".nb-film [role=option]")
    found = page.evaluate(PICKED, options.nth(k).element_handle())
    answer = page.evaluate(ANSWERED, options.nth(k + 1).element_handle())
    page.context.close()
    return {"pictures": there, "screen": forming, **found, "answer": answer}


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
