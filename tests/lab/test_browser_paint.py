"""The canvas in JupyterLab, by mouse and keyboard, in the system's Chromium."""

import json
import re

import numpy as np
import PIL.Image
import pytest
from browser_support import NEEDS_CHROMIUM, axe, pixels, serious, write_notebook

import nbhelpers as nb
from nbhelpers.widgets.strokes import read_note, signed

pytestmark = NEEDS_CHROMIUM

SHOW = """
import os
os.environ["NBHELPERS_CACHE"] = os.path.abspath("cache")  # for the components' names
import nbhelpers as nb
names = {"standard": "cifar10-standard", "robust": "cifar10-l2-0.5"}
models = {label: nb.load_model(name, device="cpu") for label, name in names.items()}
images, labels = nb.load_images("cifar10-sample", indices=range(100))
nb.widgets.paint(models, images, labels)
"""


@pytest.fixture(scope="module")
def notebook(desk):
    write_notebook(desk.folder / "paint.ipynb", SHOW)
    desk.open("paint.ipynb")
    desk.run_all(widgets=1)
    desk.page.wait_for_selector(".nb-paint[data-drawn]")
    desk.page.locator(".nb-board").scroll_into_view_if_needed()
    return desk


def canvas(notebook, k=0):
    return pixels(notebook.page.locator(".nb-paint canvas:not(.nb-cover)").nth(k))[0]


def strokes(notebook, count):
    """Wait until `count` strokes are done and drawn."""
    ends = (
        f"() => document.querySelector('.nb-paint [role=status]').textContent.endsWith('{count} "
        "stroke"
    )
    ending = "s" if count != 1 else ""
    notebook.page.wait_for_function(
        f"{ends}{ending}') && document.querySelector('.nb-paint').dataset.state !== 'running'",
        timeout=60_000,
    )
    notebook.page.wait_for_timeout(300)


def drag(notebook, start, end):
    box = notebook.page.locator(".nb-board").bounding_box()
    places = [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in (start, end)]
    notebook.page.mouse.move(*places[0])
    notebook.page.mouse.down()
    notebook.page.mouse.move(*places[1], steps=5)
    notebook.page.mouse.up()


def shot(notebook, name):
    notebook.page.screenshot(path=notebook.folder / f"{name}.png")


def test_a_stroke_by_mouse_changes_what_it_covers_and_nothing_else(notebook):
    strokes(notebook, 1)
    before = canvas(notebook)
    shot(notebook, "open")
    notebook.page.locator(".nb-palette [role=option]").nth(1).click()
    drag(notebook, (0.8, 0.75), (0.85, 0.85))
    strokes(notebook, 2)
    moved = np.abs(canvas(notebook) - before).max(2)
    shot(notebook, "mouse")
    assert moved[20:, 22:].max() > 30
    assert (moved[:12] == 0).all() and (moved[:, :12] == 0).all()


def test_the_keyboard_does_the_same_and_never_reaches_jupyterlab(notebook):
    cells, before, count = notebook.cells(), canvas(notebook), 2
    notebook.page.locator(".nb-palette [role=option][aria-selected=true]").focus()
    notebook.page.keyboard.press("ArrowRight")
    assert (
        notebook.page.locator(".nb-palette [role=option]").nth(2).get_attribute("aria-selected")
        == "true"
    )
    board = notebook.page.locator(".nb-board")
    board.focus()
    for key in (
        *["Shift+ArrowLeft"] * 9,
        *["Shift+ArrowDown"] * 9,
        "ArrowRight",
        "-",
        "-",
        "b",
        "a",
        "d",
        "d",
    ):
        notebook.page.keyboard.press(key)
    notebook.page.keyboard.press("Enter")
    strokes(notebook, count + 1)
    moved = np.abs(canvas(notebook) - before).max(2)
    shot(notebook, "keyboard")
    assert moved[-4:, :4].max() > 10 and (moved[:20] == 0).all() and (moved[:, 12:] == 0).all()
    assert notebook.cells() == cells
    notebook.page.get_by_role("button", name="Undo").click()
    strokes(notebook, count)
    assert np.array_equal(canvas(notebook), before)


