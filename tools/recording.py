"""Record one inversion in the exported page, docs/inversion.webp: python -m tools recording [PAGE]

PAGE is from `nbhelpers gallery`; without it, one is exported.
"""

import io
import sys
import tempfile
from pathlib import Path

import PIL.Image

from benchmarks import measure
from nbhelpers.page import export_page
from tests.browser_support import browser, chromium

PICK = 1  # a gorilla
SECONDS, LAST = 4.0, 1.5  # durations of the run and of its last picture
FRAMES = 40  # at most
LIMIT = 3_000_000  # bytes


def main() -> None:
    print("\n# recording of one inversion in the page")
    if chromium() is None:
        print("no Chromium: install the system's package `chromium`")
        return
    with tempfile.TemporaryDirectory() as folder, browser() as chrome:
        path = Path(sys.argv[1]) if sys.argv[1:] else export_page(Path(folder) / "page.html")
        page = chrome.new_context(
            offline=True, device_scale_factor=1.5, viewport={"width": 720, "height": 900}
        ).new_page()
        page.goto(path.resolve().as_uri())
        page.wait_for_selector("body[data-state=done]", timeout=300_000)
        page.locator(".nb-film [role=option]").nth(PICK).click()
        stage, shots = page.locator("#stage"), []
        while page.evaluate("() => document.body.dataset.state") == "running":
            shots.append(stage.screenshot())
        page.context.close()
    pictures = [PIL.Image.open(io.BytesIO(shot)).convert("RGB") for shot in shots]
    step = max(1, len(pictures) // FRAMES)
    pictures = [*pictures[::step], pictures[-1]]
    each = int(1000 * SECONDS / len(pictures))
    path = measure.ROOT / "docs" / "inversion.webp"
    first, *others = pictures
    durations = [each] * len(others) + [int(1000 * LAST)]
    first.save(
        path, save_all=True, append_images=others, duration=durations, loop=0, quality=80, method=4
    )
    size = path.stat().st_size
    assert size <= LIMIT, f"{size} bytes: fewer frames"
    print(f"{path.relative_to(measure.ROOT)}: {len(pictures)} pictures, {size / 1e3:.0f} kB")
