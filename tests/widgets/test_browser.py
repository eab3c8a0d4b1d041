"""The pickers in JupyterLab, in the system's Chromium."""

import functools

import numpy
import PIL.Image
import pytest
import torch
from browser_support import (
    NEEDS_CHROMIUM,
    NOTEBOOKS,
    TIMED_CLICK,
    Notebook,
    browser,
    jupyterlab,
    pixels,
    write_demo,
    write_notebook,
)

import nbhelpers as nb
from nbhelpers.widgets.settings import INVERSION

pytestmark = NEEDS_CHROMIUM

STEPS = 100
# single reconstructions, then means, and the start
MOMENTS = STEPS + STEPS // 2 + 1
LOAD = """
import nbhelpers as nb
from nbhelpers.widgets.settings import INVERSION
names = {"standard": "cifar10-standard", "robust": "cifar10-l2-0.5"}
models = {label: nb.load_model(name, device="cpu") for label, name in names.items()}
images, labels = nb.load_images("cifar10-sample", indices=range(200))
from nbhelpers import widgets
"""
EPSILON = """widgets.epsilon_series("cifar10-l2-0.5", images[:12], labels[:12], steps=3)"""
# number of thumbnails in the first row
COLUMNS = """() => {
  const tops = [...document.querySelectorAll("[role=option]")].map((option) => option.getBoundingClientRect().top);
  return tops.filter((top) => top === tops[0]).length;
}"""
SHOW = """
demo, steps = widgets.inversion(models, images[:12], labels[:12]), 0
def counted(*pick, job=demo.live._job):
    global steps
    for frame in job(*pick):
        steps += 1
        yield frame
demo.live._job = counted
demo
"""


@pytest.fixture(scope="module")
def chrome():
    with browser() as chrome:
        yield chrome


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    folder = tmp_path_factory.mktemp("lab")
    write_notebook(folder / "inversion.ipynb", LOAD, SHOW, "print(demo.live.finished, steps)")
    write_notebook(folder / "epsilon.ipynb", LOAD, EPSILON)
    for path in NOTEBOOKS:
        write_demo(path, folder / path.name, steps=3)  # nbval runs the whole notebooks
    with jupyterlab(folder) as address:
        yield address


@pytest.fixture(scope="module")
def desk(lab, chrome):
    """One page and kernel for all notebooks."""
    desk = Notebook(chrome, lab, "inversion.ipynb")
    desk.run_all(widgets=1)
    yield desk
    assert not desk.faults
    desk.close()


@pytest.fixture
def notebook(desk):
    if desk.name != "inversion.ipynb":
        desk.open("inversion.ipynb")
        desk.run_all(widgets=1)
    return desk


def live(notebook):
    return notebook.page.locator(".nb-widget[data-state]").first


def option(notebook, k):
    return notebook.page.locator("[role=option]").nth(k)


def wait(notebook, state):
    notebook.page.wait_for_selector(f".nb-widget[data-state={state}]", timeout=120_000)


def pick(notebook, k):
    """Click and wait for the end of the run; times of the first frame and the end."""
    return notebook.page.evaluate(
        TIMED_CLICK, [option(notebook, k).element_handle(), live(notebook).element_handle()]
    )


def work(notebook):
    """Numbers of completed runs and computed steps, from the notebook's last cell."""
    page = notebook.page
    last = page.locator(".jp-Notebook .jp-Cell").last
    before = last.locator(".jp-InputPrompt").inner_text()
    last.locator(".cm-content").click()
    notebook.command("notebook:run-cell")
    page.wait_for_function(
        "([cell, before]) => /\\d/.test(cell.innerText) && cell.innerText !== before",
        arg=[last.locator(".jp-InputPrompt").element_handle(), before],
        timeout=60_000,
    )
    page.wait_for_timeout(200)
    return [int(number) for number in last.locator(".jp-OutputArea-output").inner_text().split()]


