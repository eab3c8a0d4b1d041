"""Open and load images: named data sets, files, folders and arrays."""

import functools
import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from nbhelpers import files
from nbhelpers.data.cifar10 import CIFAR10_CLASSES, open_cifar10, open_sample
from nbhelpers.data.decoding import decode
from nbhelpers.data.folders import open_folder
from nbhelpers.data.imagenet import (
    RESTRICTED_IMAGENET,
    open_imagenet,
    open_restricted_imagenet,
    open_tiny_imagenet,
)
from nbhelpers.data.matching import class_places
from nbhelpers.data.pictures import open_objects, open_photographs, open_pictures
from nbhelpers.data.sets import ImageSet
from nbhelpers.names import near
from nbhelpers.types import Classifier, Images, Labels, Size, check_images, two_sides

Source = str | os.PathLike[str] | np.ndarray | Tensor | ImageSet
HASHED_BYTES = 2**26  # larger data sets are identified by file sizes and dates


def open_images(
    source: Source,
    *,
    size: Size | None = None,
    margin: float | None = None,
    channels: int | None = None,
    classes: Sequence[str] | None = None,
    background: float | None = None,
) -> ImageSet:
    """Open a data set without decoding pixels.

    Args:
        source: as in `load_images`; an opened set is copied with the given options.
        size, margin, channels, classes, background: as in `load_images`, for all later loads.

    Returns:
        An `ImageSet` with `labels`, `classes`, `names`, `load(indices)` and `batches()`.

    Raises:
        ValueError, FileNotFoundError, TypeError: as in `load_images`.
    """
    images = _open(source)
    if margin is not None and not 1 <= margin <= 4:
        raise ValueError(f"margin: got {margin}, wanted 1 to 4, such as 256 / 224")
    if background is not None and not 0 <= background <= 1:
        raise ValueError(f"background: got {background}, wanted 0 (black) to 1 (white)")
    if size is not None:
        two_sides(size)
    images = replace(
        images,
        size=images.size if size is None else size,
        margin=images.margin if margin is None else margin,
        channels=images.channels if channels is None else channels,
        background=images.background if background is None else background,
    )
    if classes is None or tuple(classes) == images.classes:
        return images
    return images.relabelled(labels_of(images, classes=classes), tuple(classes))


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
    """Images and labels of a data set, files or an array.

    Args:
        source: one of
            - a name: cifar10-sample, cifar10-test, cifar10-train, out-of-distribution, photographs,
              objects, pictures (both), imagenet-val, imagenet-train, restricted-imagenet-val,
              restricted-imagenet-train (in the folder $IMAGENET), tiny-imagenet-val,
              tiny-imagenet-train (in the folder or zip $TINY_IMAGENET, else downloaded);
            - an image file, a folder of images (labels -1), or a folder with one folder per class
              (labels in name order);
            - an array (n, 3, h, w) or (n, h, w, 3), uint8 or float in [0, 1]; or an `ImageSet`.
        indices: the images to decode, in this order; None for all.
        size: pixels, a side or (height, width): resize to cover it (bilinear, antialiased), then
            crop the centre.
        margin: resize to `margin` times `size` before the crop; None for the data set's own,
            256/224 for ImageNet, else 1.
        channels: 1 for grey, 3 for RGB, as `model.channels`; None for RGB, or an array's own.
        classes: labels as indices into these, such as `model.classes`, -1 if none matches
            (`class_places`); None for the data set's own.
        background: grey level behind transparency, 0 black to 1 white; None for the data set's own:
            0.5 for "objects" and "pictures", else 1.

    Returns:
        Pixels in [0, 1], float32 (n, channels, h, w), and labels, int64 (n,).

    Raises:
        ValueError: unknown name, unreadable file, images of several sizes without `size`, pixels
            outside [0, 1].
        IndexError: an index outside the set.
        FileNotFoundError: CIFAR-10 could not be fetched, or ImageNet is missing.
    """
    opened = open_images(
        source, size=size, margin=margin, channels=channels, classes=classes, background=background
    )
    return opened.load(indices)


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
    """As `load_images`, in batches, one in memory at a time; `indices` are checked at the call."""
    opened = open_images(source, size=size, margin=margin, channels=channels, background=background)
    return opened.batches(indices, batch_size=batch_size)


