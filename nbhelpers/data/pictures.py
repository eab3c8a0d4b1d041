"""The shipped free images: photographs, and objects cut out of photographs."""

import json
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from nbhelpers import files
from nbhelpers.checkpoints.entries import imagenet_classes
from nbhelpers.data.decoding import decode
from nbhelpers.data.sets import ImageSet

ROOM = 1 / 16  # border around an object, in units of its longer side
GREY = 0.5  # background of objects: robust networks' inversions are better on it than on white


def open_photographs() -> ImageSet:
    """49 photographs with ImageNet labels."""
    return _open("photographs")


def open_objects() -> ImageSet:
    """261 objects on a plain background, with ImageNet labels or -1."""
    return _open("objects")


def open_pictures() -> ImageSet:
    """The photographs, then the objects."""
    return _open("photographs", "objects")


def _open(*folders: str) -> ImageSet:
    """Folders of `data/`; authors and licences are in index.json and data/README.md."""
    index = [(files.DATA / folder, one) for folder in folders for one in _index(folder)]
    paths = tuple(folder / one["file"] for folder, one in index)
    return ImageSet(
        lambda i: _read(paths[i]),
        torch.tensor([one["index"] for _, one in index]),
        imagenet_classes(),
        paths,
        captions=tuple(one.get("caption") or one["name"] for _, one in index),
        background=GREY,
    )


def _index(folder: str) -> list[dict]:
    return json.loads((files.DATA / folder / "index.json").read_text(encoding="utf-8"))


def _read(path: Path) -> Tensor:
    image = decode(path, transparency=True)
    if len(image) == 3:
        return image
    height, width = image.shape[1:]
    side = max(height, width) + 2 * round(ROOM * max(height, width))
    top, left = (side - height) // 2, (side - width) // 2
    return F.pad(image, (left, side - width - left, top, side - height - top))  # transparent
