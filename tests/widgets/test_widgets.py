"""Pickers and live results without a browser: newest pick, cache, errors."""

import functools
import io
import threading
from collections.abc import Iterator

import numpy
import PIL.Image
import pytest
import torch
from traitlets import TraitError

import nbhelpers as nb
from nbhelpers import checkpoints, files, widgets
from nbhelpers.networks.resnets import resnet
from nbhelpers.widgets.settings import INVERSION

IMAGES = torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
GREY = torch.full((1, 1, 3, 8, 8), 0.5)


def pixels(file: bytes) -> numpy.ndarray:
    return numpy.asarray(PIL.Image.open(io.BytesIO(file)))


class Job:
    """A job of three steps, each released by the test, that counts steps and starts."""

    def __init__(self):
        self.steps = 0
        self.begun: list[tuple[int, ...]] = []
        self.go, self.reached = threading.Semaphore(0), threading.Semaphore(0)

    def __call__(self, *pick: int) -> Iterator[widgets.Frame]:
        self.begun.append(pick)
        for step in range(3):
            self.reached.release()
            assert self.go.acquire(timeout=20)
            self.steps += 1
            yield widgets.Frame(
                step, 2, lambda step=step: (GREY * (step + 1) / 3, [[f"{pick} at {step}"]])
            )


@pytest.fixture
def job() -> Job:
    return Job()


@pytest.fixture
def live(job: Job) -> widgets.Live:
    return widgets.Live(job, rows=["one"], columns=["a"])


def test_picker_shows_its_images_and_reports_picks():
    picker = widgets.ImagePicker(
        {"test set": IMAGES[:3], "others": IMAGES[3:]}, captions=list("abcd")
    )
    seen = []
    picker.observe(lambda change: seen.append(change["new"]), "selected")
    picker.selected = 3
    assert seen == [3]
    assert picker.groups == [["test set", 3], ["others", 1]]
    assert torch.equal(picker.image, IMAGES[3:])
    shown = torch.from_numpy(pixels(picker.thumbnails[3]).copy()).permute(2, 0, 1) / 255
    assert torch.allclose(shown, IMAGES[3], atol=0.5 / 255 + 1e-6)
    assert repr(picker) == "ImagePicker(4 images, selected=3)"


@pytest.mark.parametrize("index", [-2, 4])
def test_picker_refuses_an_index_outside(index):
    with pytest.raises(TraitError, match="wanted 0 to 3"):
        widgets.ImagePicker(IMAGES).selected = index


def test_picker_refuses_what_does_not_fit():
    with pytest.raises(ValueError, match="captions: got 1 for 4 images"):
        widgets.ImagePicker(IMAGES, captions=["a"])
    with pytest.raises(ValueError, match="wanted one size"):
        widgets.ImagePicker({"a": IMAGES, "b": torch.rand(1, 3, 9, 9)})
    with pytest.raises(ValueError, match="nothing is picked"):
        _ = widgets.ImagePicker(IMAGES).image


def test_own_images_by_path_and_by_upload(tmp_path):
    picker = widgets.ImagePicker(IMAGES, upload=True)
    PIL.Image.new("RGB", (20, 12), (255, 0, 0)).save(tmp_path / "red.png")
    picker.add(tmp_path / "red.png")
    assert (picker.selected, picker.captions[-1], picker.groups[-1]) == (4, "red", ["your own", 1])
    assert picker.pixels.shape == (5, 3, 8, 8)
    file = (tmp_path / "red.png").read_bytes()
    picker._handle_custom_msg({"type": "upload", "name": "holiday.png"}, [memoryview(file)])
    assert (picker.selected, picker.captions[-1], picker.groups[-1]) == (
        5,
        "holiday",
        ["your own", 2],
    )
    picker._handle_custom_msg({"type": "upload", "name": "text.txt"}, [b"no picture"])
    assert "cannot read text.txt" in picker.message and len(picker.pixels) == 6


