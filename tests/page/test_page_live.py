"""The exported page computing by itself, in the system's Chromium without a network: demos,
pictures of one's own.
"""

import contextlib
import copy
import re

import numpy
import PIL.Image
import pytest
import torch
from browser_support import FLAGS, NEEDS_CHROMIUM, axe, chromium, pixels, serious
from test_widgets import CALLS

import nbhelpers as nb
from nbhelpers.page import exporting as page_module
from nbhelpers.page.tensorflow import library

pytestmark = NEEDS_CHROMIUM

CAMERA = ["--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"]
ENDED = """([demo, words]) => {
  const live = document.querySelector(`#demo${demo} [data-state]`);
  const said = live.querySelector("[role=status]").textContent;
  return ["done", "stopped", "error"].includes(live.dataset.state) && said.includes(words);
}"""


@pytest.fixture(scope="module")
def demos(tiny_model):
    """All, three steps each, of a network whose weights are halves: so the page loses nothing of
    them.
    """
    model = copy.deepcopy(tiny_model)
    for weight in model.parameters():
        weight.data = weight.data.half().float()
    models = {"standard": model, "robust": model}
    images = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    images = (images * 255).round() / 255  # what a picture file can hold
    return {
        demo.title: demo
        for demo in (call(models, images, torch.arange(3)) for call in CALLS.values())
    }


@pytest.fixture(scope="module")
def path(demos, tiny_model, tmp_path_factory):
    try:
        library()
    except ValueError as error:
        pytest.skip(str(error))
    folder = tmp_path_factory.mktemp("live")
    models = {"standard": tiny_model, "robust": tiny_model}
    return nb.page.export_page(
        folder / "page.html", models=models, demos=demos, work=folder / "work"
    )


@pytest.fixture(scope="module")
def chrome():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as play:
        chrome = play.chromium.launch(executable_path=chromium(), args=[*FLAGS, *CAMERA])
        yield chrome
        chrome.close()


@contextlib.contextmanager
def opened(chrome, path):
    context = chrome.new_context(offline=True)
    page = context.new_page()
    page.faults, page.requests = [], []
    page.on("pageerror", lambda error: page.faults.append(str(error)))
    page.on(
        "console",
        lambda message: page.faults.append(message.text) if message.type == "error" else None,
    )
    page.on("request", lambda request: page.requests.append(request.url))
    page.goto(path.as_uri())
    page.wait_for_selector("body[data-engine=true]")
    yield page
    assert not page.faults
    assert all(url.startswith(("file:", "blob:")) for url in page.requests)
    context.close()


@pytest.fixture
def page(chrome, path):
    with opened(chrome, path) as page:
        yield page


@pytest.fixture(scope="module")
def one_page(chrome, path):
    """For tests of one demo each, which leave the others as they are."""
    with opened(chrome, path) as page:
        yield page


def wait(page, demo, words="computed here"):
    page.wait_for_function(ENDED, arg=[demo, words], timeout=60_000)


def watch(page, demo):
    page.locator(f"#demo{demo}").get_by_role("button", name="Watch it form").click()
    wait(page, demo)


def sheet(page, demo, live):
    """The table's pictures, (rows, columns, h, w, 3)."""
    shown = pixels(page.locator(f"#demo{demo} .nb-table canvas"))
    return shown.reshape(len(live.rows), len(live.columns), *shown.shape[1:])


def numbers(texts):
    return [float(number) for number in re.findall(r"-?\d+\.\d+", "\n".join(texts))]


@pytest.mark.parametrize("k", range(len(CALLS)), ids=list(CALLS))
def test_every_demo_computes_what_python_computed(one_page, demos, k):
    page, live = one_page, list(demos.values())[k].live
    texts = page.locator(f"#demo{k} figcaption").all_inner_texts()
    before = sheet(page, k, live)
    watch(page, k)
    after = sheet(page, k, live)
    assert numpy.abs(before - after).mean() <= 1
    shown = page.locator(f"#demo{k} figcaption").all_inner_texts()
    assert [re.sub(r"-?\d+\.\d+", "…", text) for text in shown] == [
        re.sub(r"-?\d+\.\d+", "…", text) for text in texts
    ]
    assert numpy.allclose(numbers(shown), numbers(texts), rtol=0.02, atol=0.011)


