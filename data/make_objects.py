"""Make data/objects from Debian's package tuxpaint-stamps-default (2022.06.04-1, 161 MB). Usage:

apt-get download tuxpaint-stamps-default && dpkg-deb -x tuxpaint-stamps-default_*.deb unpacked
python data/make_objects.py unpacked
"""

import csv
import json
import re
import sys
from collections import defaultdict
from pathlib import Path

from PIL import Image

HERE = Path(__file__).resolve().parent
SIDE = 160  # pixels, longest side; enough for networks of 64 pixels
QUALITY = 80  # of WebP colours; transparency is lossless
FAINT = 32  # of 255: opacity below which a pixel is background


def cut_out(path: Path) -> Image.Image:
    """A stamp cropped to its object, with transparency, at most SIDE pixels."""
    with Image.open(path) as stamp:
        picture = stamp.convert("RGBA")
    visible = picture.getchannel("A").point(lambda opacity: 255 * (opacity >= FAINT))
    picture = picture.crop(visible.getbbox())
    scale = SIDE / max(picture.size)
    if scale >= 1:
        return picture
    size = [max(1, round(scale * side)) for side in picture.size]
    return picture.resize(size, Image.Resampling.LANCZOS)


def extract(package: Path) -> list[dict]:
    """Write the stamps of objects.csv to objects/; returns their index."""
    stamps = package / "usr/share/tuxpaint/stamps"
    if not stamps.is_dir():
        raise FileNotFoundError(f"{stamps} is not there; give the folder that dpkg-deb -x wrote")
    with (HERE / "objects.csv").open(encoding="utf-8", newline="") as lines:
        wanted = list(csv.DictReader(lines))
    folder = HERE / "objects"
    folder.mkdir(exist_ok=True)
    for old in folder.glob("*.webp"):
        old.unlink()
    for row in wanted:
        picture = cut_out(stamps / row["path"])
        picture.save(folder / row["file"], "WEBP", quality=QUALITY, method=6)
    index = [row | {"index": int(row["index"]) if row["index"] else -1} for row in wanted]
    text = json.dumps(index, indent=1, ensure_ascii=False) + "\n"
    (folder / "index.json").write_text(text, encoding="utf-8")
    return index


def table(index: list[dict]) -> str:
    """The README table: author, licence, source and pictures."""
    names = defaultdict(list)
    for entry in index:
        names[entry["author"], entry["licence"], entry["source"]].append(entry["file"][:-5])
    rows = ["| author | licence | pictures |", "|---|---|---|"]
    for (author, licence, source), files in sorted(names.items(), key=lambda one: -len(one[1])):
        by = f"[{author}]({source})" if source else author
        rows.append(f"| {by} | {licence} | {', '.join(files)} |")
    return "\n".join(rows)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    rows = table(extract(Path(sys.argv[1])))
    page = HERE / "README.md"
    between = re.compile(r"(?<=<!-- objects -->\n).*(?=\n<!-- end of objects -->)", re.DOTALL)
    text = between.sub(lambda _: rows, page.read_text(encoding="utf-8"))
    page.write_text(text, encoding="utf-8")
