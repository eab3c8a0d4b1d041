"""ImageNet and user folders: labels, names, standard resize and crop, cache keys."""

import numpy as np
import PIL.Image
import pytest
import torch
from torchvision.transforms import CenterCrop, Compose, Resize, ToTensor

from nbhelpers.data.imagenet import RESTRICTED_IMAGENET
from nbhelpers.data.images import class_names, count_images, identity, iter_batches, load_images

PICTURES = {0: 2, 31: 1, 33: 1, 151: 2, 268: 1, 269: 1, 281: 1, 319: 1}  # class index → count


@pytest.fixture(scope="module")
def imagenet(tmp_path_factory):
    """An ImageNet folder of 1,000 classes, most of them empty."""
    root, random = tmp_path_factory.mktemp("imagenet"), np.random.default_rng(0)
    for label in range(1000):
        folder = root / "val" / f"n{label * 7 + 1440764:08d}"
        folder.mkdir(parents=True)
        for number in range(PICTURES.get(label, 0)):
            small = PIL.Image.fromarray(random.integers(0, 256, (10, 12, 3), dtype=np.uint8))
            small.resize((360, 300), PIL.Image.Resampling.BICUBIC).save(
                folder / f"ILSVRC2012_val_{number}.JPEG"
            )
    return root


@pytest.fixture
def here(imagenet, monkeypatch):
    monkeypatch.setenv("IMAGENET", str(imagenet))
    return imagenet


def test_imagenet_has_its_labels_and_names(here):
    images, labels = load_images("imagenet-val", size=64)
    assert images.shape == (10, 3, 64, 64) and labels.tolist() == [
        0,
        0,
        31,
        33,
        151,
        151,
        268,
        269,
        281,
        319,
    ]
    names = class_names("imagenet-val")
    assert len(names) == 1000 and (names[0], names[31], names[281]) == (
        "tench",
        "tree frog",
        "tabby",
    )


def test_restricted_imagenet_has_nine_groups(here):
    _, labels = load_images("restricted-imagenet-val", size=32)
    names = class_names("restricted-imagenet-val")
    # 0 (a fish) and 269 (a wolf) are in no group
    assert len(names) == 9 and count_images("restricted-imagenet-val") == 7
    assert [names[label] for label in labels] == [
        "frog",
        "turtle",
        "dog",
        "dog",
        "dog",
        "cat",
        "insect",
    ]
    whole, kept = (
        load_images("imagenet-val", size=32)[0],
        load_images("restricted-imagenet-val", size=32)[0],
    )
    assert torch.equal(kept, whole[[2, 3, 4, 5, 6, 8, 9]])


def test_the_groups_are_the_published_ones():
    sizes = {name: last - first + 1 for name, (first, last) in RESTRICTED_IMAGENET.items()}
    expected = {
        "dog": 118,
        "cat": 5,
        "frog": 3,
        "turtle": 5,
        "bird": 21,
        "primate": 18,
        "fish": 9,
        "crab": 4,
    }
    assert sizes == expected | {"insect": 20}


def test_preprocessing_is_the_standard_one(here):
    """Short side to 256, then a 224 centre crop, by torchvision."""
    path = min((here / "val").glob("*/*.JPEG"))
    with PIL.Image.open(path) as image:
        wanted = Compose([Resize(256), CenterCrop(224), ToTensor()])(image)
    named, by_path = (
        load_images("imagenet-val", size=224)[0][0],
        load_images(path, size=224, margin=256 / 224)[0][0],
    )
    assert torch.equal(named, by_path)
    assert (named - wanted).abs().max() < 2.5 / 255
    # not without the margin
    assert (load_images(path, size=224)[0][0] - wanted).abs().max() > 20 / 255


def test_imagenet_streams(here):
    sizes = [
        (len(images), len(labels))
        for images, labels in iter_batches("imagenet-val", batch_size=4, size=32)
    ]
    assert sizes == [(4, 4), (4, 4), (2, 2)]


def test_a_missing_imagenet_says_what_to_do(monkeypatch, tmp_path, imagenet):
    monkeypatch.delenv("IMAGENET", raising=False)
    with pytest.raises(FileNotFoundError, match="set IMAGENET to the folder that contains val/"):
        load_images("imagenet-val")
    monkeypatch.setenv("IMAGENET", str(imagenet))
    with pytest.raises(FileNotFoundError, match=r"no train in"):
        load_images("imagenet-train")
    with pytest.raises(ValueError, match=r"contains train, val; give one of them"):
        for split in ("train", "val"):
            (tmp_path / "root" / split / "cat").mkdir(parents=True)
        load_images(tmp_path / "root")
    monkeypatch.setenv("IMAGENET", str(tmp_path / "root"))
    with pytest.raises(ValueError, match="no image"):
        load_images("imagenet-val")
    PIL.Image.new("RGB", (8, 8)).save(tmp_path / "root" / "val" / "cat" / "0.png")
    with pytest.raises(ValueError, match="1 class folders, wanted ImageNet's 1,000"):
        load_images("imagenet-val")


def test_a_margin_must_make_sense(here):
    with pytest.raises(ValueError, match=r"margin: got 0\.5, wanted 1 to 4"):
        load_images("imagenet-val", size=32, margin=0.5)


def test_identity_changes_with_the_images(tmp_path, here):
    def picture(shade):
        PIL.Image.new("RGB", (8, 8 + shade), (shade,) * 3).save(tmp_path / "0.png")

    picture(1)
    first = identity(tmp_path)
    assert (
        first
        == identity(tmp_path)
        != identity("imagenet-val")
        != identity("restricted-imagenet-val")
    )
    picture(2)
    assert identity(tmp_path) != first
    array = np.zeros((1, 3, 4, 4), dtype=np.uint8)
    assert identity(array) == identity(torch.from_numpy(array)) != identity(array + 1)