def test_other_noise_more_steps_and_the_other_representation(page):
    inversion = page.locator("#demo0")
    inversion.locator("select").nth(1).select_option("3")
    wait(page, 0)
    one = pixels(inversion.locator("canvas").nth(1))
    inversion.locator("select").nth(0).select_option("15")
    wait(page, 0, "8 of 8 steps")  # of the means, half as many
    assert (pixels(inversion.locator("canvas").nth(1)) != one).any()
    inversion.locator("select").nth(0).select_option("3")
    inversion.locator("select").nth(1).select_option("0")
    wait(page, 0, "computed beforehand")
    inversion.get_by_role("radio", name="averaged").click()
    wait(page, 0)
    inversion.get_by_role("radio", name="with positions").click()
    wait(page, 0, "computed beforehand")


# Every value that the bar of a demo shows, as the browser sees it: one looked for later may have
# come and gone.
RECORD = """() => {
  const bar = document.querySelector("#demo0 progress");
  globalThis.bars = [];
  new MutationObserver(() => globalThis.bars.push(bar.value)).observe(bar, { attributes: true });
}"""


def test_a_new_pick_ends_the_run_before_and_stop_keeps_what_there_is(page):
    inversion, live = page.locator("#demo0"), page.locator("#demo0 [data-state]")
    page.evaluate(RECORD)
    # without an end
    inversion.locator("select").nth(0).evaluate(
        "(select) => select.add(new Option(100000, 100000))"
    )
    inversion.locator("select").nth(0).select_option("100000")
    page.wait_for_function("() => globalThis.bars.at(-1) > 10")
    inversion.get_by_role("option").nth(1).click()
    # begun again
    page.wait_for_function(
        "() => globalThis.bars.some((value, k) => value < globalThis.bars[k - 1])"
    )
    page.wait_for_function("() => globalThis.bars.at(-1) > 0")
    assert inversion.get_by_role("option").nth(1).get_attribute("aria-selected") == "true"
    live.get_by_role("button", name="Stop").click()
    page.wait_for_selector("#demo0 [data-state=stopped]")
    assert "(stopped)" in live.locator("[role=status]").inner_text()
    watch(page, 2)  # and the next run is not kept waiting


# Presses Stop as soon as the sixteen starts are under way.
STOP_THE_MEAN = """() => new Promise((resolve) => {
  const live = document.querySelector("#demo0 [data-state]");
  const look = () => {
    if (!live.querySelector(".nb-said").textContent.startsWith("the mean of 16")) return requestAnimationFrame(look);
    resolve(live.querySelector("progress").value);
    [...live.querySelectorAll("button")].find((button) => button.textContent === "Stop").click();
  };
  look();
})"""


def test_the_mean_of_sixteen_starts_says_how_far_it_is_and_can_be_stopped(page):
    inversion = page.locator("#demo0")
    inversion.locator("select").nth(0).evaluate("(select) => select.add(new Option(200, 200))")
    inversion.locator("select").nth(0).select_option("200")
    assert page.evaluate(STOP_THE_MEAN) >= 200
    wait(page, 0, "(stopped)")
    said = inversion.locator("[data-state] [role=status]").inner_text()
    assert re.match(r"the mean of 16: \d+ of 100 steps", said)


@pytest.mark.parametrize("width", (1280, 390))
def test_after_a_run_in_every_demo_nothing_is_unreadable_or_cut_off(page, width, tmp_path):
    source = axe(tmp_path)
    page.set_viewport_size({"width": width, "height": 900})
    for k in range(len(CALLS)):
        watch(page, k)
    page.evaluate(source)
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        assert not serious(page), scheme
    assert page.evaluate("() => document.documentElement.scrollWidth") == width


def test_memory_stays_flat_over_a_hundred_picks(page):
    watch(page, 0)
    [worker] = page.workers
    brittleness = page.locator("#demo2")
    brittleness.get_by_label("compute every pick here").check()
    wait(page, 2)
    seen = []
    for k in range(100):
        brittleness.locator("[role=listbox]").nth(k % 2).locator("[role=option]").nth(k % 3).click()
        wait(page, 2)
        seen.append(tuple(worker.evaluate("() => [tf.memory().numTensors, tf.memory().numBytes]")))
    assert len(set(seen[2:])) == 1, seen


def own(page, k=0):
    return page.locator(f"#demo{k} [role=option]").last


