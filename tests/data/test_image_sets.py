"""An `ImageSet` is opened once, and accepted wherever a name is."""

from pathlib import Path

import PIL.Image
import pytest
import torch

import nbhelpers as nb
from nbhelpers.checkpoints import entries
from nbhelpers.data import images as by_name

SAMPLE = "cifar10-sample"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for k, name in enumerate(("cat/0", "cat/1", "dog/0", "emu/0", "emu/1")):
        path = tmp_path / "set" / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        PIL.Image.new("RGB", (12, 9), (40 * k, 10, 200)).save(path)
    return tmp_path / "set"


@pytest.fixture
def opened(monkeypatch) -> list[str]:
    """Records each open, parse and folder walk."""
    calls: list[str] = []

    def counted(what, whole):
        return lambda *given, **more: calls.append(what) or whole(*given, **more)

    for name, (open_it, known) in by_name.SETS.items():
        monkeypatch.setitem(by_name.SETS, name, (counted("set", open_it), known))
    monkeypatch.setattr(by_name, "open_folder", counted("set", by_name.open_folder))
    monkeypatch.setattr(entries.tomllib, "loads", counted("manifest", entries.tomllib.loads))
    return calls


@pytest.mark.parametrize("kind", ["name", "path", "opened"])
def test_a_notebook_opens_its_data_once_and_parses_the_manifest_once(
    folder, opened, monkeypatch, kind
):
    dataset = {"name": "photographs", "path": folder, "opened": None}[kind]
    dataset = nb.open_images(folder) if dataset is None else dataset
    pair = nb.load_pair("cifar10-l2-0.5", "cifar10-standard", dataset, device="cpu")
    picked, images, _ = pair.draw(3, seed=1)
    pair.load(picked[:1])
    nb.load_images(pair.dataset, indices=picked)
    nb.top_images(pair.networks["robust"], pair.dataset, 3, k=2)
    nb.represent(pair.networks["standard"], pair.dataset)
    nb.count_images(pair.dataset), pair.names(picked), nb.class_names(pair.dataset)
    assert images.shape == (3, 3, 32, 32)
    assert opened.count("set") == 1 and opened.count("manifest") <= 1


def test_a_manifest_that_changes_is_parsed_again(tmp_path, monkeypatch):
    manifest = tmp_path / "manifest.toml"
    monkeypatch.setattr(entries.files, "CHECKPOINTS", tmp_path)
    for width in (4, 8, 6):
        manifest.write_text(
            f'[a]\nfile = "a"\narchitecture = "resnet18"\narguments = {{ w = {width} }}'
        )
        assert entries.manifest()["a"].arguments == {"w": width}
    entries.manifest().clear()
    assert "a" in entries.manifest()  # the caller's changes do not reach the cache


def test_an_opened_set_is_taken_where_a_name_is(folder, tiny_model):
    images = nb.open_images(folder, size=8)
    assert (
        len(images) == 5 and images.classes == ("cat", "dog", "emu") and str(images) == str(folder)
    )
    assert images.labels.tolist() == [0, 0, 1, 2, 2]
    pixels, labels = images.load([4, 0])
    assert torch.equal(pixels, nb.load_images(folder, size=8, indices=[4, 0])[0])
    assert labels.tolist() == [2, 0]
    assert nb.load_images(images)[0].shape == (5, 3, 8, 8)
    assert nb.load_images(images, size=(6, 4), channels=1)[0].shape == (5, 1, 6, 4)
    sizes = [len(part) for part, _ in nb.iter_batches(images, batch_size=2)]
    assert sizes == [len(part) for part, _ in images.batches(batch_size=2)] == [2, 2, 1]
    assert nb.count_images(images) == 5 and nb.class_names(images) == images.classes
    assert nb.random_indices(images, 3, seed=4) == nb.random_indices(folder, 3, seed=4)
    assert nb.data.identity(images) == nb.data.identity(folder)
    with pytest.raises(IndexError, match="got 5, wanted 0 to 4"):
        images.load([5])


@pytest.mark.parametrize("form", ["name", "path", "opened", "batches"])
def test_the_highest_are_the_same_however_the_set_is_given(folder, tiny_model, form):
    wanted = nb.top_images(tiny_model, nb.load_images(folder, size=32)[0], [1, 5], k=2)
    given = {
        "name": str(folder),
        "path": folder,
        "opened": nb.open_images(folder),
        "batches": nb.iter_batches(folder, size=32, batch_size=2),
    }[form]
    assert torch.equal(nb.top_images(tiny_model, given, [1, 5], k=2).highest, wanted.highest)


def test_representations_of_an_opened_set_are_those_of_its_name(tiny_model, tmp_path, monkeypatch):
    monkeypatch.setenv("NBHELPERS_CACHE", str(tmp_path))
    images = nb.open_images(SAMPLE)
    found = nb.represent_set(tiny_model, images, indices=[3, 1])
    assert torch.equal(found, nb.represent_set(tiny_model, SAMPLE, indices=[3, 1]))
    assert len(list((tmp_path / "representations").iterdir())) == 1


def test_images_keep_their_own_names_whatever_classes_their_labels_count_in(folder):
    images = nb.open_images(folder, classes=("dog", "cat"))
    assert images.labels.tolist() == [1, 1, 0, -1, -1] and images.classes == ("dog", "cat")
    assert images.names == ("cat", "cat", "dog", "emu", "emu")
    photographs = nb.open_images("photographs", classes=nb.class_names(SAMPLE))
    assert photographs.names == nb.data.image_names("photographs")
    assert (photographs.labels >= 0).sum() == 7


def test_arrays_and_single_files_open_too(folder):
    array = nb.open_images(torch.zeros(3, 3, 4, 4))
    assert len(array) == 3 and array.names == ("–",) * 3 and array.labels.tolist() == [-1] * 3
    assert nb.open_images(folder / "cat" / "0.png").names == ("0",)
    assert nb.data.identity(array) != nb.data.identity(torch.zeros(3, 3, 4, 5))
    with pytest.raises(TypeError, match="wanted a name, a path, an array or an opened set"):
        nb.open_images(3)
