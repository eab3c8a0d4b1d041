"""Demos in JupyterLab: busy or new kernel, large photograph, reopening, narrow windows."""

import numpy
import PIL.Image
import pytest
from browser_support import NEEDS_CHROMIUM, write_notebook

pytestmark = NEEDS_CHROMIUM

DEMO = """
import time
import nbhelpers as nb
names = {"standard": "cifar10-standard", "robust": "cifar10-l2-0.5"}
models = {label: nb.load_model(name, device="cpu") for label, name in names.items()}
images, labels = nb.load_images("cifar10-sample", indices=range(12))
nb.widgets.inversion(models, images, labels, steps=3)
"""
WAITING = "waiting for the kernel…"
NO_ANSWER = "No answer. Is another cell running? Otherwise run this cell again."
# elements of the widget outside the window or their output
BEYOND = """() => {
  const output = document.querySelector(".jp-OutputArea-output:has(.nb-widget)");
  const right = Math.min(innerWidth, output.getBoundingClientRect().right) + 1;
  const all = [...output.querySelectorAll(".nb-widget, .nb-widget *")];
  const beyond = all.filter((element) => element.getBoundingClientRect().right > right);
  if (output.scrollWidth > output.clientWidth + 1) beyond.push(output);
  return beyond.map((element) => element.className);
}"""
# number of thumbnails in the first row
COLUMNS = """() => {
  const tops = [...document.querySelectorAll("[role=option]")].map((option) => option.getBoundingClientRect().top);
  return tops.filter((top) => top === tops[0]).length;
}"""
SHOWN = """(selector) => [...document.querySelectorAll(selector)].filter((e) => e.getClientRects().length).length"""


@pytest.fixture(scope="module")
def notebook(desk):
    write_notebook(desk.folder / "demo.ipynb", DEMO, "time.sleep(8)")
    desk.open("demo.ipynb")
    run_demo(desk)
    yield desk
    # the widgets' extension logs, late, that a kernel's widget has gone
    desk.faults[:] = [fault for fault in desk.faults if "widget model not found" not in fault]


def run_demo(notebook):
    notebook.page.evaluate("() => { jupyterapp.shell.currentWidget.content.activeCellIndex = 0; }")
    notebook.command("notebook:run-cell")
    notebook.page.wait_for_selector(".nb-widget[data-state=done]", timeout=120_000)


def says(notebook, text, seconds):
    """Wait until the widget shows `text`."""
    notebook.page.wait_for_function(
        "(text) => document.querySelector('.nb-widget[data-state]').innerText.includes(text)",
        arg=text,
        timeout=seconds * 1000,
    )


def test_the_robust_network_comes_first(notebook):
    heads = notebook.page.locator(".nb-widget[data-state]").first.inner_text()
    assert -1 < heads.index("robust") < heads.index("standard")


def test_a_pick_while_the_kernel_is_busy_says_so_and_is_answered_later(notebook):
    page = notebook.page
    page.evaluate("() => { jupyterapp.shell.currentWidget.content.activeCellIndex = 1; }")
    notebook.command("notebook:run-cell")
    page.wait_for_timeout(500)
    page.locator("[role=option]").nth(2).click()
    says(notebook, WAITING, 4)
    live = page.locator(".nb-widget[data-state]").first
    assert live.get_attribute("data-state") == "waiting" and "step 3 of 3" not in live.inner_text()
    says(notebook, NO_ANSWER, 20)
    page.wait_for_selector(".nb-widget[data-state=done]", timeout=60_000)
    assert NO_ANSWER not in live.inner_text()


def test_keys_move_and_pick_and_never_reach_jupyterlab(notebook):
    cells = notebook.cells()
    page = notebook.page
    option = page.locator("[role=option]").nth
    option(0).click()
    for key in ("ArrowRight", "ArrowDown", "ArrowLeft", "Enter"):
        page.keyboard.press(key)
    page.wait_for_selector(".nb-widget[data-state=done]", timeout=60_000)
    below = page.evaluate(COLUMNS)
    assert 1 < below < 11 and option(below).get_attribute("aria-selected") == "true"
    for key in ("b", "a", "d", "d", "m", "j"):
        page.keyboard.press(key)
    page.keyboard.press("End")
    page.keyboard.press("Space")
    assert option(11).get_attribute("aria-selected") == "true"
    page.keyboard.press("Home")
    assert page.evaluate("() => document.activeElement.getAttribute('aria-label')") == "cat"
    assert notebook.cells() == cells
    page.wait_for_selector(".nb-widget[data-state=done]", timeout=60_000)


def invert(notebook, path):
    notebook.page.locator("input[type=file]").first.set_input_files(path)
    notebook.page.wait_for_selector(
        f"[role=option][aria-label={path.stem}][aria-selected=true]", timeout=60_000
    )
    notebook.page.wait_for_selector(".nb-widget[data-state=done]", timeout=60_000)


def test_a_file_of_ones_own_is_inverted(notebook, tmp_path):
    PIL.Image.new("RGB", (60, 40), (200, 30, 30)).save(tmp_path / "red.png")
    invert(notebook, tmp_path / "red.png")


def test_a_large_photograph_arrives(notebook, tmp_path):
    noise = numpy.random.default_rng(0).integers(0, 256, (2600, 2700, 3), dtype=numpy.uint8)
    PIL.Image.fromarray(noise).save(tmp_path / "large.png", compress_level=0)
    assert (tmp_path / "large.png").stat().st_size > 20_000_000
    invert(notebook, tmp_path / "large.png")


@pytest.mark.parametrize("width", [390, 640])
def test_nothing_is_cut_off_in_a_narrow_window(notebook, width):
    notebook.page.set_viewport_size({"width": width, "height": 844})
    notebook.page.wait_for_timeout(500)
    beyond = notebook.page.evaluate(BEYOND)
    notebook.page.set_viewport_size({"width": 1280, "height": 1000})
    assert beyond == []


def test_a_pick_after_a_restart_says_that_nobody_answers(notebook):
    page = notebook.page
    page.evaluate("() => jupyterapp.shell.currentWidget.sessionContext.session.kernel.restart()")
    page.wait_for_timeout(1000)
    page.locator("[role=option]").nth(4).click()
    says(notebook, WAITING, 4)
    says(notebook, NO_ANSWER, 20)
    stop = page.locator(".nb-widget[data-state] button", has_text="Stop").first
    assert stop.get_attribute("aria-disabled") == "true"
    run_demo(notebook)


def test_a_reopened_notebook_shows_the_still_picture_until_it_is_run(notebook):
    page = notebook.page
    page.evaluate(
        """async () => {
          const { context, sessionContext } = jupyterapp.shell.currentWidget;
          await context.save();
          await sessionContext.shutdown();
        }"""
    )
    page.reload()
    notebook._wait()
    page.wait_for_function(f"() => ({SHOWN})('.nb-still') === 1", timeout=30_000)
    page.wait_for_timeout(2000)
    assert page.evaluate("jupyterapp.shell.currentWidget.content.model.cells.get(0).trusted")
    assert "Error displaying widget" not in page.inner_text(".jp-Notebook")
    assert page.evaluate(SHOWN, ".jp-OutputArea img") == 1
    assert not page.evaluate("jupyterapp.shell.currentWidget.context.model.dirty")
    run_demo(notebook)
    assert page.evaluate(SHOWN, ".nb-still") == page.evaluate(SHOWN, ".jp-RenderedImage img") == 0