def suited(source: Source, model: Classifier, size: Size | None = None) -> ImageSet:
    """A data set opened with a network's channels and, unless another is given, its size."""
    images = _open(source)
    size = size or images.size or getattr(model, "image_size", None)
    return open_images(images, size=size, channels=getattr(model, "channels", images.channels))


def count_images(source: Source) -> int:
    """The number of images in `source`."""
    return len(_open(source))


def identity(source: Source) -> str:
    """A hash of the images and labels of `source`.

    Of the content if small or already hashed, else of the files' names, sizes and dates.
    """
    images, digest = _open(source), hashlib.sha256()
    about = (images.classes, images.margin, images.background, images.digest)
    digest.update(str(about).encode())
    digest.update(images.labels.numpy().tobytes())
    if images.digest:
        return digest.hexdigest()
    if not images.files:
        for row in range(len(images)):
            image = images.read(row).cpu().contiguous()
            digest.update(f"{tuple(image.shape)} {image.dtype}".encode())
            digest.update(image.flatten().view(torch.uint8).numpy().data)
        return digest.hexdigest()
    sizes = [path.stat() for path in images.files]
    small = sum(one.st_size for one in sizes) <= HASHED_BYTES
    for path, one in zip(images.files, sizes, strict=True):
        if small:  # by content, so copies are equal
            digest.update(hashlib.sha256(path.read_bytes()).digest())
        else:
            digest.update(
                f"{path.parent.name}/{path.name} {one.st_size} {one.st_mtime_ns}\n".encode()
            )
    return digest.hexdigest()


def labels_of(source: Source, *, classes: Sequence[str] | None = None) -> Labels:
    """Labels, (n,), -1 for unknown, without decoding images; `classes` as in `load_images`."""
    opened = _open(source)
    if classes is None:
        return opened.labels
    places = class_places(opened.classes, classes)
    return torch.cat([places, torch.tensor([-1])])[opened.labels]  # -1 indexes the last


def class_names(source: Source) -> tuple[str, ...]:
    """The names of the labels: classes, captions of "out-of-distribution", or () if unknown."""
    known = SETS[source][1] if isinstance(source, str) and source in SETS else ()
    return known or _open(source).classes


def image_names(source: Source) -> tuple[str, ...]:
    """Each image's caption, else its class, else its file name, else "–"; (n,)."""
    return _open(source).names


def _open(source: Source) -> ImageSet:
    if isinstance(source, ImageSet):
        return source
    if isinstance(source, np.ndarray | Tensor):
        return _open_array(source)
    if not isinstance(source, str | os.PathLike):
        raise TypeError(
            f"source: got {type(source).__name__}, wanted a name, a path, an array or an opened set"
        )
    if isinstance(source, str) and source in SETS:
        return replace(SETS[source][0](), name=source)
    path = Path(source).expanduser()
    if path.is_dir():
        return replace(open_folder(path), name=str(source))
    if path.is_file():
        return ImageSet(
            lambda _: decode(path, transparency=True),
            torch.tensor([-1]),
            files=(path,),
            name=str(source),
        )
    names = ", ".join(near(source, SETS) or SETS)
    raise ValueError(
        f"{str(source)!r} is no data set, and no file or folder here; near names: {names}"
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

    return ImageSet(read, torch.full((len(images),), -1), name=f"an array of {len(images)} images")


def _open_out_of_distribution() -> ImageSet:
    paths = sorted((files.DATA / "out-of-distribution").glob("*.png"))
    captions = tuple(path.stem.replace("-", " ") for path in paths)
    return ImageSet(lambda i: decode(paths[i]), torch.arange(len(paths)), captions, tuple(paths))


# Name → opener, and class names if known without opening (CIFAR-10 would be downloaded).
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
