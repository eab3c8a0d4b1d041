"""Image files and folders, of which none is decoded before it is asked for."""

import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import PIL.Image
import PIL.ImageOps
import torch
from torch import Tensor

SUFFIXES = {".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"}


@dataclass(frozen=True)
class ImageSet:
    """Images of which none is decoded before it is asked for."""

    read: Callable[[int], Tensor]  # the image at an index: (3, h, w), uint8 or float in [0, 1]
    labels: Tensor  # int64 (n,); -1: unknown
    classes: tuple[str, ...] = ()
    files: tuple[Path, ...] = ()  # what it is read from
    margin: float = 1  # short side, in units of the square that is cut out of it
    pixels: Tensor | None = None  # all of them, uint8 (n, 3, h, w), where they are in memory


def open_folder(folder: Path) -> ImageSet:
    inside = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    files = [path for path in inside if _is_image(path)]
    labels = [-1] * len(files)
    # A class without images keeps its number, so that labels do not shift in a partial copy of a data set.
    classes = [path for path in inside if path.is_dir()] if not files else []
    if classes and {path.name for path in classes} <= {"train", "val", "test"}:
        raise ValueError(f"{folder} holds {', '.join(path.name for path in classes)}; give one of them")
    for label, place in enumerate(classes):
        found = sorted(path for path in place.rglob("*") if _is_image(path))
        files += found
        labels += [label] * len(found)
    if not files:
        raise ValueError(f"no image in {folder}; wanted files ending in {', '.join(sorted(SUFFIXES))}")
    names = tuple(path.name for path in classes)
    return ImageSet(lambda i: decode(files[i]), torch.tensor(labels), names, tuple(files))


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES and not path.name.startswith(".")


def decode(path: str | Path, content: bytes | None = None) -> Tensor:
    """An image file's pixels, uint8 (3, h, w); `content` where its bytes were read already."""
    try:
        with PIL.Image.open(path if content is None else io.BytesIO(content)) as image:
            if image.mode[0] in "IF":  # PIL would clip these to white
                raise ValueError(f"{path} has more than 8 bits per channel; save it with 8")
            pixels = np.array(PIL.ImageOps.exif_transpose(image).convert("RGB"))
    except (OSError, SyntaxError) as error:  # PIL raises SyntaxError for some broken PNG files
        raise ValueError(f"cannot read {path} as an image: {error}") from error
    return torch.from_numpy(pixels).permute(2, 0, 1)
