"""The demos: the notebooks' numbers, both representations, captions, own pictures, stills."""

import ast
import base64
import io
import json

import nbformat
import numpy
import numpy as np
import PIL.Image
import pytest
import torch
from nbconvert import HTMLExporter
from torch import nn

import nbhelpers as nb
from nbhelpers import files, widgets
from nbhelpers.data import DISTORTIONS
from nbhelpers.data.decoding import decode
from nbhelpers.widgets import feature_visualization, settings
from nbhelpers.widgets.atlas import Atlas
from nbhelpers.widgets.parts import fitted, noise_like, robust_first
from nbhelpers.widgets.perturbations import OTHER

EXPERIMENTS = {
    "1_brittleness": settings.BRITTLENESS,
    "2_inversion": settings.INVERSION,
    "3_feature_visualization": settings.VISUALIZATION,
    "4_feature_manipulation": settings.MANIPULATION,
    "5_interpolation": settings.INTERPOLATION,
    "6_misclassification": settings.MISCLASSIFICATION,
    "7_paint_with_features": settings.PAINTING,
    "8_distance": settings.DISTANCE,
    "9_layers": settings.LAYERS,
    "10_classes": settings.CLASSES,
}


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    return torch.rand(12, 3, 32, 32, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def models(tiny_model) -> dict[str, nb.Model]:
    return {"standard": tiny_model, "robust": tiny_model}


def shown(demo: widgets.Demo) -> torch.Tensor:
    """The pictures on the screen, (rows, columns, 3, h, w)."""
    pixels = numpy.array(PIL.Image.open(io.BytesIO(demo.live.result["sheet"])))
    rows = torch.from_numpy(pixels).permute(2, 0, 1).div(255).chunk(len(demo.live.rows), 1)
    return torch.stack([torch.stack(row.chunk(len(demo.live.columns), 2)) for row in rows])


def parameters(name: str) -> dict[str, object]:
    cells = json.loads((files.NOTEBOOKS / f"{name}.ipynb").read_text(encoding="utf-8"))["cells"]
    cell = next(cell for cell in cells if "parameters" in cell["metadata"].get("tags", []))
    return {
        line.target.id: ast.literal_eval(line.value)
        for line in ast.parse("".join(cell["source"])).body
    }


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_a_notebook_and_its_demo_share_their_numbers(name):
    given, own = parameters(name), EXPERIMENTS[name]
    radius = given.get("radius", given.get("length"))
    assert (given["steps"], given["step_size"], radius) == (own.steps, own.step_size, own.radius)
    if name == "4_feature_manipulation":
        assert given["percentile"] == settings.PERCENTILES[-1]


def test_lengths_grow_with_the_image_and_short_runs_take_longer_steps(images):
    own, large = settings.MISCLASSIFICATION, torch.rand(1, 3, 224, 224)
    assert own.ball(images, None) == pytest.approx(5.7) and own.ball(large, None) == pytest.approx(
        5.7 * 7
    )
    assert own.ball(large, 2.0) == 2.0 and settings.INVERSION.ball(large, None) is None
    assert own.step(own.steps, images) == pytest.approx(own.step_size)
    assert own.step(own.steps // 2, large) == pytest.approx(2 * 7 * own.step_size)


def test_a_mistake_is_explained_inside_the_ball_and_says_who_sees_what(models, images):
    labels = (nb.predict(models["robust"], images) + 1) % 10
    demo = widgets.misclassification(models, images, labels, steps=40, radius=0.5)
    pictures = shown(demo)
    # 8-bit rounding
    assert torch.linalg.vector_norm(pictures[1:] - pictures[:1], dim=(2, 3, 4)).max() <= 0.5 + 0.2
    assert demo.live.buttons and demo.live.columns == ["top 1", "top 2", "top 3", "random"]
    name, seen = models["robust"].classes[labels[0]], nb.predict(models["robust"], images[:1])[0]
    assert demo.live.result["captions"][0][0].startswith(f"{name}\nrobust: {seen}, standard: ")
    assert demo.live.result["captions"][1][0].startswith("robust: ")
    assert "radius 0.5" in demo.live.note
    assert "radius 5.7" in widgets.misclassification(models, images, labels, steps=1).live.note


def test_where_no_image_is_wrong_for_all_those_that_are_for_one_are_shown():
    models = {
        name: nb.load_model(name, device="cpu") for name in ("cifar10-l2-0.5", "cifar10-standard")
    }
    images, _ = nb.load_images("cifar10-sample", indices=range(64))
    labels, other = (nb.predict(model, images) for model in models.values())
    demo = widgets.misclassification(models, images, labels, steps=1)
    wrong = images[labels != other]
    assert 0 < len(wrong) < 64 and torch.equal(demo.pickers[0].pixels, wrong)


@pytest.mark.parametrize("positions", [True, False])
def test_an_inversion_is_what_minimize_gives_in_both_forms(models, images, positions):
    demo = widgets.inversion(models, images, positions=positions, steps=4, seed=3)
    model = models["robust"]

    def f(x):
        return model.representation(x, positions=positions)

    def run(start, steps):
        solver = nb.Solver(step_size=settings.INVERSION.step(steps, images), keep="last")
        return nb.minimize(f, nb.match(f(images[:1])), start, steps=steps, solver=solver).images

    single, mean = run(nb.noise(1, seed=3), 4)[0], run(nb.noise(16, seed=3), 2).mean(0)
    assert demo.live.columns == ["original", "robust", "standard"] and len(demo.live.rows) == 2
    assert demo.live.mode == (0 if positions else 1)
    for row, expected in zip(shown(demo), (single, mean), strict=True):
        assert (row[0] - images[0]).abs().max() <= 1 / 255
        assert (row[1] - expected).abs().max() <= 3 / 255


def test_changes_of_one_length_stand_in_the_order_of_each_networks_distance(models, images):
    demo = widgets.distances(models, images, torch.arange(12) % 4, steps=4, positions=False)
    pictures, captions = shown(demo), demo.live.result["captions"]
    kinds = [[text.split("\n")[0].split(": ")[0] for text in row] for row in captions]
    for row, names, texts in zip(pictures, kinds, captions, strict=True):
        assert names[0] == "0" and {*names[1:]} == {
            *DISTORTIONS,
            "against robust",
            "against standard",
            OTHER,
        }
        far = [float(text.split("\n")[0].split(": ")[1]) for text in texts[1:]]
        assert far == sorted(far) and far[0] > 0
        moved = torch.linalg.vector_norm(row - row[:1], dim=(1, 2, 3))
        for name, length in zip(names, moved, strict=True):
            assert name in ("0", OTHER, "occlusion") or length == pytest.approx(2, abs=0.1), name
        assert (row[names.index(OTHER)] - images[4]).abs().max() <= 1 / 255  # the next of its class
    assert "L2 length 2" in demo.live.note and repr(demo) == "Demo(Distance)"
    # a single image without a class
    assert widgets.distances(models, images[:1], steps=1).live.result["captions"]


PAIRED = {
    "inversion": lambda models, x, on: widgets.inversion(models, x, positions=on, steps=3),
    "epsilon_series": lambda models, x, on: widgets.epsilon_series(
        models, x, positions=on, steps=3
    ),
    "distances": lambda models, x, on: widgets.distances(models, x, positions=on, steps=3),
    "brittleness": lambda models, x, on: widgets.brittleness(models, x, positions=on, steps=3),
    "interpolation": lambda models, x, on: widgets.interpolation(
        models, x, positions=on, points=3, steps=3
    ),
}


@pytest.mark.parametrize("name", PAIRED)
def test_the_switch_computes_the_pick_again_and_both_are_remembered(name, models, images):
    demo, other = PAIRED[name](models, images[:2], True), PAIRED[name](models, images[:2], False)
    first, live = demo.live.result["sheet"], demo.live
    assert live.switch == ["with positions", "averaged"]
    live.unobserve_all("mode")
    live.mode = 1
    live.compute(demo.pick)
    assert live.result["sheet"] == other.live.result["sheet"] != first
    live.mode = 0
    assert live.request(demo.pick) is None and live.result["sheet"] == first


def test_a_network_without_positions_has_no_switch_and_a_large_image_no_sixteen_starts():
    network = nn.Sequential(nn.Flatten(), nn.Linear(3 * 65 * 65, 8), nn.ReLU(), nn.Linear(8, 4))
    demo = widgets.inversion(
        {"flat": nb.Model(network, image_size=65)}, torch.rand(2, 3, 65, 65), steps=1
    )
    assert demo.live.switch == [] and demo.live.rows == [""]


def test_the_robust_network_comes_first_and_its_component_is_open(models, images):
    for demo in (
        widgets.feature_visualization(models, images, components=2, steps=1),
        widgets.feature_manipulation(models, images, components=2, steps=1),
    ):
        assert demo.pickers[0].groups[0][0] == "robust network" and demo.pickers[0].selected == 0
    assert demo.live.rows == ["source", "robust", "standard"]
    assert widgets.brittleness(models, images, steps=1).live.columns[1] == "robust, moved"
    atlas = Atlas(
        robust_first(models), images, [3], settings=settings.VISUALIZATION, steps=1, seed=0
    )
    assert atlas.chosen(0)["standard"] == (3, "component 3 (r 1.00)")


def test_an_unknown_label_is_no_class_and_one_beyond_the_classes_is_refused(models, images):
    labels = torch.tensor([-1, 2, *[-1] * 10])
    for demo in (
        widgets.inversion(models, images, labels, steps=1),
        widgets.brittleness(models, images, labels, steps=1),
        widgets.feature_manipulation(models, images, labels, components=1, steps=1),
    ):
        assert demo.pickers[-1].captions[:3] == ["", "2", ""]
    seen = widgets.feature_visualization(
        models, images, -torch.ones(12).long(), components=1, k=2, steps=1
    )
    assert all("\n" not in text for row in seen.live.result["captions"][2:] for text in row)
    for call in (widgets.inversion, widgets.feature_visualization, widgets.misclassification):
        with pytest.raises(ValueError, match="labels: got 10, wanted 0 to 9"):
            call(models, images, torch.full((12,), 10))
    with pytest.raises(ValueError, match="none has a known label; give some with labels"):
        widgets.misclassification(models, images, -torch.ones(12).long())
    with pytest.raises(ValueError, match="labels: got 3 for 12 images"):
        widgets.inversion(models, images, labels[:3])
    for odd in (labels[:, None], torch.full((12,), torch.nan), [None] * 12, torch.full((12,), 0.5)):
        with pytest.raises(ValueError, match=r"labels: got .*, wanted 0 to 9"):
            widgets.inversion(models, images, odd)


def test_texts_and_numpy_labels_caption_images_and_other_groups(models, images):
    others = {"elsewhere": (images[:2], ["brick", "sky"]), "more": images[:1]}
    demo = widgets.inversion(models, images[:2], ["mine", "yours"], others=others, steps=1)
    assert demo.pickers[0].captions == ["mine", "yours", "brick", "sky", ""]
    demo = widgets.inversion(models, images[:2], numpy.array([1, 0]), steps=1)
    assert demo.pickers[0].captions == ["1", "0"]


def test_an_opened_set_brings_its_images_and_their_own_names(models):
    opened = nb.open_images("photographs", size=32)
    names = list(opened.names)
    for demo in (
        widgets.inversion(models, opened, steps=1),
        widgets.brittleness(models, opened, steps=1),
        widgets.inpainting(models, opened, steps=1),
    ):
        assert demo.pickers[0].captions == names
        assert demo.pickers[0].pixels.shape == (len(names), 3, 32, 32)
    assert demo.live.columns[0] == "robust"


def test_originals_have_their_own_names_and_predictions_are_marked(models, images):
    names = [f"thing {k}" for k in range(12)]
    inverted = widgets.inversion(models, images, names, steps=1).live.result["captions"]
    assert inverted[0][0] == "thing 0" and inverted[0][1].startswith("robust: ")
    moved = widgets.brittleness(models, images, names, steps=1).live.result["captions"][0]
    assert (moved[0], moved[-1]) == ("thing 0", "thing 1") and moved[2].startswith("standard: ")
    raised = widgets.feature_manipulation(models, images, names, components=1, steps=1)
    first, robust, _ = raised.live.result["captions"]
    assert set(first) == {"thing 0"} and robust[0].startswith("robust: ")
    by_radius = widgets.epsilon_series({"0": models["robust"]}, images, names, steps=1)
    original, rebuilt = by_radius.live.result["captions"]
    assert original == ["thing 0"] and rebuilt[0].startswith("ε = 0: ")


def grey_model() -> nb.Model:
    layers = [
        nn.Conv2d(1, 8, 3),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 10),
    ]
    return nb.Model(nn.Sequential(*layers), mean=(0.1,), std=(0.3,), image_size=28)


def test_grey_and_oblong_images_in_every_demo(tiny_model, images):
    grey, oblong, labels = (
        torch.rand(12, 1, 28, 28),
        torch.rand(12, 3, 24, 16),
        torch.arange(12) % 10,
    )
    for model, batch in ((grey_model(), grey), (tiny_model, oblong), (tiny_model, grey)):
        wrong = (nb.predict(model, fitted({"": model}, batch)) + 1) % 10
        for demo in (
            widgets.inversion({"m": model}, batch, labels, steps=1),
            widgets.brittleness({"m": model}, batch, labels, steps=1),
            widgets.interpolation({"m": model}, batch, labels, points=2, steps=1),
            widgets.distances({"m": model}, batch, labels, steps=1),
            widgets.feature_visualization({"m": model}, batch, labels, components=1, steps=1),
            widgets.feature_manipulation({"m": model}, batch, labels, components=1, steps=1),
            widgets.misclassification({"m": model}, batch, wrong, steps=1),
        ):
            assert shown(demo).shape[3:] == batch.shape[2:]
            assert demo.figure()
    with pytest.raises(ValueError, match=r"images: got 3 channels, the networks take \[1\]"):
        widgets.inversion({"m": grey_model()}, images, steps=1)
    assert torch.equal(noise_like(images, 2, 5), nb.noise(2, seed=5))


def test_a_grey_picker_takes_a_coloured_picture():
    picker = widgets.ImagePicker(torch.rand(1, 1, 8, 8), upload=True)
    picker.add(torch.tensor([1.0, 0, 0])[None, :, None, None].expand(1, 3, 8, 8))
    assert picker.pixels.shape == (2, 1, 8, 8) and picker.pixels[1].mean() == pytest.approx(
        0.299, abs=1e-3
    )


def upload(
    picker: widgets.ImagePicker, name: str, picture: PIL.Image.Image | bytes, kind: str = "PNG"
) -> str:
    if not isinstance(picture, bytes):
        buffer = io.BytesIO()
        picture.save(buffer, kind)
        picture = buffer.getvalue()
    picker._handle_custom_msg({"type": "upload", "name": name}, [memoryview(picture)])
    return picker.message


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "RGB"])
def test_a_transparent_picture_is_the_same_as_a_file_and_as_an_upload(mode, tmp_path):
    picture = PIL.Image.new("RGBA", (8, 8), (0, 0, 0, 0))
    picture.paste((200, 200, 200, 255), (2, 2, 6, 6))
    picture = picture.convert(mode)
    picture.save(tmp_path / "a.png", **({"transparency": (0, 0, 0)} if mode == "RGB" else {}))
    picker = widgets.ImagePicker(torch.rand(1, 3, 8, 8), upload=True)
    assert "white now" in upload(picker, "a.png", (tmp_path / "a.png").read_bytes())
    (pixels,), _ = nb.load_images(tmp_path / "a.png")
    torch.testing.assert_close(picker.pixels[-1], pixels)
    assert pixels[:, 0, 0].tolist() == [1, 1, 1] and pixels[:, 3, 3].max() < 0.8