def test_the_eraser_brings_the_source_back(notebook):
    before, source = canvas(notebook), canvas(notebook, 1)
    notebook.page.get_by_role("button", name="Eraser").click()
    drag(notebook, (0.3, 0.4), (0.4, 0.4))
    strokes(notebook, 3)
    after = canvas(notebook)
    assert np.array_equal(after[12:14, 8:14], source[12:14, 8:14])
    assert not np.array_equal(before[12:14, 8:14], source[12:14, 8:14])
    notebook.page.get_by_role("button", name="Undo").click()
    strokes(notebook, 2)
    notebook.page.get_by_role("button", name="Eraser").click()


def test_a_name_is_kept_and_a_saved_picture_is_painted_again(notebook):
    notebook.page.locator(".nb-palette [role=option]").nth(1).click()
    notebook.page.get_by_label("its name").fill("wheels")
    notebook.page.keyboard.press("Enter")
    notebook.page.wait_for_selector(".nb-palette [role=option] >> text=wheels")
    drag(notebook, (0.5, 0.8), (0.6, 0.8))
    strokes(notebook, 3)
    with notebook.page.expect_download() as waiting:
        notebook.page.get_by_role("button", name="Save PNG").click()
    path = notebook.folder / "saved.png"
    waiting.value.save_as(path)
    again = nb.widgets.replay(path, device="cpu")
    repainted = (again[0].permute(1, 2, 0) * 255).round().int().numpy()
    # processes may differ in rounding, which fifty steps amplify
    assert np.quantile(np.abs(repainted - canvas(notebook)), 0.99) <= 3
    painted = canvas(notebook)
    notebook.page.get_by_role("button", name="Undo").click()
    strokes(notebook, 2)
    assert np.abs(canvas(notebook) - painted).max() > 10
    open_file(notebook, path)
    strokes(notebook, 3)
    assert np.abs(canvas(notebook) - painted).max() <= 3  # the same process, the same rounding
    shot(notebook, "opened")
    kept = json.loads((notebook.folder / "cache" / "component-names.json").read_text())
    assert "wheels" in kept.values() and all(
        re.fullmatch(r"cifar10-[\w.-]+:\d+", key) for key in kept
    )


def open_file(notebook, path):
    with notebook.page.expect_file_chooser() as chooser:
        notebook.page.get_by_role("button", name="Open PNG…").click()
    chooser.value.set_files(path)


def test_a_file_without_a_note_or_of_another_network_gets_one_line(notebook):
    before, status = canvas(notebook), notebook.page.locator(".nb-paint [role=status]")
    plain, other = notebook.folder / "plain.png", notebook.folder / "other.png"
    PIL.Image.new("RGB", (32, 32)).save(plain)
    note = read_note((notebook.folder / "saved.png").read_bytes(), "saved.png")
    note["networks"] = dict.fromkeys(note["networks"], "cifar10-l2-1.0")
    other.write_bytes(signed(plain.read_bytes(), note))
    for path, wanted in (
        (plain, "note: plain.png has none; give a PNG that the canvas saved"),
        (
            other,
            "note: it was painted with cifar10-l2-1.0; here are cifar10-l2-0.5, cifar10-standard",
        ),
    ):
        open_file(notebook, path)
        notebook.page.wait_for_function(
            (
                "(text) => document.querySelector('.nb-paint "
                "[role=status]').textContent.startsWith(text)"
            ),
            arg=wanted,
        )
        assert "\n" not in status.inner_text()
    shot(notebook, "refused")
    assert np.array_equal(canvas(notebook), before)


@pytest.mark.parametrize("scheme", ["Light", "Dark"])
def test_it_fits_a_narrow_window_and_has_no_serious_accessibility_fault(notebook, scheme):
    page = notebook.page
    notebook.theme(scheme)
    page.wait_for_timeout(500)
    shot(notebook, f"wide-{scheme}")
    page.set_viewport_size({"width": 390, "height": 844})
    page.evaluate("() => jupyterapp.shell.collapseLeft()")
    page.wait_for_timeout(500)
    page.locator(".nb-board").scroll_into_view_if_needed()
    shot(notebook, f"narrow-{scheme}")
    outside = page.evaluate("""() => { const all = document.querySelector(".nb-paint");
      return [...all.querySelectorAll("canvas, button, input, .nb-option")].filter((element) =>
        element.getBoundingClientRect().right > all.getBoundingClientRect().right + 1).length; }""")
    assert outside == 0
    page.set_viewport_size({"width": 1280, "height": 1000})
    page.evaluate(axe())
    assert not serious(page, ".nb-paint")
