"""Images by name: the shipped sets, CIFAR-10, ImageNet, your own files and arrays."""

import difflib
import functools
import hashlib
import operator
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from nbhelpers import files
from nbhelpers.bars import progress
from nbhelpers.data.cifar10 import CIFAR10_CLASSES, open_cifar10, open_sample
from nbhelpers.data.decoding import decode
from nbhelpers.data.folders import ImageSet, open_folder
from nbhelpers.data.imagenet import (
    RESTRICTED_IMAGENET,
    class_places,
    open_imagenet,
    open_restricted_imagenet,
    open_tiny_imagenet,
)
from nbhelpers.data.pictures import open_objects, open_photographs, open_pictures
from nbhelpers.types import Images, Labels, Size, check_images, two_sides, whole

Source = str | os.PathLike[str] | np.ndarray | Tensor
HASHED_BYTES = 2**26  # of a larger data set, files' sizes and dates stand for their content


def load_images(
    source: Source,
    *,
    indices: Iterable[int] | None = None,
    size: Size | None = None,
    margin: float | None = None,
    channels: int | None = None,
    classes: Sequence[str] | None = None,
    background: float | None = None,
) -> tuple[Images, Labels]:
    """Images and labels of a named set, of your own files, or of an array.

    Args:
        source: a name ("cifar10-sample", "cifar10-test", "cifar10-train", "out-of-distribution",
            "photographs", "objects", "pictures" (both), "imagenet-val", "imagenet-train",
            "restricted-imagenet-val", "restricted-imagenet-train", "tiny-imagenet-val",
            "tiny-imagenet-train"; ImageNet is looked for in the folder $IMAGENET, Tiny ImageNet in
            the folder or zip $TINY_IMAGENET, else downloaded); an image file; a folder of images
            (labels -1), or of one folder per class (labels in the order of their names); an array
            (n, 3, h, w) or (n, h, w, 3), uint8 or float in [0, 1]. Grey becomes RGB.
        indices: which images, in this order; None for all. Only these are decoded.
        size: pixels, the side of a square or (height, width); the image is resized until it just
            covers that (bilinear, antialiased), then the centre cut out.
        margin: resize it to `margin` times that instead; None for the data set's own, 256/224 for
            ImageNet, else 1.
        channels: `model.channels`: 1 for grey, 3 for RGB; None for RGB, or for an array's own.
        classes: `model.classes`, of a network that was trained for others: labels count in these,
            and are -1 where an image's class is none of them (`class_places`). None for the data
            set's own.
        background: grey level to put behind what is transparent, 0 black to 1 white; None for the
            data set's own, mid-grey for "objects" and "pictures", else white.

    Returns:
        Pixels in [0, 1], float32 (n, channels, h, w), and labels, int64 (n,).

    Raises:
        ValueError: an unknown name, an unreadable file, different image sizes without `size`,
            pixels outside [0, 1].
        IndexError: an index outside the set.
        FileNotFoundError: CIFAR-10 is neither here nor could it be fetched, or ImageNet is not
            here.
    """
    images = _placed(_open(source), margin, background)
    if classes is not None:
        images = replace(images, labels=labels_of(source, classes=classes))
    return _read(images, choose(indices, len(images.labels)), size, channels)


def iter_batches(
    source: Source,
    *,
    batch_size: int = 256,
    indices: Iterable[int] | None = None,
    size: Size | None = None,
    margin: float | None = None,
    channels: int | None = None,
    background: float | None = None,
) -> Iterator[tuple[Images, Labels]]:
    """The same in batches, one in memory at a time. Errors as in `load_images`, those of
    `indices` at the call.
    """
    batch_size = whole(batch_size, "batch_size", least=1)
    images = _placed(_open(source), margin, background)
    chosen = choose(indices, len(images.labels))
    return (
        _read(images, chosen[i : i + batch_size], size, channels)
        for i in range(0, len(chosen), batch_size)
    )


def count_images(source: Source) -> int:
    """How many images `source` has."""
    return len(_open(source).labels)


