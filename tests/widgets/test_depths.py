"""The demo of layers: pictures, captions and errors."""

import io

import numpy
import PIL.Image
import pytest
import torch

import nbhelpers as nb
from nbhelpers import widgets
from nbhelpers.networks.resnets import resnet
from nbhelpers.widgets.depths import cuts_of, deepest

IMAGES = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def cuts(seed: int) -> dict[str, nb.Model]:
    torch.manual_seed(seed)
    network = resnet("resnet18", width=4)
    names = [f"kind {k}" for k in range(10)]
    return {
        name: nb.Model(network, layer=name, pool="flatten", image_size=32, classes=names)
        for name in ("layer1", "layer4")
    }


@pytest.fixture(scope="module")
def models() -> dict[str, dict[str, nb.Model]]:
    return {"standard": cuts(0), "robust": cuts(1)}


def shown(demo: widgets.Demo) -> torch.Tensor:
    """The pictures on the screen, (rows, columns, 3, h, w)."""
    with PIL.Image.open(io.BytesIO(demo.live.result["sheet"])) as picture:
        pixels = torch.from_numpy(numpy.array(picture)).permute(2, 0, 1) / 255
    rows = pixels.chunk(len(demo.live.rows), 1)
    return torch.stack([torch.stack(row.chunk(len(demo.live.columns), 2)) for row in rows])


def test_each_picture_is_the_inversion_of_its_layer(models):
    demo = widgets.layers(models, IMAGES, ["panda", "hammer", "sheep"], steps=4, seed=3)
    assert demo.live.rows == ["original", "robust", "standard"]
    assert demo.live.columns == ["layer1", "layer4"] and demo.live.at == 1
    pictures = shown(demo)
    assert (pictures[0] - IMAGES[0]).abs().max() <= 1 / 255
    f = models["robust"]["layer4"].representation
    size = widgets.settings.LAYERS.step(4, IMAGES)
    found = nb.minimize(
        f,
        nb.match(f(IMAGES[:1])),
        nb.noise(1, seed=3),
        steps=4,
        solver=nb.Solver(step_size=size, keep="last"),
    )
    assert (pictures[1, 1] - found.images[0]).abs().max() <= 3 / 255


def test_captions_are_the_pictures_own_name_and_the_other_networks_prediction(models):
    demo = widgets.layers(models, IMAGES, ["panda", "hammer", "sheep"], steps=1)
    original, robust, standard = demo.live.result["captions"]
    assert original == ["panda", "panda"]
    assert all(text.startswith("SSIM ") and "\nstandard: kind " in text for text in robust)
    assert all("\nrobust: kind " in text for text in standard)


def test_a_shipped_network_is_cut_by_its_name():
    model = nb.load_model("cifar10-l2-0.5", device="cpu")
    demo = widgets.layers({"robust": model}, IMAGES, layers=["layer2", "layer4"], steps=1)
    assert demo.live.columns == ["layer2", "layer4"]
    names = [layer.name for layer in nb.layers(model)]
    assert list(cuts_of("robust", model)) == names and names[-1] == "layer4"
    assert deepest(model, 4) == [f"layer{k}" for k in range(1, 5)]
    assert "\nrobust: " in demo.live.result["captions"][1][0]


def test_what_cannot_be_cut_is_refused(models, tiny_model):
    with pytest.raises(ValueError, match=r"robust \(tiny\) cannot be cut at 'bn1'"):
        widgets.layers({"robust": tiny_model}, IMAGES)
    with pytest.raises(ValueError, match=r"layers: got \['layer9'\], robust was given cut at"):
        widgets.layers(models, IMAGES, layers=["layer9"])
    fewer = {"robust": models["robust"], "standard": {"layer1": models["standard"]["layer1"]}}
    with pytest.raises(ValueError, match="wanted as many of each network"):
        widgets.layers(fewer, IMAGES)
