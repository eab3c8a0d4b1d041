"""The two networks that a notebook compares, loaded, checked, and with images for both."""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from nbhelpers.data.images import load_images
from nbhelpers.data.selection import random_indices
from nbhelpers.networks.loading import load_model
from nbhelpers.networks.model import Model
from nbhelpers.optimize import relative_diagonal
from nbhelpers.pair.checks import check_imported, labelled_first, labels_for
from nbhelpers.representation import predict
from nbhelpers.types import Features, Images, Labels, two_sides


@dataclass(frozen=True)
class Pair:
    """What `load_pair` returns."""

    networks: dict[str, Model]  # "robust" and "standard"
    dataset: str | Path
    # pixels, of the images that suit both; (height, width) where they differ
    size: int | tuple[int, int]
    labelled: bool  # the labels of the data set, or some, are the networks' classes
    truth: Labels | None = None  # (n,), every image's, -1 where its class is none of theirs

    @property
    def representations(self) -> dict[str, Callable[[Images], Features]]:
        """Both networks' representations in both forms: "robust, averaged", "robust, with
        positions", and so on.
        """
        forms = {"averaged": False, "with positions": True}
        return {
            f"{name}, {form}": functools.partial(network.representation, positions=positions)
            for name, network in self.networks.items()
            for form, positions in forms.items()
        }

    def length(self, at_32: float) -> float:
        """An L2 length that is meant for 32-pixel images, for images of this size: it grows with
        their diagonal.
        """
        return at_32 * relative_diagonal((3, *two_sides(self.size)))

    def load(self, indices: Sequence[int]) -> tuple[Images, Labels]:
        """Images on the networks' device, (n, 3, h, w), and their labels, (n,), on the CPU.

        Where an image's class is not among the networks', its label is what the robust network
        sees.
        """
        robust = self.networks["robust"]
        images, _ = load_images(
            self.dataset, indices=indices, size=self.size, channels=robust.channels
        )
        images = images.to(robust.device)
        truth = torch.full((len(images),), -1) if self.truth is None else self.truth[list(indices)]
        return images, truth if (truth >= 0).all() else torch.where(
            truth < 0, predict(robust, images), truth
        )

    def draw(
        self, n: int, *, seed: int = 0, known: bool = False
    ) -> tuple[list[int], Images, Labels]:
        """`n` images that the seed picks: their indices, and what `load` gives.

        Args:
            n: at most, with `known`; else exactly.
            seed: random generator.
            known: only images whose class is among the networks'.
        """
        if not known or self.truth is None:
            picked = random_indices(self.dataset, n, seed=seed)
        else:
            picked = labelled_first(self.truth, n, seed=seed)
        return picked, *self.load(picked)


def load_pair(
    checkpoint: str | Path,
    baseline: str | Path,
    dataset: str | Path,
    *,
    device: str = "auto",
    precision: Literal["float32", "bfloat16", "auto"] = "float32",
) -> Pair:
    """Load a robust network and the standard one beside it, and check what does not ship here
    (`check_imported`).

    Args:
        checkpoint, baseline: as `load_model` takes them; trained for the same classes.
        dataset: images, by name or path.
        device, precision: as in `load_model`.

    Raises:
        ValueError: the networks differ in their classes, or one fails the check.
    """
    given = {"robust": checkpoint, "standard": baseline}
    networks = {
        key: load_model(name, device=device, precision=precision) for key, name in given.items()
    }
    size = next((network.image_size for network in networks.values() if network.image_size), 32)
    labelled = check_imported(networks, [str(name) for name in given.values()], dataset, size=size)
    truth = labels_for(networks["robust"], dataset) if labelled else None
    if truth is not None and (strange := int((truth < 0).sum())):
        print(
            f"{strange} of {len(truth)} images of {dataset} have none of the networks' classes; "
            "for a label stands what the robust network sees"
        )
    return Pair(networks, dataset, size, labelled, truth)