def identity(source: Source) -> str:
    """A key that changes when the images or labels of `source` may have.

    It is made from the content where that is small or known, else from the files' names, sizes and
    dates.
    """
    images, digest = _open(source), hashlib.sha256()
    if isinstance(source, np.ndarray | Tensor):
        digest.update(f"{tuple(source.shape)} {str(source.dtype).removeprefix('torch.')}".encode())
        whole = (
            source.detach().cpu()
            if isinstance(source, Tensor)
            else torch.from_numpy(np.ascontiguousarray(source))
        )
        digest.update(whole.contiguous().flatten().view(torch.uint8).numpy().data)
        return digest.hexdigest()
    digest.update(f"{images.classes} {images.margin} {images.digest}".encode())
    digest.update(images.labels.numpy().tobytes())
    if images.digest:
        return digest.hexdigest()
    about = [path.stat() for path in images.files]
    small = sum(one.st_size for one in about) <= HASHED_BYTES
    for path, one in zip(images.files, about, strict=True):
        if small:  # so that a fresh checkout, or a copy, is the same set
            digest.update(hashlib.sha256(path.read_bytes()).digest())
        else:
            digest.update(
                f"{path.parent.name}/{path.name} {one.st_size} {one.st_mtime_ns}\n".encode()
            )
    return digest.hexdigest()


def labels_of(source: Source, *, classes: Sequence[str] | None = None) -> Labels:
    """The labels of `source`, (n,), -1 where unknown; no image is decoded. `classes` as in
    `load_images`.
    """
    labels = _open(source).labels
    if classes is None:
        return labels
    places = class_places(class_names(source), classes)
    return torch.cat([places, torch.tensor([-1])])[labels]  # the last is where -1 points


def class_names(source: Source) -> tuple[str, ...]:
    """What the labels of `source` mean: classes, captions of the out-of-distribution set, or ()
    where unknown.
    """
    known = SETS[source][1] if isinstance(source, str) and source in SETS else ()
    return known or _open(source).classes


def image_names(source: Source) -> tuple[str, ...]:
    """What each image of `source` shows, (n,): its own name, else that of its class; "" where
    unknown.
    """
    return _open(source).names


def _placed(images: ImageSet, margin: float | None, background: float | None) -> ImageSet:
    if margin is not None and not 1 <= margin <= 4:
        raise ValueError(f"margin: got {margin}, wanted 1 to 4, such as 256 / 224")
    if background is not None and not 0 <= background <= 1:
        raise ValueError(f"background: got {background}, wanted 0 (black) to 1 (white)")
    chosen = {"margin": margin, "background": background}
    return replace(images, **{name: one for name, one in chosen.items() if one is not None})


