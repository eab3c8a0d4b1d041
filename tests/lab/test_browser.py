"""The pickers in JupyterLab, in the system's Chromium."""

import functools

import numpy
import pytest
import torch
from browser_support import (
    NEEDS_CHROMIUM,
    NOTEBOOKS,
    TIMED_CLICK,
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


@pytest.fixture
def notebook(desk):
    if desk.name != "inversion.ipynb":
        write_notebook(
            desk.folder / "inversion.ipynb", LOAD, SHOW, "print(demo.live.finished, steps)"
        )
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


@pytest.mark.parametrize(
    "source", [None, *NOTEBOOKS], ids=lambda one: one.stem if one else "epsilon"
)
def test_every_notebook_answers_a_click(desk, source):
    name = source.name if source else "epsilon.ipynb"
    if source:
        write_demo(source, desk.folder / name, steps=3)  # nbval runs the whole notebooks
    else:
        write_notebook(desk.folder / name, LOAD, EPSILON)
    desk.open(name)
    desk.run_all(widgets=1)
    assert pick(desk, 1)["state"] == "done"
    for slider in desk.page.locator("input[type=range]").all():
        value = slider.input_value()
        slider.press("ArrowLeft" if int(value) else "ArrowRight")
        assert slider.input_value() != value
    assert not desk.faults
