"""Select images: random samples, random pairs, extremes of a component."""

import math
import os
from dataclasses import dataclass

import torch
from torch import Tensor

from nbhelpers.data.images import Source, count_images, suited
from nbhelpers.data.sets import ImageSet
from nbhelpers.passes import Batches, stream
from nbhelpers.representation import representing
from nbhelpers.types import Classifier, Images, Indices, Labels, indices, seeded, whole


@dataclass(frozen=True)
class TopImages:
    """Images of highest and lowest activation, extremes first, (k,), or (m, k) for m components."""

    highest: Tensor  # indices into the data set
    lowest: Tensor
    highest_values: Tensor  # activations
    lowest_values: Tensor


def random_indices(source: Source, n: int, *, seed: int = 0) -> list[int]:
    """`n` distinct random indices of `source`: an unbiased selection of images."""
    total, n = count_images(source), whole(n, "n")
    if not 1 <= n <= total:
        raise ValueError(f"n: got {n}, wanted 1 to {total}")
    return torch.randperm(total, generator=seeded(seed))[:n].tolist()


def random_partners(labels: Labels | Indices, *, seed: int = 0) -> Tensor:
    """For each image a random one of another class, (n,) indices, for baselines of pairs.

    Args:
        labels: (n,) class indices; -1 (unknown) differs from every other image's.
        seed: random generator.

    Raises:
        ValueError: all images are of one class.
    """
    labels, generator = indices(labels, "labels").cpu(), seeded(seed)
    labels = torch.where(labels < 0, -1 - torch.arange(len(labels)), labels)
    if len(labels.unique()) < 2:
        raise ValueError(
            f"random_partners: got {len(labels)} images of one class, wanted images of at least "
            "two classes; raise n_images"
        )
    # In blocks of rows: the table of all pairs would take gigabytes.
    rows = labels.split(max(1, 2**22 // len(labels)))
    return torch.cat(
        [
            torch.multinomial((row[:, None] != labels).float(), 1, generator=generator)[:, 0]
            for row in rows
        ]
    )


def top_images(
    model: Classifier,
    images: Images | Batches | str | os.PathLike[str],
    component: Indices,
    k: int = 5,
    *,
    batch_size: int | None = None,
    positions: bool = False,
) -> TopImages:
    """Images of highest and lowest activation of components, in one pass; memory grows with k.

    Args:
        images: an `ImageSet`, name or path (resized to the network unless opened with a size), or
            as in `represent`.
        component: index into the representation, or (m,).
        k: number of highest, and of lowest.
        batch_size, positions: as in `represent`.

    Raises:
        TypeError, ValueError: not whole numbers, empty, `k` not positive, or activations not
            finite.
        IndexError: a component outside the representation.

    Source: the K most and least activating images of Engstrom et al., arXiv:1906.00945, §4.2.
    """
    count, k = math.prod(model.positions) if positions else model.components, whole(k, "k", least=1)
    wanted = indices(component, "component", below=count)
    if isinstance(images, str | os.PathLike | ImageSet):
        images = suited(images, model)
    high, low, seen = None, None, 0
    for features in stream(representing(model, positions), model.device, images, batch_size):
        values = features[:, wanted.reshape(-1).to(features.device)].cpu()
        if not bool(values.isfinite().all()):
            bad = (~values.isfinite()).any(1).nonzero()[:, 0] + seen
            raise ValueError(
                f"{model.name}: activations of image {int(bad[0])} and others are not finite; look "
                "at the network's weights"
            )
        places = torch.arange(seen, seen + len(values))[:, None].expand_as(values)
        seen += len(values)
        high = _best(high, (values, places), k, descending=True)
        low = _best(low, (values, places), k, descending=False)
    if high is None or low is None:
        raise ValueError("images: got an empty data set, wanted at least one batch")
    ranked = [part.T if wanted.ndim else part[:, 0] for part in (*high, *low)]
    return TopImages(
        highest=ranked[1], lowest=ranked[3], highest_values=ranked[0], lowest_values=ranked[2]
    )


def _best(
    kept: tuple[Tensor, Tensor] | None, new: tuple[Tensor, Tensor], k: int, *, descending: bool
) -> tuple[Tensor, Tensor]:
    values, indices = (
        new if kept is None else (torch.cat(pair) for pair in zip(kept, new, strict=True))
    )
    # stable: ties go to the earlier image
    order = values.argsort(dim=0, descending=descending, stable=True)[:k]
    return values.gather(0, order), indices.gather(0, order)
