"""The canvas in the exported page, in the system's Chromium without a network: strokes that
PyTorch paints again.
"""

import json

import numpy
import PIL.Image
import pytest
import torch
from browser_support import NEEDS_CHROMIUM, axe, browser, pixels, serious

import nbhelpers as nb
from nbhelpers import widgets
from nbhelpers.page.paint_recipe import for_page
from nbhelpers.page.tensorflow import library
from nbhelpers.widgets.parts import robust_first
from nbhelpers.widgets.settings import PAINTING
from nbhelpers.widgets.strokes import _pixels

pytestmark = NEEDS_CHROMIUM
ENDED = """(words) => {
  const canvas = document.querySelector(".nb-paint");
  return canvas.dataset.state !== "running" && canvas.querySelector("[role=status]").textContent.includes(words);
}"""

SAID = ".nb-paint [role=status]"
RED = """() => {
  const [red, , blue] = document.querySelector(".nb-paint canvas").getContext("2d").getImageData(0, 0, 1, 1).data;
  return red === 200 && blue === 30;
}"""


@pytest.fixture(scope="module")
def models():
    names = {"standard": "cifar10-standard", "robust": "cifar10-l2-0.5"}
    return robust_first({label: nb.load_model(name, device="cpu") for label, name in names.items()})


@pytest.fixture(scope="module")
def demo(models):
    images, labels = nb.load_images("cifar10-sample", indices=range(20))
    return for_page(widgets.paint(models, images, labels, components=0), models)


@pytest.fixture(scope="module")
def path(models, demo, tmp_path_factory):
    try:
        library()
    except ValueError as error:
        pytest.skip(str(error))
    folder = tmp_path_factory.mktemp("paint")
    demos = {"Paint with features": demo}
    return nb.page.export_page(
        folder / "page.html", models=models, demos=demos, work=folder / "work"
    )


@pytest.fixture(scope="module")
def chrome():
    with browser() as chrome:
        yield chrome


@pytest.fixture
def page(chrome, path):
    page = chrome.new_context(offline=True).new_page()
    faults = []
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on(
        "console", lambda message: faults.append(message.text) if message.type == "error" else None
    )
    page.goto(path.as_uri())
    page.wait_for_selector("body[data-engine=true]")
    wait(page, "1 stroke")
    yield page
    assert not faults
    page.context.close()


def wait(page, words):
    page.wait_for_function(ENDED, arg=words, timeout=60_000)


def shown(page, name):
    return pixels(page.locator(f".nb-paint canvas[aria-label={name}]"))[0]


def picture(page, words):
    """The canvas once it says these words: it says them when the picture is drawn."""
    wait(page, words)
    return shown(page, "painted")


def drag(page, start, end):
    page.locator(".nb-board").scroll_into_view_if_needed()
    box = page.locator(".nb-board").bounding_box()
    places = [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in (start, end)]
    page.mouse.move(*places[0])
    page.mouse.down()
    page.mouse.move(*places[1], steps=5)
    page.mouse.up()


def saved(page, folder):
    with page.expect_download() as download:
        page.get_by_role("button", name="Save PNG").click()
    download.value.save_as(folder / "painted.png")
    with PIL.Image.open(folder / "painted.png") as file:
        return numpy.array(file.convert("RGB")), json.loads(file.text["nbhelpers"])


def choose(page, network, k):
    page.get_by_role("group", name=f"{network} network").locator("[role=option]").nth(k).click()


