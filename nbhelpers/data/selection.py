"""Which images of a data set: drawn by the seed, paired with others, ranked by a component."""

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
    """The images that activate a component most and least, extremes first; (k,), or (m, k) for m
    components.
    """

    highest: Tensor  # indices into the data set
    lowest: Tensor
    highest_values: Tensor  # activations of these images
    lowest_values: Tensor


def random_indices(source: Source, n: int, *, seed: int = 0) -> list[int]:
    """`n` different indices of `source`, drawn with `seed`: a choice of images that nobody has
    picked.
    """
    total, n = count_images(source), whole(n, "n")
    if not 1 <= n <= total:
        raise ValueError(f"n: got {n}, wanted 1 to {total}")
    return torch.randperm(total, generator=seeded(seed))[:n].tolist()


def random_partners(labels: Labels | Indices, *, seed: int = 0) -> Tensor:
    """For each image another one of a different class, drawn at random, (n,) indices: the pairs of
    the baseline.

    Args:
        labels: (n,) class indices; an unknown one (-1) differs from every other image's.
        seed: random generator.

    Raises:
        ValueError: a single image, or all are of one class.
    """
    labels, generator = indices(labels, "labels").cpu(), seeded(seed)
    labels = torch.where(labels < 0, -1 - torch.arange(len(labels)), labels)
    if len(labels.unique()) < 2:
        raise ValueError(
            f"random_partners: got {len(labels)} images of one class, wanted images of at least "
            "two classes; raise n_images"
        )
    # A few rows of the table of all pairs at a time: the whole of it would take gigabytes.
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
    """Rank a data set by one component, or by several in one pass. Memory grows with k, not with
    the data set.

    Args:
        model: whose representation.
        images: a data set, opened or by name or path, else as in `represent`. One that was opened
            without a size is scaled to the network's.
        batch_size, positions: as in `represent`.
        component: index into the representation, or (m,) of them.
        k: how many of the highest, and of the lowest.

    Raises:
        TypeError, ValueError: no whole number, none, `k` is not positive, or an activation is not
            finite.
        IndexError: a component is outside the representation.

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
