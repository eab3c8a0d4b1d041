"""The page alive, in the system's Chromium without a network: every demo, pictures of one's own,
keyboard, and what PyTorch computes of the same.
"""

import base64
import csv
import functools
import http.server
import io
import json
import threading

import numpy
import PIL.Image
import pytest
import torch
from browser_support import NEEDS_CHROMIUM, axe, serious
from page_support import QUICK, brittle, go, opened, shown, strip, wait

import nbhelpers as nb
from nbhelpers import widgets
from nbhelpers.optimize import first_step
from nbhelpers.widgets.settings import INTERPOLATION

pytestmark = NEEDS_CHROMIUM
DEMOS = ["inversion", "layers", "classes", "features", "fill", "between", "mistakes", "brittle"]
DEMOS += ["distance"]
FIRST_FRAME = "() => document.querySelector('#bar').value > 0"


def test_the_first_screen_forms_by_itself(whole):
    wait(whole, "inversion")
    captions = whole.locator("#stage figcaption").all_inner_texts()
    assert captions[0].split("\n") == ["Photograph", "giant panda"]
    assert captions[1].split("\n")[1].startswith("robust: ")
    assert whole.locator("#bar").evaluate("(bar) => bar.value") == 100
    assert "Other pictures on average" in whole.locator("#numbers").text_content()


@pytest.mark.parametrize("demo", DEMOS)
def test_every_demo_has_its_address_and_opens_alive(page, demo):
    go(page, demo)
    assert page.locator("nav [aria-current=page]").get_attribute("href") == f"#{demo}"
    assert all(one.std() > 0 for one in shown(page))
    page.locator(".nb-film [role=option]").nth(2).click()
    wait(page, demo)


def test_the_back_button_returns_to_the_demo_before(page):
    go(page, "layers")
    go(page, "brittle")
    page.go_back()
    wait(page, "layers")
    assert page.locator("#heading").inner_text() == "Layers"


def between(made):
    """Where PyTorch's searches halfway between the first two pictures end."""
    found = []
    first, second = strip(made.path)[:2].split(1)
    for model in made.models.values():
        f = functools.partial(model.representation, positions=True)
        with torch.no_grad():
            goal = nb.match((f(first) + f(second)) / 2)
        size, full = INTERPOLATION.step_size, INTERPOLATION.steps
        length = first_step(size, full, steps=INTERPOLATION.live, shape=first.shape)
        solver = nb.Solver(step_size=length, keep="last")
        found += nb.minimize(
            f, goal, (first + second) / 2, steps=INTERPOLATION.live, solver=solver
        ).images
    return found


@pytest.mark.parametrize(
    ("demo", "ends", "place", "most"), [("brittle", brittle, 1, 2), ("between", between, 2, 4)]
)
def test_a_search_from_pictures_ends_where_pytorch_does(whole, made, demo, ends, place, most):
    """Mean difference of pixels, of 255: rounding grows with the longer steps of *between*."""
    go(whole, demo)
    for k, wanted in enumerate(ends(made)):
        found = torch.from_numpy(shown(whole)[place + k]).permute(2, 0, 1) / 255
        assert (found - wanted).abs().mean() * 255 <= most


def test_escape_stops_whatever_has_the_focus_and_the_next_run_waits_for_nothing(whole):
    wait(whole, "inversion")
    whole.locator("#more summary").click()
    whole.locator("#wishes select").first.evaluate("(all) => all.add(new Option(500, 500))")
    whole.locator("#wishes select").first.select_option("500")
    whole.locator("#again").focus()
    whole.wait_for_function(FIRST_FRAME)
    whole.keyboard.press("Escape")
    wait(whole, "inversion")
    assert "stopped" in whole.locator("#status").inner_text()
    whole.locator(".nb-film [role=option]").nth(1).click()  # G06: nothing of the picture before
    whole.wait_for_function(
        "() => document.querySelector('#status').textContent.startsWith('step ')"
    )
    first = whole.locator("#stage figcaption").first.inner_text()
    assert first.split("\n")[1] == "gorilla"


@pytest.mark.parametrize(
    "demo", ["inversion", "layers", "classes", "mistakes", "brittle", "distance"]
)
def test_a_pick_shows_nothing_of_the_pick_before(page, demo):
    go(page, demo)
    cells, numbers = page.evaluate(
        """() => {
          document.querySelectorAll(".nb-film [role=option]")[3].click();
          const cells = [...document.querySelectorAll("#stage figure")].map((figure) => [
            figure.querySelector("b").textContent,
            figure.querySelector("span").textContent,
            Math.max(...figure.querySelector("canvas").getContext("2d").getImageData(0, 0, 32, 32).data),
          ]);
          return [cells, document.querySelector("#numbers").textContent];
        }"""
    )
    computed = [cell for cell in cells if cell[0].endswith(" network")]
    assert len(computed) >= 2 and all(cell[1:] == ["", 0] for cell in computed)
    assert numbers == ""
    wait(page, demo)


