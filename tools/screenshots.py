"""Screenshots of the demos in JupyterLab, docs/demo-*.png: python -m tools screenshots

The dark theme's go to runs/bench/.
"""

import io
import tempfile
from pathlib import Path

import PIL.Image

from benchmarks import measure
from tests.browser_support import (
    NOTEBOOKS,
    TIMED_CLICK,
    Notebook,
    browser,
    chromium,
    jupyterlab,
    write_demo,
    write_notebook,
)

SERIES = """import nbhelpers as nb
images, labels = nb.load_images("cifar10-sample", indices=range(12))
nb.widgets.epsilon_series("cifar10-l2-0.5", images, labels)"""
PICK = 3  # of the first picker
LIMIT = 150_000  # bytes of a picture
THEMES = {"Light": measure.ROOT / "docs", "Dark": measure.FOLDER}
# The demo's bounding box, which is narrower than its cell.
BOX = """(output) => {
  document.activeElement.blur(); // no focus ring
  output.scrollIntoView({ block: "center" });
  const all = output.querySelectorAll(".nb-widget :is(img, canvas, figcaption, button, span, .nb-label, .nb-note)");
  const range = document.createRange();
  const closed = "details:not([open]) > :not(summary)"; // has a box, though nobody sees it
  const boxes = [...all].filter((element) => !element.closest(closed)).map((element) => {
    range.selectNodeContents(element);
    return element.matches("img, canvas, button") ? element.getBoundingClientRect() : range.getBoundingClientRect();
  }).filter((box) => box.width);
  const [left, top] = ["left", "top"].map((side) => Math.min(...boxes.map((box) => box[side])) - 8);
  const [right, bottom] = ["right", "bottom"].map((side) => Math.max(...boxes.map((box) => box[side])) + 8);
  return { x: left, y: top, width: right - left, height: bottom - top };
}"""


def main() -> None:
    print("\n# screenshots of the demos")
    if chromium() is None:
        print("no Chromium: install the system's package `chromium`")
        return
    with tempfile.TemporaryDirectory() as folder, browser() as chrome:
        for source in NOTEBOOKS:
            write_demo(source, Path(folder) / f"{source.stem.partition('_')[2]}.ipynb")
        write_notebook(Path(folder) / "epsilon_series.ipynb", SERIES)
        names = ["epsilon_series", *(source.stem.partition("_")[2] for source in NOTEBOOKS)]
        with jupyterlab(Path(folder)) as address:
            notebook = Notebook(chrome, address, f"{names[0]}.ipynb")
            notebook.page.set_viewport_size({"width": 1280, "height": 1600})
            for name in names:
                if name != names[0]:
                    notebook.open(f"{name}.ipynb")
                notebook.run_all(widgets=1, seconds=1800)
                option = notebook.page.locator("[role=option]").nth(PICK).element_handle()
                live = notebook.page.locator(".nb-widget[data-state]").first.element_handle()
                notebook.page.evaluate(TIMED_CLICK, [option, live])
                if notebook.page.locator(".nb-palette").count():
                    _paint(notebook)
                for theme, place in THEMES.items():
                    notebook.theme(theme)
                    notebook.page.wait_for_timeout(500)  # its style sheet loads
                    output = notebook.page.locator(".jp-OutputArea-output:has(.nb-widget)").first
                    _save(
                        notebook.page.screenshot(clip=output.evaluate(BOX)),
                        place / f"demo-{name}.png",
                    )
            notebook.close()


def _paint(notebook: Notebook) -> None:
    """Paint a stroke with the second component."""
    notebook.page.locator(".nb-palette [role=option]").nth(1).click()
    board = notebook.page.locator(".nb-board")
    board.scroll_into_view_if_needed()
    box = board.bounding_box()
    across = [
        (box["x"] + share * box["width"], box["y"] + 0.6 * box["height"]) for share in (0.3, 0.6)
    ]
    notebook.page.mouse.move(*across[0])
    notebook.page.mouse.down()
    notebook.page.mouse.move(*across[1], steps=5)
    notebook.page.mouse.up()
    notebook.page.wait_for_function(
        "() => document.querySelector('.nb-paint [role=status]').textContent.endsWith('1 stroke')"
    )
    notebook.page.wait_for_timeout(300)


def _save(shot: bytes, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with PIL.Image.open(io.BytesIO(shot)) as picture:
        picture.convert("RGB").save(path, optimize=True)
        if path.stat().st_size > LIMIT:
            picture.convert("RGB").quantize(256).save(path, optimize=True)
    print(f"wrote {path.relative_to(measure.ROOT)}, {path.stat().st_size / 1000:.0f} kB")
