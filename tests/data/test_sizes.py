"""Non-square images: read, augmented, trained on and stored."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from test_resume import pictures

import nbhelpers as nb
from nbhelpers.checkpoints.entries import Entry, entry_of
from nbhelpers.checkpoints.readers import read_weights
from nbhelpers.training.examples import augment
from nbhelpers.training.loop import train
from nbhelpers.training.settings import Training, size_from_text


@pytest.mark.parametrize("given", [(40, 60), (60, 40), (96, 32), (30, 200)])
def test_images_cover_the_size_and_keep_their_shape(given: tuple[int, int]) -> None:
    ramp = torch.linspace(0, 1, given[1]).expand(1, 3, *given)
    for size in ((96, 32), (32, 96), (20, 20), (40, 61)):
        images, _ = nb.load_images(ramp, size=size)
        assert images.shape == (1, 3, *size)
        scale = max(size[0] / given[0], size[1] / given[1])
        shown = float(images[0, 0, 0, -1] - images[0, 0, 0, 0])
        # the widest crop that fits
        assert shown == pytest.approx(size[1] / scale / given[1], abs=0.05)
    assert torch.equal(nb.load_images(ramp, size=(20, 20))[0], nb.load_images(ramp, size=20)[0])


@pytest.mark.parametrize(
    "size",
    [np.int16(9), np.array(9), torch.tensor(9), [9, 9], np.array([9, 9]), torch.tensor([9, 9])],
)
def test_sizes_of_any_kind(size: object) -> None:
    assert nb.noise(1, size=size).shape == (1, 3, 9, 9)


@pytest.mark.parametrize(
    "size", ["9", ("9", 9), np.ones((1, 2), int), 0, (0, 3), (3,), (1, 2, 3), (2.5, 3), -1]
)
def test_sizes_that_are_none(size: object) -> None:
    with pytest.raises(ValueError, match=r"size: got .* wanted at least 1 pixel"):
        nb.load_images("cifar10-sample", indices=[0], size=size)


@pytest.mark.long
def test_a_training_stores_both_sides(tmp_path: Path) -> None:
    source = pictures(tmp_path / "set", size=(24, 8))
    config = Training(
        dataset=str(source),
        width=4,
        epochs=1,
        held_out=8,
        batch_size=8,
        precision="float32",
        eps=0.1,
    )
    for name, size, stored in (("own", 0, (24, 8)), ("pair", (16, 12), (16, 12)), ("one", 8, 8)):
        output = tmp_path / name
        train(dataclasses.replace(config, image_size=size), output, device="cpu")
        entry = read_weights(output / "weights.safetensors").entry
        assert entry is not None and entry.image_size == stored
        train(dataclasses.replace(config, image_size=size), output, resume=True, device="cpu")


def test_sizes_of_settings_and_manifest() -> None:
    assert (
        size_from_text("64") == 64
        and size_from_text("96x32") == (96, 32)
        and size_from_text("32x32") == 32
    )
    assert Training(image_size=[96, 32]).image_size == (96, 32)
    for wrong in ((1, 2, 3), (0, 3), -1, 2.5, "64"):
        with pytest.raises(ValueError, match="image_size: got"):
            Training(image_size=wrong)
    assert entry_of("a", {"file": "a", "architecture": "b", "image_size": [96, 32]}) == Entry(
        "a", "a", "b", image_size=(96, 32)
    )
    with pytest.raises(ValueError, match="image_size is '96'"):
        entry_of("a", {"file": "a", "architecture": "b", "image_size": "96"})


def test_an_augmentation_shifts_each_side_by_an_eighth() -> None:
    images = torch.rand(64, 3, 32, 8)
    moved = augment(images, torch.Generator().manual_seed(0))
    assert moved.shape == images.shape
    # shifted horizontally by at most one pixel
    assert int((moved[:, :, :, 0].abs().sum((1, 2)) == 0).sum()) > 0
    assert int((moved[:, :, :, :2].abs().sum((1, 2, 3)) == 0).sum()) == 0