def test_the_keyboard_walks_the_strip(page):
    go(page, "inversion")
    page.locator(".nb-film [role=option]").first.focus()
    for key in ("ArrowRight", "ArrowRight", "ArrowLeft", "Enter"):
        page.keyboard.press(key)
    wait(page, "inversion")
    assert "gorilla" in page.locator("#stage figcaption").first.inner_text()
    page.keyboard.press("End")
    page.keyboard.press("Space")
    assert page.locator(".nb-film [role=option]").last.get_attribute("aria-selected") == "true"


def test_other_noise_more_steps_and_the_mean_of_sixteen_starts(page):
    go(page, "inversion")
    one = shown(page)
    page.locator("#again").click()
    wait(page, "inversion")
    other = shown(page)
    assert (one[0] == other[0]).all() and (one[1] != other[1]).any()
    page.locator("#more summary").click()
    page.get_by_role("combobox", name="Steps").select_option(str(2 * QUICK))
    wait(page, "inversion")
    assert page.locator("#bar").evaluate("(bar) => bar.value") == 2 * QUICK
    assert page.locator("#wishes select").nth(1).input_value() == "1"
    page.get_by_label("Representation").select_option("features")
    wait(page, "inversion")
    page.get_by_role("button", name="Mean of 16 starts").click()
    wait(page, "inversion")
    assert "mean of 16 starts" in page.locator("#stage").inner_text()


@pytest.fixture(scope="module")
def address(made):
    """The page over http, on loopback."""
    path = made.quick
    served = functools.partial(http.server.SimpleHTTPRequestHandler, directory=path.parent)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), served) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}/{path.name}"
        server.shutdown()


def test_every_demo_over_http_on_a_phone_by_finger_and_keyboard(chrome, address):
    context = chrome.new_context(
        viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True, color_scheme="dark"
    )
    page, faults = context.new_page(), []
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.goto(f"{address}#inversion")
    for demo in [*DEMOS, "paint"]:
        page.evaluate("(demo) => { location.hash = demo; }", demo)
        page.wait_for_selector(f"body[data-demo={demo}]")
        board, options = page.locator(".nb-board"), page.locator(".nb-film [role=option]")
        options.nth(1).tap()
        assert options.nth(1).get_attribute("aria-selected") == "true"
        if demo == "paint":
            board.tap()
        wait(page, demo)
        options.nth(1).focus()
        page.keyboard.press("ArrowRight")
        page.keyboard.press("Enter")
        assert options.nth(2).get_attribute("aria-selected") == "true"
        if demo == "paint":
            assert "1 stroke" in page.locator("#stage").inner_text()
            board.focus()
            page.keyboard.press("Enter")
        else:
            wait(page, demo)
    page.wait_for_function(
        "() => document.querySelector('#stage').textContent.includes('2 strokes')"
    )
    assert not faults
    context.close()


def test_classes_are_found_by_name(page):
    go(page, "classes")
    page.get_by_role("searchbox").fill("gor")
    assert page.locator(".nb-chip:visible").all_inner_texts() == ["gorilla"]
    page.locator(".nb-chip:visible").click()
    wait(page, "classes")
    assert "“gorilla” of the robust network" in page.locator("#stage").inner_text()


def drag(page, start, end):
    page.locator(".nb-board").scroll_into_view_if_needed()
    box = page.locator(".nb-board").bounding_box()
    places = [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in (start, end)]
    page.mouse.move(*places[0])
    page.mouse.down()
    page.mouse.move(*places[1], steps=5)
    page.mouse.up()


