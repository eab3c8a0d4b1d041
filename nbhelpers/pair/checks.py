"""Checks of imported networks."""

import itertools
import math
from collections.abc import Mapping, Sequence

import torch

from nbhelpers import files
from nbhelpers.checkpoints.entries import Entry, manifest
from nbhelpers.data.images import Source, open_images
from nbhelpers.data.matching import are_numbers, class_places
from nbhelpers.networks.model import Model
from nbhelpers.pair.labels import Given, labelled, labelled_first, labels_for, listed
from nbhelpers.pair.scoring import accuracy
from nbhelpers.types import Images, Labels, Size

# Labelled test images, by training data set.
TEST_IMAGES_OF = {
    "cifar10": "cifar10-sample",
    "imagenet": "imagenet-val",
    "restricted-imagenet": "restricted-imagenet-val",
    "tiny-imagenet": "tiny-imagenet-val",
}


def self_check(
    model: Model,
    images: Images | Source,
    labels: Given | None = None,
    *,
    expected: float | None = None,
) -> float:
    """Accuracy of an imported network, compared with chance and with its published accuracy.

    Args:
        model: the classifier.
        images, labels: at least 20, of its training data set; as in `accuracy`.
        expected: published accuracy, percent; None: the manifest's, if it has one.

    Returns:
        Accuracy in percent.

    Raises:
        ValueError: near chance, or more than three standard errors and one point from `expected`.
    """
    if expected is None and (entry := manifest().get(model.name)):
        expected = _clean(entry)
    return _compare(model, *labelled(model, images, labels), expected)


def check_imported(
    models: Mapping[str, Model],
    given: Sequence[str],
    dataset: Source,
    *,
    size: Size,
    n: int = 100,
    seed: int = 0,
) -> bool:
    """Check the accuracy of a pair of networks; shipped ones are skipped.

    Prints, for each network, its accuracy or why it was not checked. A network with numbered
    classes takes the data set's names once it passes.

    Args:
        models: the networks by label.
        given: the names that `load_model` got.
        dataset: images, opened or by name or path.
        size: of the images, pixels, as in `load_images`.
        n, seed: a random sample of `n` images at most.

    Returns:
        Whether some labels of `dataset` are the networks' classes (`labels_for`).

    Raises:
        ValueError: different classes, or a network fails as in `self_check`.
    """
    _check_same_classes(dict(zip(given, models.values(), strict=True)))
    known, images = manifest(), open_images(dataset, size=size)
    names, total = images.classes, len(images)
    labelled = True
    for name, model in zip(given, models.values(), strict=True):
        entry, labels = known.get(name), labels_for(model, images)
        known_rows = int((labels >= 0).sum())
        reason = "" if known_rows else _other_classes(model, names)
        labelled = labelled and not reason
        if not reason and entry and (files.CHECKPOINTS / entry.file).exists():
            continue
        if not reason and known_rows < 20:
            reason = f"has only {known_rows} images" + " of its classes" * (known_rows < total)
        if reason:
            print(f"{name}: accuracy not checked: {images} {reason}")
            continue
        picked = labelled_first(labels, n, seed=seed)
        few, _ = open_images(images, channels=model.channels).load(picked)
        labels = labels[picked]
        # published accuracies are for the data set's test images
        expected = (
            _clean(entry) if entry and TEST_IMAGES_OF.get(entry.dataset) == images.name else None
        )
        found = _compare(model, few, labels, expected)
        beside = (
            f"chance {100 / len(model.classes):.2g} %"
            if expected is None
            else f"published {expected:.1f} %"
        )
        print(f"{name}: {found:.1f} % of {len(labels)} images of {images} are right ({beside})")
        if are_numbers(model.classes):
            model.classes = names
    return labelled


def _check_same_classes(models: Mapping[str, Model]) -> None:
    """Raise if the networks differ in their classes or in the classes' order."""
    counts = [f"{len(model.classes)} of {name}" for name, model in models.items()]
    if len({len(model.classes) for model in models.values()}) > 1:
        raise ValueError(
            f"classes: got {' and '.join(counts)}; give a checkpoint and a baseline that were "
            "trained for the same ones"
        )
    named = [(name, m.classes) for name, m in models.items() if not are_numbers(m.classes)]
    for (first, known), (name, classes) in itertools.pairwise(named):
        places, own = class_places(classes, known), torch.arange(len(known))
        moved = bool(((places >= 0) & (places != own)).any())
        if moved or not bool((places == own).any()):
            raise ValueError(
                f"classes: {first} has {listed(known)}, {name} has {listed(classes)}"
                f"{', in another order' if moved else ''}; give networks that were trained for the "
                "same ones"
            )


def _other_classes(model: Model, names: tuple[str, ...]) -> str:
    """Why no label is a class of the network."""
    if not names:
        return "has no labels"
    if len(names) != len(model.classes):
        return f"has {len(names)} classes, the network {len(model.classes)}"
    return f"has other classes ({names[0]}, …) than the network ({model.classes[0]}, …)"


def _clean(entry: Entry) -> float | None:
    return entry.accuracy.get("clean", entry.published.get("clean"))


def _compare(model: Model, images: Images, labels: Labels, expected: float | None) -> float:
    """Accuracy; raises if it is near chance or far from `expected`."""
    n, found, chance = len(images), accuracy(model, images, labels), 100 / len(model.classes)
    causes = (
        "usual causes: the wrong normalisation (mean, std), another order of classes, or the "
        "wrong file"
    )
    if expected is not None and abs(found - expected) <= _three_errors(expected, n) + 1:
        return found
    if found <= chance + _three_errors(chance, n):
        raise ValueError(
            f"{model.name}: {found:.1f} % of {n} images right is near chance ({chance:.1f} %); "
            f"{causes}"
        )
    if expected is not None:
        raise ValueError(
            f"{model.name}: {found:.1f} % of {n} images right, expected {expected:.1f} %; {causes}"
        )
    return found


def _three_errors(percent: float, n: int) -> float:
    return 3 * math.sqrt(percent * (100 - percent) / n)
