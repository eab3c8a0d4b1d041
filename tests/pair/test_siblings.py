"""Relatives of faults that were met in use: the same kind, another container, name, size or
layout.
"""

import json
from pathlib import Path

import nbformat
import numpy as np
import PIL.Image
import pytest
import torch
import torchvision
from nbformat.v4 import new_code_cell, new_notebook
from torch import nn

from nbhelpers import objectives
from nbhelpers.checkpoints.downloads import weights_sha256
from nbhelpers.data import load_images
from nbhelpers.networks import load_model, resnet
from nbhelpers.networks.model import Model
from nbhelpers.optimize import l2_ball
from nbhelpers.page import export_page
from nbhelpers.representation import contributions
from nbhelpers.runs import plan, report, shards
from nbhelpers.runs.grid import axes
from nbhelpers.training import Training, accuracy, train
from nbhelpers.training.folded import FoldedCopy
from nbhelpers.widgets import Live, feature_visualization, inversion

HALF = {"mean": (0.5,) * 3, "std": (0.25,) * 3}


def small(*more: nn.Module, channels: int = 3, width: int = 8, classes: int = 4) -> nn.Sequential:
    torch.manual_seed(0)
    first = nn.Conv2d(channels, width, 3, padding=1)
    return nn.Sequential(
        first, nn.ReLU(), *more, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, classes)
    )


def put(folder: Path, *names: str) -> Path:
    for shade, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        PIL.Image.new("RGB", (9, 9), (shade, 0, 0)).save(folder / name)
    return folder


# Indices and labels: one for all images, or one each.


def test_as_many_indices_as_images_or_one(tiny_model):
    images = torch.rand(4, 3, 32, 32)
    for make in (objectives.activate, objectives.misclassify, objectives.margin):
        one, each = (make(given)(torch.ones(4, 3)) for given in (1, np.array([1, 1, 1, 1])))
        torch.testing.assert_close(one, each)
        with pytest.raises(ValueError, match=r"got 3, wanted one, or one per image \(4\)"):
            make([0, 1, 2])(torch.ones(4, 3))
        for outside in (-1, 3):
            with pytest.raises(IndexError, match=f"got {outside}, wanted 0 to 2"):
                make(outside)(torch.ones(4, 3))
    with pytest.raises(ValueError, match="got 3, wanted one, or one per image"):
        contributions(tiny_model, images, [0, 1, 2])


@pytest.mark.parametrize(
    "kind", [list, tuple, np.array, lambda labels: torch.tensor(labels, dtype=torch.uint8)]
)
def test_accuracy_takes_labels_of_any_kind(tiny_model, kind):
    images = torch.rand(3, 3, 32, 32)
    with torch.no_grad():
        found = tiny_model(images).argmax(1).tolist()
    assert accuracy(tiny_model, images, kind(found)) == 100
    with pytest.raises(ValueError, match="one per image"):
        accuracy(tiny_model, images, kind(found[:2]))


@pytest.mark.parametrize("count", [2, np.int64(2), torch.tensor(2)])
def test_a_demo_draws_as_many_components_as_any_number_says(tiny_model, count):
    images = torch.rand(5, 3, 32, 32)
    demo = feature_visualization({"m": tiny_model}, images, steps=1, components=count, k=2)
    assert len(demo.pickers[0].pixels) == 2


def test_a_radius_is_one_number():
    with pytest.raises(ValueError, match="one finite length ≥ 0 for all images"):
        l2_ball(torch.zeros(2, 3, 4, 4), torch.ones(2))  # type: ignore[arg-type]


def test_class_names_are_plain_text():
    assert (
        repr(Model(small(), classes=np.array(["a", "b", "c", "d"])).classes)
        == "('a', 'b', 'c', 'd')"
    )


# Sizes, channels and precision.