def test_what_is_painted_is_what_replay_paints(whole, made, tmp_path):
    whole.evaluate("() => { location.hash = 'paint'; }")
    whole.wait_for_selector(".nb-board")
    source = shown(whole)[1]
    drag(whole, (0.3, 0.3), (0.6, 0.5))
    drag(whole, (0.2, 0.7), (0.5, 0.8))  # at once: it waits for the first
    said = "(words) => document.querySelector('#stage').textContent.includes(words)"
    whole.wait_for_function(said, arg="2 strokes")
    whole.get_by_role("radio", name="standard").check()
    whole.locator(".nb-board").focus()
    whole.keyboard.press("Enter")
    whole.wait_for_function(said, arg="3 strokes")
    with whole.expect_download() as download:
        whole.get_by_role("button", name="Save PNG").click()
    download.value.save_as(tmp_path / "painted.png")
    painted = shown(whole)[0]
    with PIL.Image.open(tmp_path / "painted.png") as file:
        assert (numpy.asarray(file.convert("RGB")) == painted).all()
        note = json.loads(file.text["nbhelpers"])
    assert [stroke["network"] for stroke in note["strokes"]] == ["robust", "robust", "standard"]
    again = widgets.replay(tmp_path / "painted.png", models=made.models)[0].permute(1, 2, 0) * 255
    assert numpy.abs(again.numpy() - painted).mean() <= 1
    covered = numpy.zeros(painted.shape[:2])
    for stroke in note["strokes"]:
        with PIL.Image.open(io.BytesIO(base64.b64decode(stroke["mask"]))) as mask:
            covered += numpy.asarray(mask.convert("L"))
    assert (painted[covered == 0] == source[covered == 0]).all()
    whole.get_by_role("button", name="Undo").click()
    whole.wait_for_function(said, arg="2 strokes")
    whole.locator(".nb-film").last.locator("[role=option]").nth(1).click()
    whole.wait_for_function(said, arg="0 strokes")
    whole.locator(".nb-film").last.locator("[role=option]").nth(0).click()
    whole.wait_for_function(said, arg="2 strokes")  # nothing is lost by looking at another source


def test_a_hole_is_filled_and_the_rest_stays(page):
    go(page, "fill")
    page.get_by_role("button", name="No hole").click()
    page.wait_for_function(
        "() => document.querySelector('#status').textContent.includes('brush over')"
    )
    whole = shown(page)[0]
    drag(page, (0.5, 0.5), (0.6, 0.5))
    page.wait_for_function("() => document.querySelector('#numbers').textContent.includes('dB')")
    hidden, *filled = shown(page)
    rest = (hidden == whole).all(2)
    assert 0.02 < 1 - rest.mean() < 0.5
    for one in filled:
        assert (one[rest] == whole[rest]).all() and (one[~rest] != hidden[~rest]).any()


# --- pictures of one's own ---


def selected(page, name):
    page.wait_for_selector(f".nb-film [role=option][aria-label='{name}'][aria-selected=true]")
    wait(page, "inversion")


def test_pictures_of_ones_own(page, tmp_path):
    go(page, "inversion")
    PIL.Image.new("RGB", (60, 40), (200, 30, 30)).save(tmp_path / "red.png")
    page.locator("#file").set_input_files(tmp_path / "red.png")
    selected(page, "red")
    assert "the centre was cut out" in page.locator("#credit").inner_text()
    assert numpy.abs(shown(page)[0] - [200, 30, 30]).max() <= 2
    gradient = numpy.linspace(0, 255, 8000).astype("uint8")
    large = PIL.Image.fromarray(numpy.broadcast_to(gradient[None, :, None], (5000, 8000, 3)).copy())
    large.save(tmp_path / "large.jpg")  # 40 megapixels
    page.locator("#file").set_input_files(tmp_path / "large.jpg")
    selected(page, "large")
    (tmp_path / "notes.txt").write_text("no picture")
    page.locator("#file").set_input_files(tmp_path / "notes.txt")
    page.wait_for_function(
        "() => document.querySelector('#status').textContent.includes('cannot read notes.txt')"
    )


@pytest.mark.parametrize("how", ("drop", "paste"))
def test_a_picture_is_dropped_or_pasted(page, how):
    go(page, "inversion")
    page.evaluate(
        """async (how) => {
          const canvas = new OffscreenCanvas(50, 50);
          canvas.getContext("2d").fillRect(0, 0, 50, 50);
          const file = new File([await canvas.convertToBlob()], `${how}.png`, { type: "image/png" });
          const given = new DataTransfer();
          given.items.add(file);
          const options = { bubbles: true, cancelable: true, dataTransfer: given, clipboardData: given };
          const event = how === "drop" ? new DragEvent("drop", options) : new ClipboardEvent("paste", options);
          document.querySelector("main").dispatchEvent(event);
        }""",
        how,
    )
    selected(page, how)


def test_a_picture_from_the_camera(page):
    go(page, "inversion")
    page.get_by_role("button", name="Camera").click()
    page.wait_for_function("() => document.querySelector('dialog video').videoWidth > 0")
    page.get_by_role("button", name="Take the picture").click()
    selected(page, "camera")
    assert not page.locator("dialog").is_visible()


# --- everybody ---


WIDTHS = (1280, 640, 390, 320)  # 640 is 1280 at 200 % zoom
TWO_FRAMES = "() => new Promise((end) => requestAnimationFrame(() => requestAnimationFrame(end)))"


