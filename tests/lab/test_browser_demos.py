"""Layers, classes, inpainting and recognition in JupyterLab, by mouse and keyboard."""

import PIL.Image
import pytest
from browser_support import NEEDS_CHROMIUM, axe, serious, write_notebook

import nbhelpers as nb
from nbhelpers.widgets.trials import Condition, mean_colours, plan_trials

pytestmark = NEEDS_CHROMIUM

LOAD = """
import nbhelpers as nb
names = {"standard": "tiny-standard", "robust": "tiny-l2-2.0"}
models = {label: nb.load_model(name, device="cpu") for label, name in names.items()}
pictures = nb.open_images("photographs", size=64)
"""
DEMOS = {
    "layers": "nb.widgets.layers(models, pictures, layers=['layer1', 'layer4'], steps=24)",
    "classes": "nb.widgets.classes(models, steps=36)",
    "inpainting": "nb.widgets.inpainting(models, pictures, steps=20)",
    "recognition": "nb.widgets.recognition(models, pictures, steps=3)",
}
# elements of the demo outside the window or their output
BEYOND = """() => {
  const output = document.querySelector(".jp-OutputArea-output:has(.nb-widget)");
  const right = Math.min(innerWidth, output.getBoundingClientRect().right) + 1;
  const all = [...output.querySelectorAll(".nb-widget, .nb-widget *")].filter((e) => !e.closest(".nb-names, .nb-list, .nb-end"));
  return all.filter((element) => element.getBoundingClientRect().right > right).map((element) => element.className);
}"""
# visible height of the first large picture, pixels
IN_VIEW = """() => {
  const box = document.querySelector(".nb-widget[data-drawn] .nb-large canvas").getBoundingClientRect();
  return Math.min(innerHeight, box.bottom) - Math.max(0, box.top);
}"""


def open_demo(desk, name):
    if desk.name != f"{name}.ipynb":
        write_notebook(desk.folder / f"{name}.ipynb", LOAD + DEMOS[name])
        desk.open(f"{name}.ipynb")
        desk.command("notebook:run-all-cells")
    state = "ready" if name == "recognition" else "done"
    desk.page.wait_for_selector(f".nb-widget[data-state={state}]", timeout=300_000)
    return desk.page


def state(page, wanted):
    page.wait_for_selector(f".nb-demo .nb-widget[data-state={wanted}]", timeout=120_000)


def option(page, k):
    return page.locator(".nb-demo [role=option]:visible").nth(k)


def shot(desk, name):
    desk.page.screenshot(path=desk.folder / f"{name}.png")


def narrow(desk):
    desk.page.set_viewport_size({"width": 390, "height": 844})
    desk.page.evaluate("() => jupyterapp.shell.collapseLeft()")
    desk.page.wait_for_timeout(500)


def wide(desk):
    desk.page.set_viewport_size({"width": 1280, "height": 1000})
    desk.page.evaluate("() => jupyterapp.shell.expandLeft()")
    desk.page.wait_for_timeout(300)


def fits_a_phone(desk, name, k):
    """Pick on a narrow window: nothing is beyond it, and the picture is in view."""
    narrow(desk)
    option(desk.page, k).click()
    state(desk.page, "done")
    assert desk.page.evaluate(BEYOND) == [] and desk.page.evaluate(IN_VIEW) > 60
    shot(desk, f"{name}-narrow")


def beside(page):
    """Whether the pickers are left of the pictures."""
    pickers, live = (
        page.locator(selector).first.bounding_box()
        for selector in (".nb-pickers", ".nb-widget[data-state]")
    )
    return pickers["x"] + pickers["width"] <= live["x"] + 1


def test_layers_by_mouse_and_keyboard(desk, tmp_path):
    page = open_demo(desk, "layers")
    wide(desk)
    assert beside(page)
    option(page, 3).click()
    state(page, "running")
    page.keyboard.press("Escape")
    state(page, "stopped")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    state(page, "done")
    shown = page.locator(".nb-widget output").first
    assert shown.inner_text() == "layer4"
    slider = page.locator(".nb-widget input[type=range]").first
    slider.press("ArrowLeft")
    assert shown.inner_text() == "layer1"
    captions = page.locator(".nb-large figcaption").all_inner_texts()
    assert captions[1].startswith("SSIM 0.") and "\nstandard: " in captions[1]
    assert "\nrobust: " in captions[2]
    shot(desk, "layers-wide")

    PIL.Image.new("RGB", (60, 40), (200, 30, 30)).save(tmp_path / "red.png")
    page.locator("input[type=file]").first.set_input_files(tmp_path / "red.png")
    page.wait_for_selector("[role=option][aria-label=red][aria-selected=true]", timeout=30_000)
    page.wait_for_function("() => document.activeElement.getAttribute('aria-label') === 'red'")
    page.keyboard.press("Escape")  # the focus is in the picker
    state(page, "stopped")

    fits_a_phone(desk, "layers", 1)


