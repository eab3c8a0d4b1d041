"""The check of networks that were just imported."""

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

# Labelled images that its data set offers a network for a test.
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
    """Accuracy on labelled images, if it is what it should be; for a network that was just
    imported.

    Args:
        model: the classifier; its name in the manifest, if it has one, gives `expected`.
        images, labels: at least 20, of the data set it was trained for; as in `accuracy`.
        expected: its published accuracy in percent.

    Returns:
        Accuracy in percent.

    Raises:
        ValueError: accuracy is near chance, or more than three standard errors and one point from
            `expected`.
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
    """Check networks that do not ship here, side by side in a notebook, before it draws conclusions
    from them.

    Prints a line for each: its accuracy, or why that could not be checked. Networks that ship in
    checkpoints/ are skipped silently. A network whose classes are bare numbers takes the data set's
    names, as its accuracy shows that they fit.

    Args:
        models: the networks by label.
        given: what `load_model` was given for each.
        dataset: images, opened or by name or path.
        size: of the images, in pixels, as in `load_images`.
        n, seed: so many images, drawn at random, or all there are.

    Returns:
        Whether the labels of `dataset` are these networks' classes, or some of them are
        (`labels_for`).

    Raises:
        ValueError: the networks differ in their classes, or one fails as in `self_check`.
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
        # A published accuracy is that on the data set's own test images.
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
    """Refuse networks whose outputs mean different things: other classes, or another order."""
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
    """Why no label of these classes is the network's."""
    if not names:
        return "has no labels"
    if len(names) != len(model.classes):
        return f"has {len(names)} classes, the network {len(model.classes)}"
    return f"has other classes ({names[0]}, …) than the network ({model.classes[0]}, …)"


def _clean(entry: Entry) -> float | None:
    return entry.accuracy.get("clean", entry.published.get("clean"))


def _compare(model: Model, images: Images, labels: Labels, expected: float | None) -> float:
    """Accuracy, where it is neither near chance nor far from what is expected."""
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
