"""The shipped objects, and their background."""

import csv
import json
import tomllib

import numpy as np
import pytest
import torch
from PIL import Image
from samples import module_of
from torchvision.models import ResNet18_Weights

import nbhelpers as nb
from nbhelpers import files
from nbhelpers.data import image_names

DATA = files.DATA
FOLDER = DATA / "objects"
INDEX = json.loads((FOLDER / "index.json").read_text(encoding="utf-8"))
PAGE = (DATA / "README.md").read_text(encoding="utf-8").partition("## objects/")[2]
LICENCES = {"GPL-2.0-or-later", "CC-BY-2.0", "CC-BY-2.5", "CC-BY-SA-2.0", "CC-BY-SA-2.0-DE"}
LICENCES |= {"CC-BY-SA-2.5", "CC-BY-SA-3.0", "public domain", "no usage restrictions"}


@pytest.fixture(scope="module")
def script():
    return module_of(DATA / "make_objects.py")


def test_enough_objects_of_enough_kinds():
    assert len(INDEX) >= 250
    assert len({entry["name"] for entry in INDEX}) >= 150


def test_every_object_has_name_author_licence_and_origin():
    shipped = {path.name for path in FOLDER.iterdir()} - {"index.json", "COPYING"}
    assert sorted(shipped) == sorted(entry["file"] for entry in INDEX)
    for entry in INDEX:
        assert entry["name"] and entry["author"] and entry["licence"] in LICENCES, entry
        assert entry["path"].endswith(".png"), entry
        if entry["licence"].startswith("CC-BY"):
            assert entry["author"] != "not named", entry


def test_the_index_is_that_of_the_table():
    with (DATA / "objects.csv").open(encoding="utf-8", newline="") as lines:
        rows = list(csv.DictReader(lines))
    assert [one | {"index": int(one["index"] or -1)} for one in rows] == INDEX


def test_the_page_lists_every_object_with_its_licence(script):
    assert script.table(INDEX) in PAGE
    assert "2022.06.04-1" in PAGE
    assert "Version 2, June 1991" in (FOLDER / "COPYING").read_text(encoding="utf-8")


def test_the_wheel_names_the_licence_of_the_objects_that_it_holds():
    project = tomllib.loads((DATA.parent / "pyproject.toml").read_text(encoding="utf-8"))
    included = project["tool"]["hatch"]["build"]["targets"]["wheel"]["force-include"]
    assert included["data/objects"] == "nbhelpers/shipped/data/objects"
    assert project["project"]["license"] == "MIT AND GPL-2.0-or-later"


def test_pictures_are_small_and_transparent_around_the_object():
    for entry in INDEX:
        with Image.open(FOLDER / entry["file"]) as picture:
            assert picture.format == "WEBP" and picture.mode == "RGBA", entry["file"]
            assert 45 <= max(picture.size) <= 160, entry["file"]
            faint, dense = picture.getchannel("A").getextrema()
            assert faint == 0 and dense > 250, entry["file"]
    own = [DATA / "cifar10-sample.png", DATA / "cifar10-sample.json", *DATA.glob("*.csv")]
    folders = ("objects", "photographs", "out-of-distribution")
    own += [path for folder in folders for path in (DATA / folder).iterdir()]
    assert sum(path.stat().st_size for path in own) <= 12_000_000


def test_an_object_with_imagenets_class_has_its_label():
    categories = ResNet18_Weights.DEFAULT.meta["categories"]
    labels = {entry["name"]: entry["index"] for entry in INDEX}
    for name, label in labels.items():
        if name in categories and name not in {"mouse"}:  # ImageNet's mouse is a computer's
            assert categories[label] == name
    assert categories[labels["hot-air balloon"]] == "balloon"
    assert labels["giraffe"] == labels["Earth"] == labels["mouse"] == -1
    assert sum(label >= 0 for label in labels.values()) >= 75