def test_a_network_of_one_size_refuses_images_of_as_many_pixels():
    flat = nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 16 * 16, 4)
    )
    model = Model(flat, image_size=16)
    for f in (model, model.representation):
        with pytest.raises(ValueError, match="set up for 16×16 pixels, got 8×32"):
            f(torch.rand(1, 3, 8, 32))
    of_layer = Model(small(), layer="0", pool="flatten", image_size=16)
    positions = Model(small(), image_size=16)
    assert (
        of_layer(torch.rand(1, 3, 8, 32)).shape
        == positions(torch.rand(1, 3, 24, 24)).shape
        == (1, 4)
    )
    for f in (of_layer.representation, lambda x: positions.representation(x, positions=True)):
        with pytest.raises(ValueError, match=r"8×32 .*components in place of 8×16×16"):
            f(torch.rand(1, 3, 8, 32))


def test_what_the_user_allows_for_speed_does_not_loosen_the_check():
    class Traced(nn.Module):
        """Differs by half a per cent when traced."""

        def __init__(self):
            super().__init__()
            *layers, self.head = small()
            self.net = nn.Sequential(*layers)

        def forward(self, x):
            return self.head(self.net(x) * (1.005 if isinstance(x, torch.fx.Proxy) else 1))

    network, images = Traced().eval(), torch.rand(2, 3, 32, 32)
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        model = Model(network)
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision(before)
    assert "its trace computes something else" in repr(model)
    torch.testing.assert_close(model(images), network(images))


def test_grey_networks_are_visualized_in_shards(monkeypatch, tmp_path):
    grey = Model(small(channels=1), image_size=16)
    monkeypatch.setattr(shards, "_model", lambda *_: grey)
    settings = shards.Settings("visualize", "cifar10-standard", steps=1, batch_size=4)
    shards.make_shards(settings, tmp_path, shard_size=8, limit=8, device="cpu")
    assert next(shards.read_shards(tmp_path))["images"].shape == (8, 1, 16, 16)


# Copies, weights and normalisers of other people.


class Shared(nn.Module):
    """A convolution used twice, each time with a norm of its own."""

    def __init__(self):
        super().__init__()
        self.conv, self.twice = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.norms, self.head = nn.ModuleList(nn.BatchNorm2d(8) for _ in range(2)), nn.Linear(8, 4)

    def forward(self, x):
        x = self.conv(x)
        for norm in self.norms:
            x = norm(self.twice(x)).relu()
        return self.head(x.mean((2, 3)))


def test_a_layer_that_is_used_twice_is_not_folded():
    torch.manual_seed(0)
    network, images = Shared().train(), torch.rand(4, 3, 16, 16)
    copy = FoldedCopy(network, torch.zeros(3, 1, 1), torch.ones(3, 1, 1), torch.float32)
    network(images)
    copy.refresh()
    with torch.no_grad():
        torch.testing.assert_close(copy(images), network.eval()(images))
        torch.testing.assert_close(Model(network)(images), network(images), atol=1e-5, rtol=1e-5)


def test_a_compiled_part_inside_another_module_is_read(tmp_path, capsys):
    network = resnet("resnet18", width=4, classes=5)
    torch.save(
        {f"net._orig_mod.{key}": value for key, value in network.state_dict().items()},
        tmp_path / "m.pt",
    )
    model = load_model(tmp_path / "m.pt", architecture=network, dataset=HALF, device="cpu")
    images = torch.rand(2, 3, 32, 32)
    torch.testing.assert_close(
        model(images), network.eval()((images - 0.5) / 0.25), atol=1e-5, rtol=1e-4
    )


@pytest.mark.parametrize("where", ["state.model", "checkpoint.state_dict", "mine.weights"])
def test_a_table_in_a_table_is_read(where, tmp_path, capsys):
    outer, inner = where.split(".")
    one, other = (resnet("resnet18", width=4, classes=5) for _ in range(2))
    table = {
        outer: {inner: one.state_dict(), "epoch": 3},
        "optimizer": {"state": {0: {"exp_avg": torch.ones(3)}}},
    }
    torch.save(table, tmp_path / "m.pt")
    images = torch.rand(2, 3, 32, 32)
    model = load_model(tmp_path / "m.pt", dataset=HALF, device="cpu")
    torch.testing.assert_close(
        model(images), one.eval()((images - 0.5) / 0.25), atol=1e-5, rtol=1e-4
    )
    table[outer]["ema"] = other.state_dict()
    torch.save(table, tmp_path / "m.pt")
    model = load_model(f"{tmp_path}/m.pt#{outer}.ema", dataset=HALF, device="cpu")
    torch.testing.assert_close(
        model(images), other.eval()((images - 0.5) / 0.25), atol=1e-5, rtol=1e-4
    )


