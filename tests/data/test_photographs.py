"""The shipped pictures have labels and licences."""

import json
import re
import struct
import zlib
from pathlib import Path

import pytest
from PIL import Image
from samples import module_of
from torchvision.models import ResNet18_Weights

DATA = Path(__file__).resolve().parents[2] / "data"
INDEX = json.loads((DATA / "photographs" / "index.json").read_text(encoding="utf-8"))
PAGE = (DATA / "README.md").read_text(encoding="utf-8")
LICENCES = {"CC-BY-2.0", "CC-BY-3.0", "CC-BY-SA-4.0", "CC0-1.0", "public domain"}


def test_every_photograph_has_author_licence_and_source():
    shipped = {path.name for path in (DATA / "photographs").iterdir()} - {"index.json"}
    assert sorted(shipped) == [entry["file"] for entry in INDEX]
    for entry in INDEX:
        assert entry["author"] and entry["licence"] in LICENCES, entry
        assert re.fullmatch(r"https://\S+", entry["source"]), entry


def test_labels_are_those_of_torchvision():
    categories = ResNet18_Weights.DEFAULT.meta["categories"]
    assert [entry["name"] for entry in INDEX] == [categories[entry["index"]] for entry in INDEX]


def test_size():
    files = [DATA / "photographs" / entry["file"] for entry in INDEX]
    assert sum(file.stat().st_size for file in files) <= 2_000_000
    for file in files:
        with Image.open(file) as picture:
            width, height = picture.size
            picture.load()
        # Originals with fewer pixels are 320 wide and unchanged.
        assert min(width, height) == 256 or (width == 320 and min(width, height) >= 200), file.name


def test_the_page_names_every_picture_and_its_licence():
    """One table row each; the CIFAR-10 sample's states that it has no licence."""
    for entry in INDEX:
        (row,) = (line for line in PAGE.splitlines() if line.startswith(f"| [{entry['file']}]("))
        assert entry["author"] in row and entry["licence"] in row and str(entry["index"]) in row
    described = {}
    for line in PAGE.partition("## out-of-distribution/")[2].partition("\n## ")[0].splitlines():
        if line.count("|") == 4:
            names, _, terms = line.strip("| ").split(" | ") if " | " in line else ("", "", "")
            described |= dict.fromkeys(names.replace(" ", "-").split(",-"), terms)
    for picture in (DATA / "out-of-distribution").iterdir():
        assert described.get(picture.stem), picture.name
    pictures = {path.name for path in DATA.iterdir() if path.suffix in {".png", ".jpg", ".webp"}}
    assert pictures == {"cifar10-sample.png"}
    section = PAGE.partition("## cifar10-sample.png")[2].partition("\n## ")[0]
    assert "licence" in section


@pytest.fixture(scope="module")
def script():
    return module_of(DATA / "make_photographs.py")


def resource(flags: int) -> bytes:
    """A Qt resource file, version 3: folder "a", compressed file "b", file "c" with flags."""
    packed = struct.pack(">I", 5) + zlib.compress(b"hello")
    data = struct.pack(">I", len(packed)) + packed + struct.pack(">I", 3) + b"raw"
    names = b"".join(struct.pack(">HI", 1, 0) + name.encode("utf-16-be") for name in "abc")
    tree = struct.pack(">IHIIQ", 0, 2, 1, 1, 0) + struct.pack(">IHIIQ", 0, 2, 2, 2, 0)
    tree += struct.pack(">IHHHIQ", 8, 1, 0, 0, 0, 0) + struct.pack(
        ">IHHHIQ", 16, flags, 0, 0, 4 + len(packed), 0
    )
    return (
        struct.pack(">4s5I", b"qres", 3, 24 + len(data) + len(names), 24, 24 + len(data), 1)
        + data
        + names
        + tree
    )


def test_the_reader_of_qt_resource_files(script, tmp_path):
    file = tmp_path / "some.rcc"
    file.write_bytes(resource(flags=0))
    assert dict(script.resource_files(file)) == {"a/b": b"hello", "a/c": b"raw"}
    file.write_bytes(resource(flags=4))
    with pytest.raises(ValueError, match="a/c is compressed with Zstandard"):
        dict(script.resource_files(file))
    file.write_bytes(b"not one")
    with pytest.raises(ValueError, match="not a Qt resource file"):
        dict(script.resource_files(file))


def test_the_table_of_the_page_is_that_of_the_index(script):
    assert script.table(INDEX) in PAGE
