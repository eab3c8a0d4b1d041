"""Opened data sets, with lazily decoded pixels."""

import functools
import operator
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from nbhelpers.bars import progress
from nbhelpers.types import Images, Labels, Size, two_sides, whole

NAMELESS = "–"  # caption of an image without name and class


@dataclass(frozen=True, eq=False)
class ImageSet:
    """A data set from `open_images`, accepted wherever a data set's name is.

    Iterating gives batches of images and labels, for `represent`, `predict` and `top_images`.
    """

    # index → (c, h, w), uint8 or float in [0, 1]; (4, h, w) with opacity last
    read: Callable[[int], Tensor]
    labels: Tensor  # int64 (n,), indices into `classes`; -1: unknown
    classes: tuple[str, ...] = ()
    files: tuple[Path, ...] = ()  # sources
    name: str = ""  # name or path
    captions: tuple[str, ...] = ()  # per image, if more specific than the class
    size: Size | None = None  # pixels, resized and cropped to; None: unchanged
    channels: int | None = None  # 1 for grey, 3 for RGB; None: unchanged
    margin: float = 1  # size before the crop / size after it
    pixels: Tensor | None = None  # uint8 (n, c, h, w), if all are in memory
    digest: str = ""  # a known hash of the content
    background: float = 1  # grey level behind transparency, 0 black to 1 white

    def __len__(self) -> int:
        return len(self.labels)

    def __iter__(self) -> Iterator[tuple[Images, Labels]]:
        return self.batches()

    def __str__(self) -> str:
        return self.name

    def __repr__(self) -> str:
        return f"ImageSet({self.name}: {len(self)} images, {len(self.classes)} classes)"

    @functools.cached_property
    def names(self) -> tuple[str, ...]:
        """Each image's caption, else its class, else its file name, else "–"; (n,)."""
        if self.captions:
            return self.captions
        stems = [path.stem for path in self.files] if len(self.files) == len(self) else []
        stems = stems or [NAMELESS] * len(self)
        given = zip(self.labels.tolist(), stems, strict=True)
        return tuple(self.classes[k] if 0 <= k < len(self.classes) else stem for k, stem in given)

    def load(self, indices: Iterable[int] | None = None) -> tuple[Images, Labels]:
        """Images, float32 (n, channels, h, w) in [0, 1], and labels, int64 (n,), on the CPU.

        Args:
            indices: the images to decode, in this order; None for all.

        Raises:
            TypeError, IndexError: not whole numbers, or outside the set.
            ValueError: images of several sizes without `size`, or an unreadable file.
        """
        return self._load(choose(indices, len(self)))

    def batches(
        self, indices: Iterable[int] | None = None, *, batch_size: int = 256
    ) -> Iterator[tuple[Images, Labels]]:
        """As `load`, in batches, one in memory at a time."""
        batch_size = whole(batch_size, "batch_size", least=1)
        chosen = choose(indices, len(self))
        return (self._load(chosen[i : i + batch_size]) for i in range(0, len(chosen), batch_size))

    def relabelled(self, labels: Labels, classes: tuple[str, ...]) -> "ImageSet":
        """The same images with other labels and classes; names are kept."""
        return replace(self, labels=labels, classes=classes, captions=self.names)

    def _load(self, rows: list[int]) -> tuple[Images, Labels]:
        labels, sides = self.labels[rows], None if self.size is None else two_sides(self.size)
        if self.pixels is not None and (
            sides is None or (self.margin == 1 and self.pixels.shape[2:] == sides)
        ):
            return _coloured(self.pixels[rows].float() / 255, self.channels), labels
        pixels = torch.empty(0)
        for place, row in enumerate(progress(rows, desc="reading images", unit="image")):
            image = self.read(row)
            image = image.float() / 255 if image.dtype == torch.uint8 else image.float()
            if len(image) == 4:
                behind = torch.full_like(image[:3], self.background)
                image = torch.lerp(behind, image[:3], image[3:])
            image = _coloured(_cropped(image, sides, self.margin)[None], self.channels)[0]
            if place == 0:
                pixels = torch.empty(len(rows), *image.shape, dtype=torch.float32)
            elif image.shape != pixels.shape[1:]:
                first, other = (
                    " × ".join(map(str, shape[1:])) for shape in (pixels[0].shape, image.shape)
                )
                raise ValueError(
                    f"images differ in size ({first}, then {other} pixels); pass size= to make "
                    "them alike"
                )
            pixels[place] = image
        return pixels, labels


def choose(indices: Iterable[int] | None, n: int) -> list[int]:
    """Checked indices of `n` images as Python ints; None for all.

    Raises:
        TypeError, IndexError, ValueError: not whole numbers, outside 0 to n − 1, or empty.
    """
    if indices is None:
        return list(range(n))
    given = indices.tolist() if isinstance(indices, Tensor | np.ndarray) else indices
    if isinstance(given, str) or not isinstance(given, Iterable):
        raise TypeError(
            f"indices: got {indices!r}, wanted several whole numbers, such as [3] or range(16)"
        )
    chosen = []
    for index in given:
        if isinstance(index, bool | np.bool_) or not hasattr(index, "__index__"):
            raise TypeError(f"indices: got {index!r}, wanted whole numbers, such as range(16)")
        if not 0 <= index < n:
            raise IndexError(f"indices: got {index}, wanted 0 to {n - 1}")
        chosen.append(operator.index(index))
    if not chosen:
        raise ValueError(f"indices: got none, wanted at least one of 0 to {n - 1}")
    return chosen


def _coloured(images: Tensor, channels: int | None) -> Tensor:
    """Grey from RGB by ITU-R BT.601 luminance, as in Pillow, or RGB from grey."""
    if channels not in (None, 1, 3):
        raise ValueError(f"channels: got {channels!r}, wanted 1 or 3")
    if channels is None or channels == images.shape[1]:
        return images
    if channels == 3:
        return images.expand(-1, 3, -1, -1).clone()
    luminance = images.new_tensor((0.299, 0.587, 0.114))
    return torch.einsum("nchw,c->nhw", images, luminance)[:, None].clamp(0, 1)


def _cropped(image: Tensor, sides: tuple[int, int] | None, margin: float = 1) -> Tensor:
    """Resize to cover `margin` times the sides, then crop the centre."""
    height, width = image.shape[1:]
    if sides is None:
        return image
    # The side with the largest scale; integers as in torchvision.
    wanted, given = max(
        ((round(sides[i] * margin), (height, width)[i]) for i in (0, 1)), key=lambda p: p[0] / p[1]
    )
    if wanted != given:
        # Rounding down must not make a side shorter than the crop.
        height, width = (
            max(height * wanted // given, sides[0]),
            max(width * wanted // given, sides[1]),
        )
        image = F.interpolate(image[None], (height, width), mode="bilinear", antialias=True)[
            0
        ].clamp_(0, 1)
    # rounding as in torchvision
    top, left = (round((height - sides[0]) / 2), round((width - sides[1]) / 2))
    return image[:, top : top + sides[0], left : left + sides[1]]