def test_five_quick_picks_finish_one_run(live, job):
    threads = [live.request((k,)) for k in range(5)]
    job.go.release(100)
    for thread in threads:
        thread.join(20)
    assert live.finished == 1 and job.steps <= 2 * 3
    assert live.result["captions"] == [["(4,) at 2"]]
    assert live.status["state"] == "done"


def test_five_picks_in_a_run_cost_it_and_the_last_of_them(live, job):
    threads = [live.request((0,))]
    assert job.reached.acquire(timeout=20)  # computes its first step
    threads += [live.request((k,)) for k in range(1, 6)]
    job.go.release(100)
    for thread in threads:
        thread.join(20)
    assert job.begun == [(0,), (5,)]
    assert job.steps == 1 + 3 and live.finished == 1
    assert live.result["captions"] == [["(5,) at 2"]]


def test_a_new_pick_cancels_a_run_under_way(live, job):
    first = live.request((1,))
    assert job.reached.acquire(timeout=20)
    second = live.request((2,))
    job.go.release(100)
    first.join(20)
    second.join(20)
    assert job.begun == [(1,), (2,)]
    assert live.finished == 1 and live.result["captions"] == [["(2,) at 2"]]


def test_a_remembered_result_comes_at_once_and_cancels_too(live, job):
    job.go.release(3)
    live.request((1,)).join(20)
    running = live.request((2,))
    assert live.request((1,)) is None
    assert live.result["captions"] == [["(1,) at 2"]] and live.status["state"] == "done"
    job.go.release(100)
    running.join(20)
    assert live.result["captions"] == [["(1,) at 2"]]
    assert job.begun.count((1,)) == 1


def test_memory_is_bounded(live, job):
    job.go.release(100)
    live.REMEMBERED = 2
    for k in (1, 2, 3, 1):
        live.compute((k,))
    assert job.begun == [(1,), (2,), (3,), (1,)]


def test_stop_keeps_what_there_is_and_remembers_nothing(live, job):
    thread = live.request((1,))
    assert job.reached.acquire(timeout=20)
    live._handle_custom_msg({"type": "stop"}, [])
    job.go.release(100)
    thread.join(20)
    assert live.status["state"] == "stopped" and "stopped" in live.status["text"]
    assert live.result["captions"] == [["(1,) at 0"]]
    assert live.request((1,)) is not None


def test_an_error_is_shown_and_the_next_pick_works():
    def job(k: int) -> Iterator[widgets.Frame]:
        if k == 0:
            raise ValueError("no such thing")
        yield widgets.Frame(1, 1, lambda: (GREY, [["fine"]]))

    live = widgets.Live(job, rows=["one"], columns=["a"])
    live.request((0,)).join(20)
    assert live.status["state"] == "error" and live.status["text"] == "ValueError: no such thing"
    live.request((1,)).join(20)
    assert live.status["state"] == "done"


def test_frames_are_throttled_messages_and_come_first(live, job, monkeypatch):
    sent = []
    monkeypatch.setattr(live, "send", lambda content, buffers: sent.append((content, buffers)))
    job.go.release(100)
    live.request((1,)).join(20)
    # the others came within a fifteenth of a second
    assert [content["step"] for content, _ in sent] == [0]
    assert sent[0][0]["total"] == 2 and pixels(sent[0][1][0]).shape == (8, 8, 3)