def test_pictures_of_ones_own(page, tmp_path):
    picker = page.locator("#demo0 .nb-widget").first
    file, said = picker.locator("input[type=file]"), picker.locator(".nb-bar [role=status]")
    assert "never leaves this device" in said.inner_text()
    PIL.Image.new("RGB", (60, 40), (200, 30, 30)).save(tmp_path / "red.png")
    file.set_input_files(tmp_path / "red.png")
    page.wait_for_selector("#demo0 [role=option][aria-label=red][aria-selected=true]")
    wait(page, 0)
    assert "the centre was cut out" in said.inner_text()
    shown = pixels(page.locator("#demo0 .nb-table canvas").first)
    assert numpy.abs(shown - [200, 30, 30]).max() <= 2

    gradient = numpy.linspace(0, 255, 8000).astype("uint8")
    large = PIL.Image.fromarray(numpy.broadcast_to(gradient[None, :, None], (5000, 8000, 3)).copy())
    large.save(tmp_path / "large.jpg")  # 40 megapixels
    file.set_input_files(tmp_path / "large.jpg")
    page.wait_for_selector(
        "#demo0 [role=option][aria-label=large][aria-selected=true]", timeout=60_000
    )
    wait(page, 0)

    (tmp_path / "notes.txt").write_text("no picture")
    file.set_input_files(tmp_path / "notes.txt")
    page.wait_for_function(
        "() => document.querySelector('#demo0').textContent.includes('cannot read notes.txt')"
    )
    before = page.locator("#demo0 [role=option]").count()
    picker.get_by_role("button", name="Remove").click()
    assert page.locator("#demo0 [role=option]").count() == before - 1
    wait(page, 0)


@pytest.mark.parametrize("how", ("drop", "paste"))
def test_a_picture_is_dropped_or_pasted(page, how):
    page.evaluate(
        """async (how) => {
          const canvas = new OffscreenCanvas(50, 50);
          canvas.getContext("2d").fillRect(0, 0, 50, 50);
          const file = new File([await canvas.convertToBlob()], "black.png", { type: "image/png" });
          const given = new DataTransfer();
          given.items.add(file);
          const options = { bubbles: true, cancelable: true, dataTransfer: given, clipboardData: given };
          const event = how === "drop" ? new DragEvent("drop", options) : new ClipboardEvent("paste", options);
          document.querySelector("#demo0 [role=listbox]").dispatchEvent(event);
        }""",
        how,
    )
    page.wait_for_selector("#demo0 [role=option][aria-label=black][aria-selected=true]")
    wait(page, 0)


def test_a_picture_from_the_camera(page):
    page.locator("#demo0").get_by_role("button", name="Camera…").click()
    page.wait_for_function("() => document.querySelector('dialog video').videoWidth > 0")
    page.get_by_role("button", name="Take the picture").click()
    page.wait_for_selector("#demo0 [role=option][aria-label=camera][aria-selected=true]")
    wait(page, 0)
    assert not page.locator("dialog").is_visible()


def test_without_webassembly_results_are_those_computed_beforehand(chrome, path):
    context = chrome.new_context(offline=True)
    page = context.new_page()
    page.add_init_script("delete globalThis.WebAssembly")
    page.goto(path.as_uri())
    page.wait_for_selector("body[data-engine=false]")
    assert "cannot compute here" in page.locator("#engine").inner_text()
    page.locator("#demo0 [role=option]").nth(1).click()
    wait(page, 0, "computed beforehand")
    assert not page.get_by_role("button", name="Watch it form").count()
    assert not page.get_by_role("button", name="Your own image…").count()
    context.close()


def test_without_the_library_the_page_says_so_in_a_line(
    demos, tiny_model, tmp_path, monkeypatch, capsys
):
    def none():
        raise ValueError("no npm here")

    monkeypatch.setattr(page_module, "library", none)
    name, demo = next((name, demo) for name, demo in demos.items() if name == "Brittleness")
    path = nb.page.export_page(
        tmp_path / "page.html",
        models={"tiny": tiny_model},
        demos={name: demo},
        work=tmp_path / "work",
    )
    text = path.read_text(encoding="utf-8")
    assert "precomputed results only: no npm here" in text and "wasm-unsafe-eval" not in text
    assert [line for line in capsys.readouterr().err.splitlines() if "no npm here" in line]


def test_the_policy_is_strict(path):
    policy = re.search(
        r'Content-Security-Policy" content="(.*?)"', path.read_text(encoding="utf-8")
    )[1]
    assert (
        "default-src 'none'" in policy
        and "'unsafe-eval'" not in policy
        and "'unsafe-inline'" not in policy
    )
    assert "connect-src" not in policy  # so nothing may be asked for