@pytest.mark.parametrize("demo", [*DEMOS, "paint", "recognition"])
def test_nothing_is_unreadable_or_cut_off(unfolded, demo):
    page = unfolded
    page.evaluate("(demo) => { location.hash = demo; }", demo)
    page.wait_for_selector(f"body[data-demo={demo}]")
    if demo in DEMOS:
        wait(page, demo)  # captions are there
    for width in WIDTHS:
        page.set_viewport_size({"width": width, "height": 844})
        page.evaluate(TWO_FRAMES)
        assert page.evaluate("() => document.documentElement.scrollWidth") == width
        for scheme in ("light", "dark") if width == 390 else ("light",):
            page.emulate_media(color_scheme=scheme)
            assert not serious(page), (width, scheme)


@pytest.fixture(scope="module")
def unfolded(chrome, made):
    """A page with all its text, and axe."""
    with opened(chrome, made.quick) as page:
        page.evaluate(axe())  # from outside: the page's own policy stays as strict as it is
        page.locator("#more summary").click()
        page.locator("#how summary").click()
        links = page.locator("nav a").evaluate_all("(all) => all.map(({ hash }) => hash.slice(1))")
        assert {*links} == {*DEMOS, "paint", "recognition"}
        yield page


@pytest.mark.parametrize(("width", "height"), ((1280, 800), (390, 844)))
def test_the_first_screen_needs_no_scrolling(chrome, made, width, height):
    with opened(chrome, made.path, viewport={"width": width, "height": height}) as page:
        for one in ("#sentence", "#stage", "#again", ".nb-film"):
            box = page.locator(one).bounding_box()
            assert box["y"] + box["height"] <= height, one


def test_with_reduced_motion_the_poster_stays_until_something_is_asked_for(chrome, made):
    with opened(chrome, made.quick, reduced_motion="reduce") as page:
        page.wait_for_timeout(300)
        assert page.evaluate("() => document.body.dataset.state") == "idle"
        assert all(one.std() > 0 for one in shown(page))
        page.locator("#again").click()
        wait(page, "inversion")


def test_printed_the_page_is_its_posters(page):
    go(page, "inversion")
    page.emulate_media(media="print")
    assert page.locator("#posters img").first.is_visible()
    assert not page.locator("#stage").is_visible()
    loaded = page.locator("#posters img").evaluate_all("(all) => all.every((i) => i.naturalWidth)")
    page.emulate_media(media="screen")
    assert loaded


def test_without_webassembly_posters_are_shown_and_said_to_be(chrome, made):
    with opened(chrome, made.path, script="delete globalThis.WebAssembly") as page:
        assert "cannot compute here" in page.locator("#engine").inner_text()
        assert page.evaluate("() => document.body.dataset.engine") == "none"
        assert not page.locator("#again").is_visible()
        page.evaluate("() => { location.hash = 'brittle'; }")
        page.wait_for_selector("body[data-demo=brittle]")
        page.wait_for_timeout(200)
        assert all(one.std() > 0 for one in shown(page))


def test_memory_stays_flat_over_fifty_picks(whole):
    wait(whole, "inversion")
    seen = []
    for k in range(50):
        whole.locator(".nb-film [role=option]").nth(k % 5).click()
        whole.wait_for_function(FIRST_FRAME)
        if k % 10 == 9:
            whole.keyboard.press("Escape")
            wait(whole, "inversion")
            seen.append([one.evaluate("() => tf.memory().numTensors") for one in whole.workers])
    assert seen[1:] == seen[:1] * 4


def test_forty_pictures_are_told_by_keys_and_saved(chrome, made, tmp_path):
    with opened(chrome, made.quick, "recognition", reduced_motion="reduce") as page:
        page.get_by_role("button", name="Start").click()
        for k in range(40):
            page.wait_for_function(
                "(k) => document.querySelector('#status').textContent === `picture ${k + 1} of 40` && "
                "document.querySelector('.nb-answers')",
                arg=k,
                timeout=60_000,
            )
            page.keyboard.press(str(k % 10))
        page.wait_for_selector(".nb-table")
        assert "Chance: 10 %" in page.locator("#controls").inner_text()
        with page.expect_download() as download:
            page.get_by_role("button", name="Save answers").click()
        download.value.save_as(tmp_path / "answers.csv")
    with (tmp_path / "answers.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 40
    counts: dict[tuple, int] = {}
    for row in rows:
        key = row["condition"], row["network"], row["layer"]
        counts[key] = counts.get(key, 0) + 1
        assert int(row["right"]) == (row["answer"] == row["image"])
    told = str(nb.recognised(tmp_path / "answers.csv", least=0))
    assert "tiny0, " in told and "tiny1, " in told and "originals" in told
    assert counts.pop(("original", "", "")) == 8
    assert set(counts.values()) == {4} and len(counts) == 8