class Scaled(nn.Module):
    def __init__(self, part: str, mean: str, std: str):
        super().__init__()
        self.net, self.names = small(), (part, mean, std)
        place = self if not part else nn.Module()
        if part:
            self.add_module(part, place)
        place.register_buffer(mean, torch.full((1, 3, 1, 1), 0.4))
        place.register_buffer(std, torch.full((1, 3, 1, 1), 0.2))

    def forward(self, x):
        part, mean, std = self.names
        place = getattr(self, part) if part else self
        return self.net((x - getattr(place, mean)) / getattr(place, std))


@pytest.mark.parametrize(
    "make",
    [
        lambda: Scaled("", "pixel_mean", "pixel_std"),
        lambda: Scaled("preprocess", "mean", "std"),
        lambda: Scaled("norm", "MEAN", "STD"),
        lambda: Scaled("", "_mean", "_stddev"),
        lambda: nn.Sequential(torchvision.transforms.Normalize((0.4,) * 3, (0.2,) * 3), small()),
    ],
)
def test_a_normaliser_of_any_name_is_used_once(make, tmp_path, capsys):
    network, images = make().eval(), torch.rand(2, 3, 16, 16)
    torch.save(network.state_dict(), tmp_path / "m.pt")
    model = load_model(tmp_path / "m.pt", architecture=make(), dataset=HALF, device="cpu")
    torch.testing.assert_close(model(images), network(images))
    assert "normalises by itself" in capsys.readouterr().out


def test_a_layer_that_adds_noise_is_no_normaliser(tmp_path, capsys):
    class Noise(nn.Module):
        def __init__(self):
            super().__init__()
            self.mean, self.std = 0.0, 0.1

        def forward(self, x):
            return x

    torch.save(small().state_dict(), tmp_path / "m.pt")
    model = load_model(tmp_path / "m.pt", architecture=small(), dataset=HALF, device="cpu")
    assert model.mean.flatten().tolist() == [0.5] * 3
    network = small(Noise())
    torch.save(network.state_dict(), tmp_path / "n.pt")
    assert (
        load_model(tmp_path / "n.pt", architecture=network, dataset=HALF, device="cpu")
        .mean[0]
        .item()
        == 0.5
    )


def test_lists_of_anything_in_a_network_are_no_normaliser(tmp_path):
    network = small()
    network.blocks, network.shapes, network.nothing = (
        [{"stride": [1]}, {"stride": [1, 2]}],
        [(1,), (1, 2), "a"],
        [None],
    )
    torch.save(network.state_dict(), tmp_path / "m.pt")
    assert (
        load_model(tmp_path / "m.pt", architecture=network, dataset=HALF, device="cpu")
        .mean[0]
        .item()
        == 0.5
    )


@pytest.mark.filterwarnings("ignore:.*torch.jit:")
def test_torchscript_inside_a_network_is_one_clear_line():
    with pytest.raises(ValueError, match="Sequential has TorchScript in '0'"):
        Model(nn.Sequential(torch.jit.script(small()[:2]), *small()[2:]))


# Folders.


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("seg_train/0.png", "seg_test/0.png"), "holds seg_test, seg_train; give one"),
        (("x_train/a/0.png", "x_val/a/0.png", "logos/0.png"), "holds x_train, x_val; give one"),
        (
            ("trainA/0.png", "testA/0.png", "trainB/0.png", "testB/0.png"),
            "holds testA, trainA, testB, …; give one",
        ),
        (("fold1/0.png", "fold2/0.png"), "holds fold1, fold2; give one"),
        (("train/cat/0.png", "holdout/cat/0.png"), "holds holdout, train; give one"),
        (
            ("images/0.png", "images/1.png"),
            "one folder of images, images, whose name is no class; give .*images$",
        ),
        (
            ("images/0.png", "masks/0.png"),
            r"images \(images\) beside what belongs to them \(masks\)",
        ),
        (
            (
                "2019/cat/0.png",
                "2019/dog/0.png",
                "2020/cat/0.png",
                "2020/dog/0.png",
                "2020/owl/0.png",
            ),
            "same folders",
        ),
    ],
)
def test_other_layouts_are_refused_with_the_reason(tmp_path, names, message):
    with pytest.raises(ValueError, match=message):
        load_images(put(tmp_path, *names))