def test_uploads_are_read_as_files_are_and_say_what_was_done():
    picker = widgets.ImagePicker(torch.rand(1, 3, 8, 8), upload=True)
    deep, floats = numpy.full((9, 9), 60000, numpy.uint16), numpy.full((9, 9), 0.5, numpy.float32)
    for name, picture, kind in (
        ("deep.png", PIL.Image.fromarray(deep), "PNG"),
        ("float.tiff", PIL.Image.fromarray(floats), "TIFF"),
    ):
        assert (
            upload(picker, name, picture, kind)
            == f"{name} has more than 8 bits per channel; save it with 8"
        )
    with pytest.raises(ValueError) as refused:
        decode("note.txt", b"hello")
    assert upload(picker, "note.txt", b"hello") == str(refused.value)
    assert len(picker.pixels) == 1

    wide = PIL.Image.new("RGB", (60, 40), "red")
    assert upload(picker, "wide.png", wide) == "wide.png: the centre was cut out"
    clear = PIL.Image.new("RGBA", (9, 9), (255, 0, 0, 0))
    assert upload(picker, "clear.png", clear) == "clear.png: what was transparent is white now"
    assert picker.pixels[-1].min() > 0.999 and picker.captions[-2:] == ["wide", "clear"]
    assert upload(picker, "plain.png", PIL.Image.new("RGBA", (9, 9), (255, 0, 0, 255))) == ""


