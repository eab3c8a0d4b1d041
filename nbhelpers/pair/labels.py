"""The labels of a data set as a network's classes."""

from collections.abc import Sequence

import numpy
import torch
from torch import Tensor

from nbhelpers.data.images import Source, labels_of, open_images, suited
from nbhelpers.data.matching import are_numbers, class_places
from nbhelpers.data.sets import ImageSet
from nbhelpers.networks.model import Model
from nbhelpers.types import Images, Indices, Labels, indices, seeded

Given = Labels | Indices | Sequence[str]
LISTED = 6  # class names in a message


def labels_for(model: Model, dataset: Source) -> Labels:
    """A data set's labels in a network's classes, int64 (n,), matched by name; −1: no such class.

    If the network's classes are numbers, labels stay unchanged for an equal number of classes.
    """
    images = open_images(dataset)
    names = images.classes
    if are_numbers(model.classes) and not are_numbers(names):
        same = len(names) == len(model.classes)
        return images.labels if same else torch.full_like(images.labels, -1)
    return labels_of(images, classes=model.classes)


def labels_needed(model: Model, dataset: Source) -> Labels:
    """As `labels_for`, for scoring.

    Raises:
        ValueError: no label of the data set is a class of the network.
    """
    images = open_images(dataset)
    labels = labels_for(model, images)
    if bool((labels >= 0).any()):
        return labels
    if not images.classes:
        raise ValueError(f"{images} has no labels, wanted one folder per class")
    raise ValueError(
        f"{images} has the classes {listed(images.classes)}, {model.name} has "
        f"{listed(model.classes)}: none is the same; name the folders as the network's classes, or "
        "give another data set"
    )


def labelled_first(labels: Labels, n: int, *, seed: int = 0) -> list[int]:
    """Indices of a random sample of at most `n` images with a known label (`labels_for`)."""
    order = torch.randperm(len(labels), generator=seeded(seed)).tolist()  # as in `random_indices`
    return [row for row in order if labels[row] >= 0][:n]


def left_out(labels: Labels, images: ImageSet) -> str:
    """A message: the number of images outside a network's classes, and their classes."""
    kinds = images.labels[labels < 0].unique().tolist()
    strange = [images.classes[k] for k in kinds if k >= 0] or ["no label"]
    return (
        f"{int((labels < 0).sum())} of {len(labels)} images of {images} are left out: the network "
        f"has none of their classes ({listed(strange)})"
    )


def listed(names: Sequence[str]) -> str:
    """The first few names, and their number."""
    rest = f", … ({len(names)} in all)" if len(names) > LISTED else ""
    return ", ".join(names[:LISTED]) + rest


def labelled(
    model: Model, images: Images | Source, labels: Given | None = None
) -> tuple[Images, Labels]:
    """Images, (n, c, h, w), and their labels in a network's classes, (n,).

    Args:
        model: the classifier.
        images: (n, c, h, w); or a labelled data set, opened or by name or path, which is reduced
            to the network's classes.
        labels: for a tensor, (n,): class indices or names.

    Raises:
        TypeError, ValueError: labels not integers, not one per image, unknown (−1) or outside the
            network's classes; a network with one output.
    """
    if len(model.classes) < 2:
        raise ValueError(
            f"{model.name} has one output, which is the highest for every image: accuracy needs "
            "two classes or more"
        )
    if not isinstance(images, Tensor):
        if labels is not None:
            raise ValueError(
                "labels: a data set has its own; give images in a tensor, or no labels"
            )
        opened = suited(images, model)
        known = labels_needed(model, opened)
        rows = (known >= 0).nonzero()[:, 0]
        return opened.load(rows)[0], known[rows]
    if labels is None:
        raise ValueError("labels: got none, wanted a class for each image")
    places = _places(model, labels)
    if (
        places.shape != (len(images),)
        or int(places.min()) < 0
        or int(places.max()) >= len(model.classes)
    ):
        raise ValueError(
            f"labels: wanted 0 to {len(model.classes) - 1}, one per image; is it this model's data "
            "set?"
        )
    return images, places


def _places(model: Model, labels: Labels | Indices | Sequence[str]) -> Labels:
    if isinstance(labels, numpy.ndarray) and labels.dtype.kind in "UO":
        labels = labels.tolist()
    texts = labels if isinstance(labels, list | tuple) else []
    if not texts or not all(isinstance(text, str) for text in texts):
        return indices(labels, "labels")  # type: ignore[arg-type]
    names = tuple(dict.fromkeys(map(str, texts)))
    places = class_places(names, model.classes)
    if int(places.min()) < 0:
        strange = ", ".join(name for name, k in zip(names, places, strict=True) if k < 0)
        raise ValueError(
            f"labels: {strange} not among the classes of {model.name} ({listed(model.classes)})"
        )
    return places[[names.index(text) for text in texts]]