def test_strokes_of_both_networks_are_those_of_pytorch(page, models, demo, tmp_path):
    source = shown(page, "source")
    page.get_by_role("button", name="Undo").click()
    assert (picture(page, "0 strokes") == source).all()
    # from no end to the highest percentile
    page.locator(".nb-paint input[type=range]").last.press("ArrowLeft")
    choose(page, "robust", 0)
    drag(page, (0.2, 0.3), (0.5, 0.4))
    picture(page, "1 stroke")
    choose(page, "standard", 1)
    drag(page, (0.6, 0.8), (0.8, 0.7))
    painted = picture(page, "2 strokes")
    pixels, note = saved(page, tmp_path)
    assert (pixels == painted).all()
    masks = torch.stack([_pixels(stroke["mask"])[0, 0] for stroke in note["strokes"]])
    outside = (masks.amax(0) == 0).numpy()
    assert 0.2 < outside.mean() < 0.9
    assert (painted[outside] == source[outside]).all()  # bit for bit
    assert all(
        (painted[mask.numpy() == 1] != source[mask.numpy() == 1]).mean() > 0.5 for mask in masks
    )
    again = (
        widgets.replay(tmp_path / "painted.png", models=models)[0].permute(1, 2, 0).numpy() * 255
    )
    print("apart:", numpy.abs(painted - again).mean())
    assert numpy.abs(painted - again).mean() <= 3
    for mask, stroke in zip(masks, note["strokes"], strict=True):
        held = [(entry["label"], entry["component"]) for entry in demo.live.palette]
        which = held.index((stroke["network"], stroke["component"]))
        assert stroke["ceiling"] == pytest.approx(
            demo.live._ceiling(which, mask, demo.live.at - 1), rel=2e-3
        )
        assert (stroke["steps"], stroke["until"], stroke["radius"]) == (
            PAINTING.steps,
            None,
            PAINTING.radius,
        )


def test_the_first_picture_is_the_one_computed_beforehand(page, demo):
    sheet = (demo.live.image[0].permute(1, 2, 0) * 255).round()
    assert (picture(page, "computed beforehand") == sheet.numpy()).all()


def test_strokes_wait_for_each_other_and_undo_takes_them_back(page):
    source = shown(page, "source")
    choose(page, "robust", 0)
    drag(page, (0.2, 0.2), (0.3, 0.2))
    drag(page, (0.7, 0.7), (0.8, 0.7))
    last = picture(page, "3 strokes")
    page.get_by_role("button", name="Undo").click()
    before = picture(page, "2 strokes")
    apart = (last != before).any(2)
    assert apart[16:, 16:].any() and not apart[:16, :16].any()
    page.get_by_role("button", name="Eraser").click()
    for row in (0.15, 0.4, 0.65, 0.9):  # all of it
        drag(page, (0.02, row), (0.98, row))
    assert (picture(page, "6 strokes") == source).all()


def test_by_keyboard_and_stopped(page):
    page.locator(".nb-paint input[type=range]").last.press("End")  # no end
    page.locator(".nb-board").focus()
    for _ in range(12):  # so that one is under way
        page.keyboard.press("Enter")
    page.wait_for_selector(".nb-paint[data-state=running] progress[value]")
    page.keyboard.press("Escape")
    page.wait_for_selector(".nb-paint[data-state=stopped]")
    said = page.locator(SAID).inner_text()
    assert "(stopped)" in said and "13 strokes" not in said


def test_a_new_source_and_one_of_your_own(page, tmp_path):
    # one that is not the first
    page.locator("#demo0 [role=listbox]").first.locator("[role=option]").nth(3).click()
    assert (picture(page, "0 strokes") == shown(page, "source")).all()
    PIL.Image.new("RGB", (40, 40), (200, 30, 30)).save(tmp_path / "red.png")
    page.locator("#demo0 input[type=file]").set_input_files(tmp_path / "red.png")
    page.wait_for_function(RED)
    assert (shown(page, "source") == [200, 30, 30]).all() and "0 strokes" in page.locator(
        SAID
    ).inner_text()
    drag(page, (0.4, 0.5), (0.5, 0.5))
    painted = picture(page, "1 stroke")
    assert (painted[:4] == [200, 30, 30]).all() and (painted[14:18, 12:17] != [200, 30, 30]).any()


@pytest.mark.parametrize("width", (1280, 390))
def test_the_canvas_is_readable_at_any_width(page, width, tmp_path):
    source = axe(tmp_path)
    page.set_viewport_size({"width": width, "height": 900})
    page.evaluate(source)
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        assert not serious(page), scheme
    assert page.evaluate("() => document.documentElement.scrollWidth") == width


def test_without_webassembly_there_is_a_still_picture(chrome, path, demo):
    page = chrome.new_context(offline=True).new_page()
    page.add_init_script("delete globalThis.WebAssembly")
    page.goto(path.as_uri())
    page.wait_for_selector("body[data-engine=false]")
    page.wait_for_selector("#demo0 [data-drawn]")
    sheet = (demo.live.image[0].permute(1, 2, 0) * 255).round()
    assert (pixels(page.locator("#demo0 canvas[aria-label=painted]"))[0] == sheet.numpy()).all()
    assert not page.locator("#demo0 button:visible").count()
    page.context.close()
