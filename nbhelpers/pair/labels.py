"""The labels of a data set as a network's classes."""

from collections.abc import Sequence

import torch
from torch import Tensor

from nbhelpers.data.images import Source, labels_of, open_images, suited
from nbhelpers.data.matching import are_numbers, class_places
from nbhelpers.data.sets import ImageSet
from nbhelpers.networks.model import Model
from nbhelpers.types import Images, Indices, Labels, indices, seeded

Given = Labels | Indices | Sequence[str]
LISTED = 6  # names of classes in a message


def labels_for(model: Model, dataset: Source) -> Labels:
    """The labels of a data set as a network's classes, int64 (n,), -1 where the network has no such
    class.

    By name (`class_places`). A network whose classes are bare numbers takes the labels of a data
    set of as many named classes as they are.
    """
    images = open_images(dataset)
    names = images.classes
    if are_numbers(model.classes) and not are_numbers(names):
        same = len(names) == len(model.classes)
        return images.labels if same else torch.full_like(images.labels, -1)
    return labels_of(images, classes=model.classes)


def labels_needed(model: Model, dataset: Source) -> Labels:
    """The same where something is to be scored by them.

    Raises:
        ValueError: no label of the data set is a class of the network; both are listed.
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
    """At most `n` images whose class the network has (`labels_for`), drawn by the seed: their
    indices.
    """
    order = torch.randperm(len(labels), generator=seeded(seed)).tolist()  # as in `random_indices`
    return [row for row in order if labels[row] >= 0][:n]


def left_out(labels: Labels, images: ImageSet) -> str:
    """How many images have none of a network's classes (`labels_for`), and which they have."""
    kinds = images.labels[labels < 0].unique().tolist()
    strange = [images.classes[k] for k in kinds if k >= 0] or ["no label"]
    return (
        f"{int((labels < 0).sum())} of {len(labels)} images of {images} are left out: the network "
        f"has none of their classes ({listed(strange)})"
    )


def listed(names: Sequence[str]) -> str:
    """The first few of some names, and how many there are."""
    rest = f", … ({len(names)} in all)" if len(names) > LISTED else ""
    return ", ".join(names[:LISTED]) + rest


def labelled(
    model: Model, images: Images | Source, labels: Given | None = None
) -> tuple[Images, Labels]:
    """Images and their labels as a network's classes, (n, c, h, w) and (n,), checked.

    Args:
        model: the classifier.
        images: (n, c, h, w); or a labelled data set, opened or by name or path: its images whose
            class the network has.
        labels: of images in a tensor, (n,): class indices, or the names of classes.

    Raises:
        TypeError, ValueError: labels that are no whole numbers, not one per image, unknown (-1),
            outside the network's classes or none of their names; a network of one output.
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