def test_a_click_streams_frames_and_ends_where_a_headless_run_ends(notebook):
    runs, steps = work(notebook)
    times = pick(notebook, 3)
    assert times["state"] == "done" and times["first"] < times["finished"] and times["frames"] >= 3
    assert work(notebook) == [runs + 1, steps + MOMENTS]
    shown = (
        torch.from_numpy(pixels(live(notebook).locator("canvas").nth(1))[0]).permute(2, 0, 1) / 255
    )

    model = nb.load_model("cifar10-l2-0.5", device="cpu")
    target, _ = nb.load_images("cifar10-sample", indices=[3])
    f = functools.partial(model.representation, positions=True)
    solver = nb.Solver(step_size=INVERSION.step(STEPS, target), keep="last")
    result = nb.minimize(f, nb.match(f(target)), nb.noise(1, seed=0), steps=STEPS, solver=solver)
    # processes may differ in rounding, which a hundred steps amplify
    assert numpy.quantile((shown - result.images[0]).abs().numpy(), 0.99) <= 3 / 255


def test_five_quick_picks_cost_one_run_and_a_second_look_none(notebook):
    runs, steps = work(notebook)
    for k in (4, 5, 6, 7):
        option(notebook, k).click()
    wait(notebook, "running")
    assert pick(notebook, 8)["state"] == "done"
    after, steps_after = work(notebook)
    assert after == runs + 1
    # one run, and the others' steps before the next click
    assert steps_after - steps < 2 * MOMENTS
    assert pick(notebook, 8)["state"] == "done"
    assert work(notebook) == [after, steps_after]


def test_stop_keeps_the_picture_and_the_kernel_answers_meanwhile(notebook):
    runs, _ = work(notebook)
    option(notebook, 9).click()
    wait(notebook, "running")
    assert work(notebook)[0] == runs  # another cell, answered during the run
    option(notebook, 10).click()
    wait(notebook, "running")
    notebook.page.get_by_role("button", name="Stop").click()
    wait(notebook, "stopped")
    option(notebook, 11).click()
    wait(notebook, "running")
    notebook.page.keyboard.press("Escape")
    wait(notebook, "stopped")


def test_keys_move_and_pick_and_never_reach_jupyterlab(notebook):
    cells = notebook.cells()
    page = notebook.page
    option(notebook, 0).click()
    for key in ("ArrowRight", "ArrowDown", "ArrowLeft", "Enter"):
        page.keyboard.press(key)
    below = page.evaluate(COLUMNS)
    assert 1 < below < 11 and option(notebook, below).get_attribute("aria-selected") == "true"
    for key in ("b", "a", "d", "d", "m", "j"):
        page.keyboard.press(key)
    page.keyboard.press("End")
    page.keyboard.press("Space")
    assert option(notebook, 11).get_attribute("aria-selected") == "true"
    page.keyboard.press("Home")
    assert page.evaluate("() => document.activeElement.getAttribute('aria-label')") == "cat"
    assert notebook.cells() == cells
    wait(notebook, "done")


def test_a_file_of_ones_own_is_inverted(notebook, tmp_path):
    PIL.Image.new("RGB", (60, 40), (200, 30, 30)).save(tmp_path / "red.png")
    notebook.page.locator("input[type=file]").first.set_input_files(tmp_path / "red.png")
    notebook.page.wait_for_selector(
        "[role=option][aria-label=red][aria-selected=true]", timeout=30_000
    )
    wait(notebook, "done")


@pytest.mark.parametrize("name", ["epsilon.ipynb", *(path.name for path in NOTEBOOKS)])
def test_every_notebook_answers_a_click(desk, name):
    desk.open(name)
    desk.run_all(widgets=1)
    assert pick(desk, 1)["state"] == "done"
    for slider in desk.page.locator("input[type=range]").all():
        value = slider.input_value()
        slider.press("ArrowLeft" if int(value) else "ArrowRight")
        assert slider.input_value() != value
    assert not desk.faults
