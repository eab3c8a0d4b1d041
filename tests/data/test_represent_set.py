"""Cached representations: equal numbers, recomputed after any relevant change."""

import numpy as np
import PIL.Image
import pytest
import torch
import torchvision

import nbhelpers as nb
from nbhelpers.data import represented
from nbhelpers.data.represented import represent_set


@pytest.fixture
def passes(monkeypatch, tmp_path):
    """Counts real passes over a data set."""
    monkeypatch.setenv("NBHELPERS_CACHE", str(tmp_path / "cache"))
    seen, whole = [], represented.represent
    monkeypatch.setattr(represented, "represent", lambda *a, **k: seen.append(1) or whole(*a, **k))
    return seen


@pytest.fixture
def folder(tmp_path):
    random = np.random.default_rng(0)
    (tmp_path / "set").mkdir()
    for i in range(5):
        PIL.Image.fromarray(random.integers(0, 256, (40, 44, 3), dtype=np.uint8)).save(
            tmp_path / "set" / f"{i}.png"
        )
    return tmp_path / "set"


def test_the_second_call_reads(passes, folder, tiny_model):
    first = represent_set(tiny_model, folder, batch_size=2)
    images = nb.load_images(folder, size=32)[0]
    assert torch.allclose(first, tiny_model.representation(images), atol=1e-5)
    assert torch.equal(represent_set(tiny_model, folder, batch_size=3), first) and len(passes) == 1


def test_what_matters_makes_a_new_pass(passes, folder, tiny_model):
    represent_set(tiny_model, folder)
    represent_set(tiny_model, folder, indices=[1, 0])
    represent_set(tiny_model, folder, size=28)
    (folder / "0.png").unlink()
    assert len(represent_set(tiny_model, folder)) == 4
    torch.manual_seed(0)
    network = torchvision.models.resnet18(num_classes=3)
    penultimate = represent_set(nb.Model(network, image_size=32), folder)
    early = represent_set(nb.Model(network, image_size=32, layer="layer1"), folder)
    network.conv1.weight.data[0, 0, 0, 0] += 0.5
    moved = represent_set(nb.Model(network, image_size=32), folder)
    assert len(passes) == 7
    assert penultimate.shape == moved.shape == (4, 512) and early.shape == (4, 64)
    assert not torch.equal(penultimate, moved)


def test_a_damaged_file_is_made_again(passes, folder, tiny_model, tmp_path):
    first = represent_set(tiny_model, folder)
    (path,) = (tmp_path / "cache" / "representations").iterdir()
    path.write_bytes(path.read_bytes()[:50])
    assert torch.equal(represent_set(tiny_model, folder), first) and len(passes) == 2


def test_predictions_of_a_network_without_a_head():
    torch.manual_seed(0)
    model = nb.Model(torchvision.models.resnet18(num_classes=3), layer="layer2", image_size=32)
    images = nb.noise(5)
    assert torch.equal(nb.predict(model, images, batch_size=2), model(images).argmax(1))