def test_classes_by_name(desk):
    page = open_demo(desk, "classes")
    wide(desk)
    assert beside(page)
    field = page.get_by_role("combobox", name="Search a class")
    cells = desk.cells()
    field.fill("")
    field.press_sequentially("gori")
    assert page.locator(".nb-names [role=option]:visible").all_inner_texts() == ["gorilla"]
    page.keyboard.press("Enter")
    state(page, "running")
    page.keyboard.press("Escape")
    state(page, "stopped")
    field.fill("")
    for key in ("ArrowDown", "ArrowDown", "Enter"):
        field.press(key)
    state(page, "done")
    chosen = page.locator(".nb-names [role=option][aria-selected=true]")
    names = nb.load_model("tiny-l2-2.0", device="cpu").classes
    assert chosen.inner_text() == names[1]
    option(page, 6).click()
    state(page, "done")
    captions = page.locator(".nb-large figcaption").all_inner_texts()
    assert captions[0].startswith("standard: ") and captions[1].startswith("robust: ")
    assert desk.cells() == cells
    shot(desk, "classes-wide")
    fits_a_phone(desk, "classes", 2)


def test_a_hole_by_mouse_and_keyboard(desk):
    page = open_demo(desk, "inpainting")
    wide(desk)
    assert beside(page)
    status = page.locator(".nb-hole [role=status]")
    board = page.locator(".nb-board")
    board.scroll_into_view_if_needed()
    box = board.bounding_box()
    page.mouse.move(box["x"] + 0.1 * box["width"], box["y"] + 0.1 * box["height"])
    page.mouse.down()
    page.mouse.move(box["x"] + 0.2 * box["width"], box["y"] + 0.1 * box["height"], steps=4)
    page.mouse.up()
    page.wait_for_function("(e) => e.textContent === '1 stroke'", arg=status.element_handle())
    state(page, "done")
    board.focus()
    for key in ("Shift+ArrowDown", "Shift+ArrowDown", "+", "Enter"):
        page.keyboard.press(key)
    page.wait_for_function("(e) => e.textContent === '2 strokes'", arg=status.element_handle())
    state(page, "done")
    shot(desk, "inpainting-wide")
    page.get_by_role("button", name="Undo").click()
    page.wait_for_function("(e) => e.textContent === '1 stroke'", arg=status.element_handle())
    assert " dB in the hole\nstandard: " in page.locator(".nb-large figcaption").first.inner_text()
    narrow(desk)
    page.wait_for_timeout(300)
    assert page.evaluate(BEYOND) == []
    shot(desk, "inpainting-narrow")


def the_plan():
    """The kernel's plan, computed again."""
    opened = nb.open_images("photographs", size=64)
    conditions = [
        Condition(network, f"layer{k}", k)
        for network in ("robust", "standard")
        for k in range(1, 5)
    ]
    return plan_trials(opened.names, mean_colours(opened.load()[0]), conditions)


@pytest.mark.parametrize("scheme", ["Light", "Dark"])
def test_the_look_has_no_serious_accessibility_fault(desk, scheme):
    page = open_demo(desk, "inpainting")
    wide(desk)
    desk.theme(scheme)
    page.wait_for_timeout(500)
    shot(desk, f"inpainting-{scheme}")
    page.evaluate(axe())
    assert not serious(page, ".nb-demo")


def test_a_whole_session_of_forty_trials(desk):
    page, plan = open_demo(desk, "recognition"), the_plan()
    wide(desk)
    assert len(plan) == 40
    cells = desk.cells()
    page.get_by_role("button", name="Start", exact=True).focus()
    page.keyboard.press("Enter")
    for number, one in enumerate(plan):
        page.wait_for_selector(f".nb-recognition[data-number='{number}']", timeout=120_000)
        buttons = page.locator(".nb-answers button")
        texts = [text.split(maxsplit=1)[1] for text in buttons.all_inner_texts()]
        assert tuple(texts) == one.choices
        # the standard network's are all answered wrongly
        choice = (one.right + (one.condition.network == "standard")) % 10
        if number == 1:
            shot(desk, "recognition-wide")
            narrow(desk)
            assert page.evaluate(BEYOND) == []
            shot(desk, "recognition-narrow")
            wide(desk)
        if number % 10 == 1:
            buttons.nth(choice).click()
        else:
            page.keyboard.press(str((choice + 1) % 10))
    page.wait_for_selector(".nb-recognition[data-state=ends]", timeout=60_000)
    shot(desk, "recognition-end")
    with page.expect_download() as waiting:
        page.get_by_role("button", name="Save answers").click()
    path = desk.folder / "saved.csv"
    waiting.value.save_as(path)
    found = nb.recognised(path)
    rows = page.locator(".nb-results tbody tr").all()
    assert [tuple(row.locator("th, td").all_inner_texts()) for row in rows] == found.table
    rights = {kind: mean.mean for kind, mean in found.accuracy.items()}
    assert rights.pop("originals") == 1 and len(rights) == 8
    assert {kind: share for kind, share in rights.items() if share} == {
        f"tiny-l2-2.0, {k} (layer{k})": 1 for k in range(1, 5)
    }
    assert desk.cells() == cells