def test_objects_are_padded_to_a_square_on_the_chosen_background():
    for chosen in (None, 0.0, 1.0):
        images, labels = nb.load_images("objects", size=64, background=chosen)
        assert images.shape == (len(INDEX), 3, 64, 64)
        assert labels.tolist() == [entry["index"] for entry in INDEX]
        rim = torch.cat([images[..., [0, -1], :].mT, images[..., [0, -1]]], dim=3)
        level = 0.5 if chosen is None else chosen
        assert torch.allclose(rim, torch.tensor(level), atol=1e-3)
        # The object fills the image up to its border.
        away = (images - level).abs().amax(1) > 0.02
        spans = torch.maximum(away.any(1).sum(1), away.any(2).sum(1))
        assert spans.min() >= 45 and spans.max() <= 60


def test_the_background_does_not_change_the_object():
    grey, white = (nb.load_images("objects", size=64, background=b)[0] for b in (0.5, 1))
    share = ((grey - white).abs().amax(1) < 1e-3).float().mean((1, 2))  # opaque pixels
    assert 0.2 <= share.median() <= 0.6


def test_batches_take_a_background_too():
    batches = nb.iter_batches("objects", indices=range(5), batch_size=2, size=32, background=1)
    images = torch.cat([images for images, _ in batches])
    assert torch.equal(
        images, nb.load_images("objects", indices=range(5), size=32, background=1)[0]
    )


@pytest.mark.parametrize("level", [-0.1, 1.5, float("nan")])
def test_a_background_outside_grey_levels_is_refused(level):
    with pytest.raises(ValueError, match="background"):
        nb.load_images("objects", size=8, background=level)


def test_pictures_are_photographs_and_objects():
    count = nb.data.count_images("pictures")
    assert count == nb.data.count_images("photographs") + len(INDEX) >= 300
    names = image_names("pictures")
    assert names == image_names("photographs") + image_names("objects")
    ends = (0, count - 1)
    images, labels = nb.load_images("pictures", indices=ends, size=32)
    first, label = nb.load_images("photographs", indices=[0], size=32)
    assert torch.equal(images[:1], first) and labels[0] == label[0]
    assert torch.equal(images[1:], nb.load_images("objects", indices=[-1 % len(INDEX)], size=32)[0])


def test_every_picture_has_its_own_name():
    names = image_names("pictures")
    assert all(names) and len(names) == nb.data.count_images("pictures")
    assert {"giant panda", "toucan", "stupa", "Taj Mahal", "cow", "giraffe", "Earth"} <= {*names}
    assert not {"ox", "mosque", "viaduct", "wallaby", "African crocodile"} & {*names}
    assert image_names("objects") == tuple(entry["name"] for entry in INDEX)


def test_sets_without_captions_are_named_by_their_classes_or_files(tmp_path):
    labels = nb.data.images.labels_of("cifar10-sample")[:3].tolist()
    classes = nb.class_names("cifar10-sample")
    assert image_names("cifar10-sample")[:3] == tuple(classes[label] for label in labels)
    assert image_names("out-of-distribution")[0] == "astronaut"
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    assert image_names(tmp_path) == image_names(tmp_path / "a.png") == ("a",)
    assert image_names(nb.noise(2)) == ("–", "–")


def test_transparent_files_of_ones_own_take_a_background(tmp_path):
    pixels = np.zeros((8, 8, 4), np.uint8)
    pixels[:, :4] = 255, 0, 0, 255
    Image.fromarray(pixels).save(tmp_path / "half.png")
    white, _ = nb.load_images(tmp_path)
    grey, _ = nb.load_images(tmp_path / "half.png", background=0.25)
    assert torch.equal(white[0, :, 0, [0, 7]].T, torch.tensor([[1.0, 0, 0], [1, 1, 1]]))
    assert torch.equal(grey[0, :, 0, [0, 7]].T, torch.tensor([[1.0, 0, 0], [0.25, 0.25, 0.25]]))


def test_a_stamp_is_cropped_and_shrunk(script, tmp_path):
    pixels = np.zeros((400, 500, 4), np.uint8)
    pixels[50:250, 100:420] = 0, 128, 255, 255
    pixels[0, 0] = 0, 0, 0, 20  # a faint speck
    Image.fromarray(pixels).save(tmp_path / "stamp.png")
    picture = script.cut_out(tmp_path / "stamp.png")
    assert picture.size == (160, 100) and picture.getpixel((80, 50)) == (0, 128, 255, 255)
    with pytest.raises(FileNotFoundError, match="dpkg-deb"):
        script.extract(tmp_path)
