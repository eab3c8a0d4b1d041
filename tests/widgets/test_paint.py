"""The canvas without a browser: strokes, undo, eraser, and replay of notes."""

import io
import json
import math
import time

import PIL.Image
import pytest
import torch

import nbhelpers as nb
from nbhelpers import widgets
from nbhelpers.widgets import paint as face
from nbhelpers.widgets.settings import PAINTING
from nbhelpers.widgets.strokes import ERASE, KEY, as_text, read_note, signed

MASK = torch.zeros(32, 32)
MASK[4:14, 6:20] = 1


@pytest.fixture
def demo(tiny_model, tmp_path, monkeypatch):
    monkeypatch.setenv("NBHELPERS_CACHE", str(tmp_path / "cache"))
    images = torch.rand(20, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    images = (images * 255).round() / 255
    models = {"standard": tiny_model, "robust": tiny_model}
    return face(models, images, torch.arange(20) % 10, components=[5, 7], steps=4)


def painted(live, *arguments, **options):
    if thread := live.stroke(*arguments, **options):
        thread.join(30)


def settled(live):
    for _ in range(1000):
        if not live._busy and live.status["state"] != "running":
            return
        time.sleep(0.01)
    pytest.fail(f"still running: {live.status}")


def test_it_opens_with_a_stroke_and_paints_inside_the_mask_alone(demo):
    live = demo.live
    assert (live.done, live.status["state"]) == (1, "done") and {
        e["label"] for e in live.palette
    } == {"robust", "standard"}
    assert all(entry["about"] and entry["thumbnail"] for entry in live.palette)
    before = live.image
    painted(live, MASK, 2)
    assert torch.equal(live.image[..., MASK == 0], before[..., MASK == 0]) and not torch.equal(
        live.image, before
    )
    assert repr(demo) == "Demo(Paint)" and repr(live) == f"Paint({len(live.palette)} components)"


def test_strokes_wait_for_each_other_and_all_are_done(demo):
    live = demo.live
    threads = [live.stroke(MASK.roll(k, 0), k) for k in range(4)]
    for thread in filter(None, threads):
        thread.join(30)
    assert live.done == 5 and [stroke.component for stroke in live._strokes[1:]] == [
        live.palette[k]["component"] for k in range(4)
    ]
    assert live.status["state"] == "done"


def test_undo_and_eraser_bring_back_what_was(demo):
    live = demo.live
    before = live.image
    painted(live, MASK, 1)
    live.undo()
    assert torch.equal(live.image, before) and live.done == 1
    assert live.status["text"] == ""  # the front end adds the number of strokes
    live._handle_custom_msg(
        {"type": "stroke", "erase": True}, [memoryview((MASK * 255).byte().numpy().tobytes())]
    )
    settled(live)
    assert live.done == 2 and torch.equal(
        live.image[..., MASK == 1], demo.pickers[0].pixels[:1][..., MASK == 1]
    )
    assert torch.equal(live.image[..., MASK == 0], before[..., MASK == 0])
    for _ in range(3):
        live.undo()
    assert live.done == 0 and torch.equal(live.image, demo.pickers[0].pixels[:1])


def test_a_stopped_stroke_is_kept_and_an_undone_one_is_not(demo, monkeypatch, tmp_path):
    live = demo.live
    live._steps = 500
    for press in (live.stop, live.undo):
        left, draw = [press], live._draw

        def drawn(left=left, draw=draw):
            while left:  # at the first frame
                left.pop()()
            return draw()

        monkeypatch.setattr(live, "_draw", drawn)
        painted(live, MASK, 0)
        monkeypatch.undo()
        assert live.done == 2 and live.status["state"] == "stopped" and not live._busy
    assert 0 <= live._strokes[-1].until < 500
    (path := tmp_path / "stopped.png").write_bytes(live.export())
    again = widgets.replay(path, models=live._models)
    assert (again - live.image).abs().max() <= 3 / 255


def test_a_saved_note_paints_the_same(demo, tmp_path):
    live = demo.live
    live.names = {live.palette[1]["key"]: "wheels"}
    painted(live, MASK, 1, amount=5)
    painted(live, MASK.roll(9, 1) * 0.5, 0)
    painted(live, MASK.roll(4, 0), ERASE)
    (tmp_path / "painted.png").write_bytes(live.export())
    with PIL.Image.open(tmp_path / "painted.png") as picture:
        note = json.loads(picture.text[KEY])
    assert [stroke["name"] for stroke in note["strokes"]] == ["", "wheels", "", ""]
    assert (
        note["networks"] == {"robust": "tiny", "standard": "tiny"}
        and note["strokes"][1]["ceiling"] is None
    )
    again = widgets.replay(tmp_path / "painted.png", models=live._models)
    assert (again - live.image).abs().max() <= 3 / 255
    PIL.Image.new("RGB", (8, 8)).save(tmp_path / "plain.png")
    with pytest.raises(ValueError, match=r"note: plain\.png has none") as raised:
        widgets.replay(tmp_path / "plain.png")
    assert "\n" not in str(raised.value)
    note["strokes"][0]["component"] = 99
    with pytest.raises(IndexError, match="component: got 99, wanted 0 to 31"):
        widgets.replay(note, models=live._models)


def opened(live, file, name="painted.png"):
    live._handle_custom_msg({"type": "open", "name": name}, [memoryview(file)])
    settled(live)


def test_an_opened_note_paints_the_same_on_the_canvas_and_goes_on(demo, tiny_model):
    live, picker = demo.live, demo.pickers[0]
    picker.selected = 3
    settled(live)
    for k in range(3):
        painted(live, MASK.roll(3 * k, 0), ERASE if k == 1 else k)
    file, wanted, source = live.export(), live.image, live._pictures[0]
    picker.selected = 1
    settled(live)
    assert not torch.equal(live.image, wanted)
    opened(live, file)
    assert (live.done, live.status["state"], picker.selected) == (3, "done", -1)
    assert torch.equal(live._pictures[0], source) and (live.image - wanted).abs().max() <= 3 / 255
    painted(live, MASK, 0)
    live.undo()
    assert live.done == 3 and (live.image - wanted).abs().max() <= 3 / 255
    picker.selected = 2  # a source of the picker again
    settled(live)
    assert live.done == 0 and torch.equal(live.image, picker.pixels[2:3])
    # the same network under another label
    renamed = face({"mine": tiny_model}, picker.pixels, components=[5], steps=1).live
    opened(renamed, file)
    assert renamed.done == 3 and (renamed.image - wanted).abs().max() <= 3 / 255


def test_a_note_opened_while_a_stroke_forms_takes_its_place(demo, monkeypatch):
    live = demo.live
    file, wanted, left, draw = live.export(), live.image, [1], live._draw
    live._steps = 500

    def drawn():
        while left:
            left.pop()
            live.reopen(file, "painted.png")
        return draw()

    monkeypatch.setattr(live, "_draw", drawn)
    painted(live, MASK, 0)
    settled(live)
    assert live.done == 1 and (live.image - wanted).abs().max() <= 3 / 255


def picture(size=8, mode="RGB"):
    buffer = io.BytesIO()
    PIL.Image.new(mode, (size, size)).save(buffer, "PNG")
    return buffer.getvalue()


def changed(live, **others):
    note = read_note(live.export(), "")
    for key, value in others.items():
        (note["strokes"][0] if key in note["strokes"][0] else note)[key] = value
    return signed(picture(), note)


OPENED = {
    "a text": (lambda live: b"hello", "note: it has none; give a PNG that the canvas saved"),
    "a plain picture": (
        lambda live: picture(),
        "note: it has none; give a PNG that the canvas saved",
    ),
    "too many pixels": (
        lambda live: picture(14_000, "1"),
        "note: it has none; give a PNG that the canvas saved",
    ),
    "another network": (
        lambda live: changed(live, networks={"robust": "cifar10-l2-1.0"}),
        "note: it was painted with cifar10-l2-1.0; here are tiny",
    ),
    "other weights": (
        lambda live: changed(live, weights={"robust": "0" * 12}),
        "note: it was painted with tiny; it has other weights here",
    ),
    "a component": (
        lambda live: changed(live, component=99),
        "component: got 99, wanted 0 to 31 of robust",
    ),
    "damage": (lambda live: changed(live, source=None), "note: it is damaged (TypeError: "),
    "no strokes": (lambda live: changed(live, strokes=[{}]), "note: it is damaged (KeyError: "),
    "another size": (
        lambda live: changed(live, source=as_text(picture()), strokes=[]),
        "note: it is of 3 × 8 × 8 numbers, this canvas of 3 × 32 × 32",
    ),
}


@pytest.mark.parametrize("kind", OPENED)
def test_what_is_no_note_of_these_networks_is_told_in_one_line(demo, kind):
    file, message = OPENED[kind]
    before, content = demo.live.image, file(demo.live)
    opened(demo.live, content, "it")
    assert demo.live.status["state"] == "error" and demo.live.status["text"].startswith(message)
    assert (
        "\n" not in demo.live.status["text"]
        and torch.equal(demo.live.image, before)
        and demo.live.done == 1
    )


def test_a_stroke_keeps_to_its_ball(tiny_model):
    images = torch.rand(4, 3, 32, 32)
    live = face({"robust": tiny_model}, images, steps=20, radius=0.5).live
    assert "by 0.5 at most (L2)" in live.note and live._strokes[0].radius == 0.5
    assert (live.image - live._pictures[0]).norm() <= 0.5 + 1e-4
    assert face({"robust": tiny_model}, images, steps=1).live._strokes[0].radius == PAINTING.radius
    free = face({"robust": tiny_model}, images, steps=1, radius=math.inf).live
    assert (
        "at most" not in free.note and read_note(free.export(), "")["strokes"][0]["radius"] is None
    )


def test_names_that_cannot_be_kept_are_told(demo, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("NBHELPERS_CACHE", str(tmp_path / "file"))
    demo.live.names = {demo.live.palette[0]["key"]: "beak"}
    status = demo.live.status
    assert status["state"] == "error" and status["text"].startswith("Names are not kept")


def test_names_are_kept_for_the_next_time(demo, tiny_model):
    demo.live.names = {"tiny:5": "beak"}
    images = demo.pickers[0].pixels
    again = face({"robust": tiny_model}, images, components=[5], steps=2)
    assert "beak" in again.live.names.values()


def test_another_image_starts_afresh_and_amounts_are_percentiles_of_the_region(demo):
    live = demo.live
    low, high = (live._ceiling(0, MASK, k) for k in (0, 4))
    assert low < high < math.inf and live._ceiling(0, MASK, 5) == math.inf
    demo.pickers[0].selected = 3
    settled(live)
    assert live.done == 0 and torch.equal(live.image, demo.pickers[0].pixels[3:4])


@pytest.mark.parametrize(
    "arguments, kind, message",
    [
        ((MASK * 0,), ValueError, "it is empty"),
        ((MASK[:8],), ValueError, r"got shape \(8, 32\), wanted \(32, 32\)"),
        ((MASK, 99), IndexError, "component: got 99, wanted 0 to"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(demo, arguments, kind, message):
    with pytest.raises(kind, match=message) as raised:
        demo.live.stroke(*arguments)
    assert "\n" not in str(raised.value)


def test_a_message_that_does_not_fit_is_shown(demo):
    demo.live._handle_custom_msg({"type": "stroke"}, [bytes(1024)])
    assert demo.live.status["state"] == "error" and "it is empty" in demo.live.status["text"]
    assert nb.widgets.paint is face
