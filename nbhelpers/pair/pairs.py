"""The two networks that a notebook compares, checked, with images for both."""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from nbhelpers.data.images import open_images
from nbhelpers.data.selection import random_indices
from nbhelpers.data.sets import NAMELESS, ImageSet
from nbhelpers.networks.loading import load_model
from nbhelpers.networks.model import Model
from nbhelpers.optimize import relative_diagonal
from nbhelpers.pair.checks import check_imported
from nbhelpers.pair.labels import labelled_first, labels_for
from nbhelpers.representation import predict
from nbhelpers.types import Features, Images, Indices, Labels, indices, two_sides


@dataclass(frozen=True)
class Pair:
    """What `load_pair` returns."""

    networks: dict[str, Model]  # "robust" and "standard"
    dataset: ImageSet  # in the networks' size and classes; label −1: outside their classes
    size: int | tuple[int, int]  # pixels; (height, width) if they differ
    labelled: bool  # whether some labels are the networks' classes

    @property
    def classes(self) -> tuple[str, ...]:
        """The networks' class names."""
        return self.networks["robust"].classes

    @property
    def representations(self) -> dict[str, Callable[[Images], Features]]:
        """Both networks' representations by network and form: "robust, averaged", …"""
        forms = {"averaged": False, "with positions": True}
        return {
            f"{name}, {form}": functools.partial(network.representation, positions=positions)
            for name, network in self.networks.items()
            for form, positions in forms.items()
        }

    def length(self, at_32: float) -> float:
        """An L2 length for 32-pixel images, scaled to this size by the diagonal; pixel units."""
        return at_32 * relative_diagonal((3, *two_sides(self.size)))

    def load(self, indices: Sequence[int]) -> tuple[Images, Labels]:
        """Images on the networks' device, (n, c, h, w), and labels on the CPU, (n,), −1 unknown."""
        images, labels = self.dataset.load(indices)
        return images.to(self.networks["robust"].device), labels

    def draw(
        self, n: int, *, seed: int = 0, known: bool = False
    ) -> tuple[list[int], Images, Labels]:
        """A random sample of `n` images: indices, and images and labels as from `load`.

        Args:
            n: exactly, or at most with `known`.
            seed: random generator.
            known: skip images outside the networks' classes.

        Raises:
            ValueError: `n` exceeds the data set; with `known`, no image of the networks' classes.
        """
        if not known:
            picked = random_indices(self.dataset, n, seed=seed)
        elif not (picked := labelled_first(self.dataset.labels, n, seed=seed)):
            raise ValueError(
                f"known: no image of {self.dataset} is of the networks' classes "
                f"({', '.join(self.classes[:3])}, …); give another data set"
            )
        return picked, *self.load(picked)

    def names(self, indices: Sequence[int]) -> list[str]:
        """The images' own names, for captions; "–" if unknown."""
        return [self.dataset.names[index] for index in indices]

    def class_names(self, labels: Labels | Indices) -> list[str]:
        """The names of class indices, (n,); "–" for −1, unknown."""
        places = indices(labels, "labels").tolist()
        return [self.classes[label] if label >= 0 else NAMELESS for label in places]

    def predictions(self, images: Images) -> dict[str, list[str]]:
        """Each network's predictions, as captions: "robust: dragonfly"."""
        return {
            name: [f"{name}: {network.classes[k]}" for k in predict(network, images).tolist()]
            for name, network in self.networks.items()
        }


def load_pair(
    checkpoint: str | Path,
    baseline: str | Path,
    dataset: str | Path | ImageSet,
    *,
    device: str = "auto",
    precision: Literal["float32", "bfloat16", "auto"] = "float32",
) -> Pair:
    """Load a robust and a standard network with a data set, and check imported ones.

    Args:
        checkpoint, baseline: as in `load_model`; trained for the same classes.
        dataset: images, opened or by name or path.
        device, precision: as in `load_model`.

    Raises:
        ValueError: different classes, or a network fails the check (`check_imported`).
    """
    given = {"robust": checkpoint, "standard": baseline}
    networks = {
        key: load_model(name, device=device, precision=precision) for key, name in given.items()
    }
    size = next((network.image_size for network in networks.values() if network.image_size), 32)
    robust = networks["robust"]
    images = open_images(dataset, size=size, channels=robust.channels)
    labelled = check_imported(networks, [str(name) for name in given.values()], images, size=size)
    labels = labels_for(robust, images) if labelled else torch.full((len(images),), -1)
    if labelled and (strange := int((labels < 0).sum())):
        print(
            f"{strange} of {len(labels)} images of {images} have none of the networks' classes; "
            "they keep their own names, and no label"
        )
    return Pair(networks, images.relabelled(labels, robust.classes), size, labelled)