def test_ones_own_picture_can_be_removed_and_its_result_is_forgotten(models, images):
    demo = widgets.epsilon_series(models, images[:2], steps=1)
    picker = demo.pickers[0]
    for k in (3, 4):
        picker.add(images[k])
        demo.live.compute(demo.pick)
    with_first = demo.live.compute((2,))["sheet"]
    picker.selected = 2
    picker._handle_custom_msg({"type": "remove"}, [])
    assert (
        picker.selected == 1
        and picker.groups[-1] == ["your own", 1]
        and len(picker.thumbnails) == 3
    )
    assert torch.equal(picker.pixels[2], images[4])
    assert demo.live.compute((2,))["sheet"] != with_first
    picker.selected = 2
    picker.remove()
    assert picker.groups == [["", 2]] and len(picker.pixels) == len(picker.captions) == 2
    with pytest.raises(ValueError, match="not one of your own"):
        picker.remove()


def packed(outputs):
    """Outputs as in a saved notebook: pictures as text."""
    for bundle, metadata in outputs:
        files = {
            kind: base64.b64encode(c).decode() if isinstance(c, bytes) else c
            for kind, c in bundle.items()
        }
        yield files, metadata


def test_the_still_picture_is_an_output_of_its_own(models, images, monkeypatch):
    outputs = []
    monkeypatch.setattr(
        widgets.live, "display", lambda bundle, **more: outputs.append((bundle, more["metadata"]))
    )
    widgets.brittleness(models, images[:2], steps=1)._ipython_display_()
    (widget, _), (still, about), (note, _) = outputs
    assert "application/vnd.jupyter.widget-view+json" in widget and "image/png" not in widget
    assert widget["text/plain"] == "Demo(Brittleness)"
    assert still["image/png"].startswith(b"\x89PNG") and len(still["image/png"]) < 150_000
    assert about["image/png"]["alt"] == still["text/plain"]
    cell = nbformat.v4.new_code_cell(
        outputs=[
            nbformat.v4.new_output("display_data", data=data, metadata=more)
            for data, more in packed(outputs)
        ]
    )
    page, _ = HTMLExporter(template_name="classic").from_notebook_node(
        nbformat.v4.new_notebook(cells=[cell])
    )
    assert f'alt="{still["text/plain"]}"' in page and "Run All Cells" in page
    assert "Run All Cells" in note["text/html"] and "nb-still" in note["text/html"]


