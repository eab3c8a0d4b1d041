"""Make data/photographs from Debian's package gcompris-qt-data (version 3.1-2, 44 MB). Usage:

apt-get download gcompris-qt-data && dpkg-deb -x gcompris-qt-data_*.deb unpacked
python data/make_photographs.py unpacked
"""

import csv
import io
import json
import re
import struct
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from PIL import Image

HERE = Path(__file__).resolve().parent
SIDE = 256  # pixels of the short side, as ImageNet preprocessing resizes before the crop
QUALITY = 88  # of WebP: 1.1 MB for 49 pictures
LICENCES = {
    "CC-BY-2.0": "https://creativecommons.org/licenses/by/2.0/",
    "CC-BY-3.0": "https://creativecommons.org/licenses/by/3.0/",
    "CC-BY-SA-4.0": "https://creativecommons.org/licenses/by-sa/4.0/",
    "CC0-1.0": "https://creativecommons.org/publicdomain/zero/1.0/",
    "public domain": "",
}


def resource_files(path: Path) -> Iterator[tuple[str, bytes]]:
    """Path and content of each file in a Qt resource file.

    Raises:
        ValueError: not a Qt resource file of version 1 to 3, or Zstandard compression.

    Source: the format of Qt's `rcc --binary` (qtbase, src/tools/rcc/rcc.cpp).
    """
    content = path.read_bytes()
    if content[:4] != b"qres" or not 1 <= int.from_bytes(content[4:8], "big") <= 3:
        raise ValueError(
            f"{path}: not a Qt resource file of version 1 to 3; give the unpacked package's folder"
        )
    version, tree, data, names = struct.unpack_from(">4I", content, 4)
    node_length = 14 if version == 1 else 22  # later versions add a modification time

    def walk(number: int, folder: PurePosixPath) -> Iterator[tuple[str, bytes]]:
        start = tree + number * node_length
        name_at, flags, first, second = struct.unpack_from(">IHII", content, start)
        here = folder
        if number:  # the root has no name
            (length,) = struct.unpack_from(">H", content, names + name_at)
            name_start = names + name_at + 6  # after the length and a hash
            here = folder / content[name_start : name_start + 2 * length].decode("utf-16-be")
        if flags & 2:  # a folder: number of children, number of the first
            for child in range(second, second + first):
                yield from walk(child, here)
            return
        if flags & 4:
            raise ValueError(
                f"{path}: {here} is compressed with Zstandard; this script reads zlib only"
            )
        (at,) = struct.unpack_from(">I", content, start + 10)  # after country and language
        (length,) = struct.unpack_from(">I", content, data + at)
        stored = content[data + at + 4 : data + at + 4 + length]
        # Qt prepends the size to zlib's data
        yield (str(here), zlib.decompress(stored[4:]) if flags & 1 else stored)

    yield from walk(0, PurePosixPath())


def credits(readme: str) -> dict[str, dict[str, str]]:
    """Path → author, licence, source and changes, from a README of the package."""
    listed = {}
    for stanza in re.split(r"\n\s*\n", readme):
        fields = dict(re.findall(r"^(\w+):[ \t]*(.+)$", stanza, re.MULTILINE))
        licence = fields.get("License", "").replace("CC-BY-SA 4.0", "CC-BY-SA-4.0")
        entry = {
            "author": fields.get("Copyright", ""),
            "licence": "public domain" if licence.lower() == "public domain" else licence,
            "source": fields.get("Source", ""),
            "changes": fields.get("Comments", ""),
        }
        for name in re.findall(r"[\w/.-]+\.webp", stanza.partition("Files:")[2]):
            listed[name] = entry
    return listed


def shrink(content: bytes, centre: str = "") -> bytes:
    """The image resized to SIDE pixels on its short side, unchanged if smaller.

    Args:
        content: an image file.
        centre: centre of the square crop of a wide image, as a fraction of the width; "" for no
            crop.
    """
    picture = Image.open(io.BytesIO(content))
    width, height = picture.size
    box = (0, 0, width, height)
    if centre:
        left = round(min(max(float(centre) * width - height / 2, 0), width - height))
        box = (left, 0, left + height, height)
    scale = SIDE / min(picture.size)
    if scale >= 1:
        return content
    size = (round((box[2] - box[0]) * scale), round(height * scale))
    small = picture.convert("RGB").resize(size, Image.Resampling.LANCZOS, box)
    buffer = io.BytesIO()
    small.save(buffer, "WEBP", quality=QUALITY, method=6)
    return buffer.getvalue()


def extract(package: Path) -> list[dict]:
    """Write the pictures of photographs.csv to photographs/; returns their index."""
    with (HERE / "photographs.csv").open(encoding="utf-8", newline="") as lines:
        wanted = list(csv.DictReader(lines))
    folder = HERE / "photographs"
    folder.mkdir(exist_ok=True)
    for old in folder.glob("*.webp"):
        old.unlink()
    resources = {
        name: dict(resource_files(package / "usr/share/gcompris-qt/rcc" / f"{name}.rcc"))
        for name in sorted({row["resource"] for row in wanted})
    }
    index = []
    for row in wanted:
        files = resources[row["resource"]]
        (path,) = (path for path in files if path.endswith("/" + row["file"]))
        readme = max(
            (name for name in files if name.endswith("/README") and path.startswith(name[:-6])),
            key=len,
        )
        name = path[len(readme) - 6 :]
        credit = credits(files[readme].decode())[name]
        slug = re.sub(r"\W+", "-", row["name"].lower())
        file = f"{slug}.webp" if not (folder / f"{slug}.webp").exists() else f"{slug}-2.webp"
        (folder / file).write_bytes(shrink(files[path], row["centre"]))
        own = {"caption": row["caption"]} if row["caption"] else {}  # if it differs from the name
        label = {"file": file, "index": int(row["index"]), "name": row["name"]}
        index.append(label | own | credit)
    index.sort(key=lambda entry: entry["file"])
    (folder / "index.json").write_text(
        json.dumps(index, indent=1, ensure_ascii=False) + "\n", encoding="utf-8"
    )
    return index


def table(index: list[dict]) -> str:
    """The README table: pictures with author, licence, source and GCompris's changes."""
    rows = ["| file | label | author | licence | changed before |", "|---|---|---|---|---|"]
    for entry in index:
        source = entry["source"].replace("(", "%28").replace(")", "%29")
        url = LICENCES[entry["licence"]]
        licence = f"[{entry['licence']}]({url})" if url else entry["licence"]
        label = f"{entry['index']} {entry['name']}"
        rows.append(
            f"| [{entry['file']}]({source}) | {label} | {entry['author']} | {licence} | "
            f"{entry['changes']} |"
        )
    return "\n".join(rows)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    rows = table(extract(Path(sys.argv[1])))
    page = HERE / "README.md"
    between = re.compile(
        r"(?<=<!-- photographs -->\n).*(?=\n<!-- end of photographs -->)", re.DOTALL
    )
    page.write_text(between.sub(lambda _: rows, page.read_text(encoding="utf-8")), encoding="utf-8")