def test_kinds_of_trains_are_classes(tmp_path):
    folder = put(
        tmp_path, "bullet_train/0.png", "freight_train/0.png", "edges/0.png", "masks/0.png"
    )
    assert load_images(folder)[1].tolist() == [0, 1, 2, 3]


def test_a_link_that_leads_back_shows_no_image_twice(tmp_path):
    folder = put(tmp_path / "set", "cat/0.png", "dog/0.png")
    (folder / "cat" / "again").symlink_to(folder / "cat")
    (folder / "owl").symlink_to(put(tmp_path / "owls", "0.png"))  # elsewhere
    assert load_images(folder)[1].tolist() == [0, 1, 2]


# Stale by name.


def notebook_of(folder: Path) -> Path:
    source = (
        'dataset: str = "pictures"\ncheckpoint: str = "net.pt#ema"\nseed: int = 0\nout: str = ""'
    )
    cell = new_code_cell(source, metadata={"tags": ["parameters"]})
    nbformat.write(new_notebook(cells=[cell]), folder / "n.ipynb")
    return folder / "n.ipynb"


@pytest.mark.parametrize("changed", ["pictures", "net.pt"])
def test_a_sweep_goes_on_with_the_same_images_and_weights_only(tmp_path, changed):
    put(tmp_path / "pictures", "0.png", "1.png")
    (tmp_path / "net.pt").write_bytes(b"weights")
    notebook, out = notebook_of(tmp_path), tmp_path / "out"
    (run,) = plan(notebook, {"seed": [1]}, out)
    run.folder.mkdir(parents=True)
    record = {"parameters": dict(run.parameters), "made_from": dict(run.made_from)}
    (run.folder / "run.json").write_text(json.dumps(record))
    (run.folder / "result.json").write_text("{}")
    assert plan(notebook, {"seed": [1]}, out)[0].state == "done"
    if changed == "pictures":
        put(tmp_path / "pictures", "1.png")
    else:
        (tmp_path / "net.pt").write_bytes(b"others")
    with pytest.raises(ValueError, match=f"{changed}.* held something else; choose another folder"):
        plan(notebook, {"seed": [1]}, out)


def test_one_of_several_networks_in_a_file_has_the_file_s_digest(tmp_path):
    (tmp_path / "m.pt").write_bytes(b"weights")
    assert weights_sha256(f"{tmp_path}/m.pt#ema") == weights_sha256(tmp_path / "m.pt") != ""


def test_a_page_is_made_anew_where_classes_or_captions_have_other_names(tmp_path, monkeypatch):
    images, made = torch.rand(2, 3, 16, 16), []

    def export(classes: str, labels: list[int]) -> int:
        """How many results were computed."""
        models = {"m": Model(small(), classes=list(classes), image_size=16)}
        demo = inversion(models, images, torch.tensor(labels), steps=1)
        made.clear()
        export_page(
            tmp_path / "p.html",
            models=models,
            demos={"Inversion": demo},
            work=tmp_path / "work",
            live=False,
        )
        return len(made)

    compute = Live.compute
    monkeypatch.setattr(Live, "compute", lambda *given: made.append(1) or compute(*given))
    assert [export("abcd", [0, 1]), export("abcd", [0, 1])] == [2, 0]
    assert [export("wxyz", [0, 1]), export("wxyz", [1, 1])] == [2, 2]


# Sweeps and reports.