def test_the_sixteen_starts_follow_the_single_reconstructions(models, images):
    demo, seen = widgets.inversion(models, images, steps=4), []
    for frame in demo.live._job(1, 1):
        sheet, _ = frame.draw()
        seen.append(sheet[:, 1:].clone())
    assert len(seen) == 4 + 2 + 1
    singles, means = (torch.stack(part) for part in zip(*seen, strict=True))
    moved = [(part.diff(dim=0).abs().flatten(1).amax(1) > 0).tolist() for part in (singles, means)]
    assert moved == [[True] * 4 + [False] * 2, [False] * 4 + [True] * 2]


@pytest.mark.parametrize("size, one", [(64, True), (80, False)])
def test_a_run_for_small_pictures_takes_one_thread(tiny_model, size, one):
    demo = widgets.inversion({"robust": tiny_model}, torch.rand(2, 3, size, size), steps=1)
    before, seen, job = torch.get_num_threads(), [], demo.live._job
    try:
        torch.set_num_threads(2)
        demo.live._job = lambda *pick: (seen.append(torch.get_num_threads()), job(*pick))[1]
        demo.live.request((1,)).join()
        assert demo.live.status["state"] == "done" and seen == [1 if one else 2]
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("count", [2, np.int64(2), torch.tensor(2)])
def test_a_demo_draws_as_many_components_as_any_number_says(tiny_model, count):
    images = torch.rand(5, 3, 32, 32)
    demo = feature_visualization({"m": tiny_model}, images, steps=1, components=count, k=2)
    assert len(demo.pickers[0].pixels) == 2
