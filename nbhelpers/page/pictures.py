"""The pictures that the page brings along: pixels as one file, true names, credits."""

import io
import json
from dataclasses import dataclass

import numpy
import PIL.Image
import torch
from torch import Tensor

from nbhelpers import files
from nbhelpers.data.images import count_images, image_names, labels_of, load_images
from nbhelpers.networks.model import Model
from nbhelpers.representation import predict
from nbhelpers.types import Images

MOST = 320  # pictures: each is two kilobytes and a place in the film strip
# The film strip opens on these, where the set has them; the rest follows in the set's order.
FIRST = ("giant panda", "gorilla", "goldfish", "toucan", "lesser panda", "koala", "hen", "castle")


@dataclass(frozen=True)
class Pictures:
    """The pictures of the film strip, in order."""

    images: Images  # as the page decodes them
    names: list[str]
    credits: list[dict[str, str]]  # "credit": name, author and licence in a line; "source": address
    labels: Tensor  # (n,), classes of the networks, -1 where they have none
    sheet: bytes  # all as one WebP, 16 a row

    def wrong(self, models: list[Model]) -> list[int]:
        """Pictures with a label that every network, or else any, gets wrong."""
        errs = torch.stack([predict(m, self.images) != self.labels for m in models])
        errs &= self.labels >= 0
        found = errs.all(0) if errs.all(0).any() else errs.any(0)
        return found.nonzero()[:, 0].tolist()


def read_pictures(dataset: str, model: Model) -> Pictures:
    """The pictures of a set at a network's size, with their own names and credits.

    Raises:
        ValueError: as in `load_images`.
    """
    known = _credits(dataset)
    names = list(image_names(dataset)) or [f"no. {k}" for k in range(count_images(dataset))]
    order = sorted(range(len(names)), key=lambda k: _rank(names[k]))[:MOST]
    height, width = model.sides
    images, _ = load_images(dataset, indices=order, size=(height, width), channels=3)
    sheet = picture_sheet(images, columns=16, quality=92)
    decoded = read_sheet(sheet, (height, width), len(images))
    labels = labels_of(dataset, classes=model.classes)[order]
    credits = [_line(names[k], known[k] if len(known) == len(names) else None) for k in order]
    return Pictures(decoded, [names[k] for k in order], credits, labels, sheet)


def picture_sheet(images: Images, *, columns: int, quality: int = 100) -> bytes:
    """Images (n, 3, h, w) as one WebP file, row by row; lossless where `quality` is 100."""
    n, _, height, width = images.shape
    rows = -(-n // columns)
    pixels = (images.detach().cpu() * 255).round().clamp(0, 255).byte().permute(0, 2, 3, 1).numpy()
    sheet = numpy.zeros((rows * height, columns * width, 3), numpy.uint8)
    for k, picture in enumerate(pixels):
        top, left = k // columns * height, k % columns * width
        sheet[top : top + height, left : left + width] = picture
    buffer = io.BytesIO()
    PIL.Image.fromarray(sheet).save(
        buffer, "WEBP", lossless=quality == 100, quality=min(quality, 92), method=4
    )
    return buffer.getvalue()


def read_sheet(file: bytes, sides: tuple[int, int], count: int) -> Images:
    """The images of a sheet, (count, 3, h, w) in [0, 1]."""
    height, width = sides
    with PIL.Image.open(io.BytesIO(file)) as opened:
        sheet = torch.from_numpy(numpy.array(opened.convert("RGB"))).permute(2, 0, 1) / 255
    tiles = sheet.unfold(1, height, height).unfold(2, width, width).flatten(1, 2)
    return tiles.movedim(1, 0)[:count].contiguous()


def _rank(name: str) -> int:
    return FIRST.index(name) if name in FIRST else len(FIRST)


def _credits(dataset: str) -> list[dict[str, str]]:
    """A shipped set's facts about each picture, in the set's order."""
    found: list[dict[str, str]] = []
    for folder in ("photographs", "objects"):
        index = files.DATA / folder / "index.json"
        if dataset in (folder, "pictures") and index.exists():
            found += json.loads(index.read_text(encoding="utf-8"))
    return found


def _line(name: str, entry: dict[str, str] | None) -> dict[str, str]:
    if entry is None:
        return {"credit": name, "source": ""}
    changes = f" (changes: {entry['changes']})" if entry.get("changes") else ""
    credit = f"{name}: {entry['author']}, {entry['licence']}{changes}"
    return {"credit": credit, "source": entry.get("source", "")}