@pytest.mark.parametrize(
    ("line", "given", "values"),
    [
        ("p: list[tuple[int, int]] = [(1, 2)]", [[(1, 2)], [(3, 4)]], [[(1, 2)], [(3, 4)]]),
        ("p: list[list[float]] = [[1.0]]", [[[1.0]], [[2.0]]], [[[1.0]], [[2.0]]]),
        ("p: Optional[list[int]] = None", [[1], None], [[1], None]),
        ("p: list[list[float]] = [[1.0]]", [[1.0]], [[[1.0]]]),
    ],
)
def test_several_values_of_a_parameter_that_is_a_list(tmp_path, line, given, values):
    cell = new_code_cell(f'{line}\nout: str = ""', metadata={"tags": ["parameters"]})
    nbformat.write(new_notebook(cells=[cell]), tmp_path / "n.ipynb")
    assert axes(tmp_path / "n.ipynb", {"p": given}, []) == {"p": values}


@pytest.mark.parametrize(("number", "index"), [(10**400, 0), (1.0, None)])
def test_a_report_tells_of_a_run_that_cannot_be_read(tmp_path, number, index):
    for k, (value, place) in enumerate([(1.0, 0), (number, index)]):
        (tmp_path / str(k)).mkdir()
        about = {
            "notebook": "n.ipynb",
            "index": place,
            "parameters": {"a": k},
            "duration_s": 1,
            "peak_memory_mib": 1,
        }
        (tmp_path / str(k) / "run.json").write_text(json.dumps(about))
        (tmp_path / str(k) / "result.json").write_text(
            json.dumps({"numbers": {"loss": {"m": value}}})
        )
    assert "cannot be read" in report(tmp_path).read_text(encoding="utf-8")


def test_training_begins_with_weights_that_a_wrapper_saved(tmp_path):
    data = put(tmp_path / "data", *[f"{kind}/{i}.png" for kind in ("cat", "dog") for i in range(4)])
    network = resnet("resnet18", width=4, classes=2)
    torch.save(
        {"state_dict": {f"model.net.{k}": v for k, v in network.state_dict().items()}},
        tmp_path / "start.pt",
    )
    settings = Training(
        dataset=str(data),
        start=str(tmp_path / "start.pt"),
        width=4,
        image_size=16,
        epochs=1,
        eps=0.0,
        batch_size=4,
        held_out=2,
        average=0.0,
        learning_rate=1e-9,
    )
    train(settings, tmp_path / "out", device="cpu")
    found = load_model(tmp_path / "out" / "weights.safetensors", device="cpu")
    torch.testing.assert_close(found.head.weight, network.linear.weight, atol=1e-3, rtol=1e-2)


class Flattened(nn.Module):
    """A map (n, 8, h, w), its axes in another order, then in one row."""

    def __init__(self, order: tuple[int, ...], size: tuple[int, int]):
        super().__init__()
        self.conv, self.order = nn.Conv2d(3, 8, 3, padding=1), order
        self.head = nn.Linear(8 * size[0] * size[1], 4)

    def forward(self, x):
        return self.head(self.conv(x).relu().permute(0, *self.order).flatten(1))


@pytest.mark.parametrize("size", [(8, 8), (6, 8)])
@pytest.mark.parametrize("order", [(1, 2, 3), (2, 3, 1), (2, 1, 3)])
def test_a_flattened_map_has_its_positions_where_the_image_has_them(order, size):
    torch.manual_seed(0)
    network, images = Flattened(order, size), torch.rand(2, 3, *size)
    model = Model(network, image_size=size)
    assert model.positions == (8, *size)
    maps = model.representation(images, positions=True).unflatten(1, model.positions)
    torch.testing.assert_close(maps, network.conv(images).relu())


def test_heads_of_attention_are_channels():
    class Heads(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.layer, self.head = (
                nn.Conv2d(3, 8, 3, padding=1),
                nn.Identity(),
                nn.Linear(8, 4),
            )

        def forward(self, x):
            tokens = (
                self.conv(x).relu().flatten(2).transpose(1, 2).unflatten(2, (2, 4)).transpose(1, 2)
            )
            return self.head(self.layer(tokens).transpose(1, 2).flatten(2).mean(1))

    model = Model(Heads(), layer="layer", image_size=8)
    assert model.components == 8 and model.positions == (8, 64, 1)