def choose(indices: Iterable[int] | None, n: int) -> list[int]:
    """Indices as Python numbers, checked; `indices` as in `load_images`, `n` the images there are.

    Raises:
        TypeError, IndexError, ValueError: something else than whole numbers, one outside 0 to n −
            1, none.
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


def _read(
    images: ImageSet, indices: list[int], size: Size | None, channels: int | None = None
) -> tuple[Tensor, Tensor]:
    sides = None if size is None else two_sides(size)
    if images.pixels is not None and (
        sides is None or (images.margin == 1 and images.pixels.shape[2:] == sides)
    ):
        return _coloured(images.pixels[indices].float() / 255, channels), images.labels[indices]
    pixels = torch.empty(0)
    for place, index in enumerate(progress(indices, desc="reading images", unit="image")):
        image = images.read(index)
        image = image.float() / 255 if image.dtype == torch.uint8 else image.float()
        if len(image) == 4:
            image = torch.lerp(torch.full_like(image[:3], images.background), image[:3], image[3:])
        image = _fit(image, sides, images.margin)
        image = _coloured(image[None], channels)[0]
        if place == 0:
            pixels = torch.empty(len(indices), *image.shape, dtype=torch.float32)
        elif image.shape != pixels.shape[1:]:
            first, other = (
                " × ".join(map(str, shape[1:])) for shape in (pixels[0].shape, image.shape)
            )
            raise ValueError(
                f"images differ in size ({first}, then {other} pixels); pass size= to make them "
                "alike"
            )
        pixels[place] = image
    return pixels, images.labels[indices]


def _coloured(images: Tensor, channels: int | None) -> Tensor:
    """Grey from RGB by luminance (ITU-R BT.601), as Pillow does, or RGB from grey."""
    if channels not in (None, 1, 3):
        raise ValueError(f"channels: got {channels!r}, wanted 1 or 3")
    if channels is None or channels == images.shape[1]:
        return images
    if channels == 3:
        return images.expand(-1, 3, -1, -1).clone()
    return torch.einsum("nchw,c->nhw", images, images.new_tensor((0.299, 0.587, 0.114)))[
        :, None
    ].clamp(0, 1)


def _fit(image: Tensor, sides: tuple[int, int] | None, margin: float = 1) -> Tensor:
    """Resize until the image just covers `margin` times the wanted sides, then cut out the
    centre.
    """
    height, width = image.shape[1:]
    if sides is None:
        return image
    # The side that has to grow most, or shrink least; whole numbers, as in torchvision.
    wanted, given = max(
        ((round(sides[i] * margin), (height, width)[i]) for i in (0, 1)), key=lambda p: p[0] / p[1]
    )
    if wanted != given:
        # Rounding down must not leave a side shorter than what is cut out.
        height, width = (
            max(height * wanted // given, sides[0]),
            max(width * wanted // given, sides[1]),
        )
        image = F.interpolate(image[None], (height, width), mode="bilinear", antialias=True)[
            0
        ].clamp_(0, 1)
    # both roundings as in torchvision
    top, left = (round((height - sides[0]) / 2), round((width - sides[1]) / 2))
    return image[:, top : top + sides[0], left : left + sides[1]]


def _open(source: Source) -> ImageSet:
    if isinstance(source, np.ndarray | Tensor):
        return _open_array(source)
    if not isinstance(source, str | os.PathLike):
        raise TypeError(f"source: got {type(source).__name__}, wanted a name, a path or an array")
    if isinstance(source, str) and source in SETS:
        return SETS[source][0]()
    path = Path(source).expanduser()
    if path.is_dir():
        return open_folder(path)
    if path.is_file():
        return ImageSet(
            lambda _: decode(path, transparency=True), torch.tensor([-1]), files=(path,)
        )
    near = difflib.get_close_matches(str(source), SETS, cutoff=0.4) or SETS
    raise ValueError(
        f"{str(source)!r} is no data set, and no file or folder here; near names: {', '.join(near)}"
    )


def _open_array(array: np.ndarray | Tensor) -> ImageSet:
    images = (
        torch.from_numpy(np.ascontiguousarray(array))
        if isinstance(array, np.ndarray)
        else array.detach()
    )
    if images.ndim == 3:
        images = images[None]
    if images.ndim != 4 or len(images) == 0 or not {1, 3} & {images.shape[1], images.shape[3]}:
        raise ValueError(
            f"array: got shape {tuple(array.shape)}, wanted (n, 3, h, w) or (n, h, w, 3), or 1 for "
            "grey"
        )
    if images.shape[1] != 3 and (images.shape[3] == 3 or images.shape[1] != 1):
        images = images.movedim(3, 1)

    def read(index: int) -> Tensor:
        if images.dtype != torch.uint8:
            check_images(images[index, None], "array")
        return images[index]

    return ImageSet(read, torch.full((len(images),), -1))


def _open_out_of_distribution() -> ImageSet:
    paths = sorted((files.DATA / "out-of-distribution").glob("*.png"))
    captions = tuple(path.stem.replace("-", " ") for path in paths)
    return ImageSet(lambda i: decode(paths[i]), torch.arange(len(paths)), captions, tuple(paths))


# Name → how to open it, and its class names where they are known without opening (CIFAR-10 would be
# downloaded).
SETS: dict[str, tuple[Callable[[], ImageSet], tuple[str, ...]]] = {
    "cifar10-sample": (open_sample, CIFAR10_CLASSES),
    "cifar10-test": (functools.partial(open_cifar10, "test"), CIFAR10_CLASSES),
    "cifar10-train": (functools.partial(open_cifar10, "train"), CIFAR10_CLASSES),
    "out-of-distribution": (_open_out_of_distribution, ()),
    "photographs": (open_photographs, ()),
    "objects": (open_objects, ()),
    "pictures": (open_pictures, ()),
    "tiny-imagenet-train": (functools.partial(open_tiny_imagenet, "train"), ()),
    "tiny-imagenet-val": (functools.partial(open_tiny_imagenet, "val"), ()),
    "imagenet-val": (functools.partial(open_imagenet, "val"), ()),
    "imagenet-train": (functools.partial(open_imagenet, "train"), ()),
    "restricted-imagenet-val": (
        functools.partial(open_restricted_imagenet, "val"),
        tuple(RESTRICTED_IMAGENET),
    ),
    "restricted-imagenet-train": (
        functools.partial(open_restricted_imagenet, "train"),
        tuple(RESTRICTED_IMAGENET),
    ),
}