@pytest.fixture(scope="module")
def data(tiny_model):
    images = torch.rand(12, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    return {"standard": tiny_model, "robust": tiny_model}, images, torch.arange(12) % 10


CALLS = {
    "inversion": lambda models, x, y: widgets.inversion(
        models, x, y, others={"others": x[:2]}, steps=3
    ),
    "epsilon_series": lambda models, x, y: widgets.epsilon_series(models, x, y, steps=3),
    "brittleness": lambda models, x, y: widgets.brittleness(models, x, y, steps=3),
    "interpolation": lambda models, x, y: widgets.interpolation(models, x, y, points=3, steps=3),
    "feature_visualization": lambda models, x, y: widgets.feature_visualization(
        models, x, y, components=2, steps=3
    ),
    "feature_manipulation": lambda models, x, y: widgets.feature_manipulation(
        models, x, y, components=[5], steps=3
    ),
    "misclassification": lambda models, x, y: widgets.misclassification(models, x, y, steps=3),
    "distances": lambda models, x, y: widgets.distances(models, x, y, steps=3),
}


@pytest.mark.parametrize("name", CALLS)
def test_each_demo_opens_with_a_result_and_answers_a_pick(name, data):
    demo = CALLS[name](*data)
    live = demo.live
    sheet = pixels(live.result["sheet"])
    assert sheet.shape == (32 * len(live.rows), 32 * len(live.columns), 3)
    assert [len(row) for row in live.result["captions"]] == [len(live.columns)] * len(live.rows)
    threads = threading.enumerate()
    demo.pickers[0].selected = 0 if demo.pickers[0].selected else 1
    for thread in set(threading.enumerate()) - set(threads):
        thread.join(20)
    assert live.status["state"] == "done" and live.finished == 2


@pytest.mark.long
def test_the_series_holds_what_differs_in_its_radius_alone(tiny_model, tmp_path, monkeypatch):
    monkeypatch.setattr(files, "CHECKPOINTS", tmp_path)
    monkeypatch.setenv("NBHELPERS_CACHE", str(tmp_path / "cache"))
    (tmp_path / "manifest.toml").write_text("[datasets]\n")
    facts = {"dataset": "cifar10", "mean": (0.5,) * 3, "std": (0.25,) * 3, "image_size": 32}
    others = {
        "linf": {"norm": "linf", "eps": 0.03},
        "wide": {"norm": "l2", "eps": 2.0},
        "lost": {"norm": "l2", "eps": 3.0},
    }
    radii = {
        f"l2-{eps}": {"norm": "l2" if eps else "none", "eps": eps} for eps in (1.0, 0.25, 0.0, 0.5)
    }
    for name, training in (others | radii).items():
        width = 6 if name == "wide" else 4
        torch.manual_seed(0)
        entry = checkpoints.Entry(
            name, "", "resnet18", {"width": width}, training=training, **facts
        )
        checkpoints.save_checkpoint(name, resnet("resnet18", width=width).state_dict(), entry)
    (tmp_path / "lost.safetensors").unlink()
    found = widgets.series("l2-0.5", device="cpu")
    assert {label: model.name for label, model in found.items()} == {
        "0": "l2-0.0",
        "0.25": "l2-0.25",
        "0.5": "l2-0.5",
        "1": "l2-1.0",
    }
    assert list(found) == ["0", "0.25", "0.5", "1"]
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    demo = widgets.epsilon_series("l2-0.25", images, steps=1)
    assert demo.live.columns == ["0", "0.25", "0.5", "1"] and demo.live.at == 3
    assert pixels(demo.live.result["sheet"]).shape == (2 * 32, 4 * 32, 3)


def test_a_live_inversion_is_what_minimize_gives(data):
    models, images, labels = data
    demo = widgets.inversion(models, images, labels, steps=5, seed=3)
    model = models["robust"]
    f = functools.partial(model.representation, positions=True)
    solver = nb.Solver(step_size=INVERSION.step(5, images), keep="last")
    start = nb.noise(1, seed=3)
    result = nb.minimize(f, nb.match(f(images[:1])), start, steps=5, solver=solver)
    shown = pixels(demo.live.result["sheet"])[:32, -32:].transpose(2, 0, 1) / 255
    assert abs(shown - result.images[0].numpy()).max() <= 3 / 255


def test_misclassification_needs_an_error(tiny_model):
    images = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    with pytest.raises(ValueError, match="give more images"):
        widgets.misclassification({"tiny": tiny_model}, images, nb.predict(tiny_model, images))
