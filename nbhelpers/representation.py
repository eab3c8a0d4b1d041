"""What to do with representations: gather them over a data set, rank images, attribute, compare."""

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from nbhelpers.model import Model
from nbhelpers.passes import Batches, stream
from nbhelpers.types import Features, Images, Indices, Labels, PerImage, Size, indices, seeded, two_sides, whole


@dataclass(frozen=True)
class TopImages:
    """The images that activate a component most and least, extremes first; (k,), or (m, k) for m components."""

    highest: Tensor  # indices into the data set
    lowest: Tensor
    highest_values: Tensor  # activations of these images
    lowest_values: Tensor


def represent(
    model: Model, images: Images | Batches, *, batch_size: int | None = None, positions: bool = False
) -> Features:
    """Representations of many images, (n, components), on the CPU.

    Args:
        model: whose representation.
        positions: as in `Model.representation`.
        images: (n, 3, h, w) in [0, 1] on any device, or an iterable of such batches (or of images and labels).
        batch_size: at most so many images per forward pass; None for what suits the device. Where a GPU's memory runs
            out nevertheless, it is halved. The result does not depend on it.
    """
    return torch.cat([features.cpu() for features in stream(_of(model, positions), model.device, images, batch_size)])


def top_images(
    model: Model,
    images: Images | Batches,
    component: Indices,
    k: int = 5,
    *,
    batch_size: int | None = None,
    positions: bool = False,
) -> TopImages:
    """Rank a data set by one component, or by several in one pass. Memory grows with k, not with the data set.

    Args:
        model: whose representation.
        images, batch_size, positions: as in `represent`.
        component: index into the representation, or (m,) of them.
        k: how many of the highest, and of the lowest.

    Raises:
        TypeError, ValueError: no whole number, none, or `k` is not positive.
        IndexError: a component is outside the representation.

    Source: the K most and least activating images of Engstrom et al., arXiv:1906.00945, §4.2.
    """
    count, k = math.prod(model.positions) if positions else model.components, whole(k, "k", least=1)
    wanted = indices(component, "component", below=count)
    high, low, seen = None, None, 0
    for features in stream(_of(model, positions), model.device, images, batch_size):
        values = features[:, wanted.reshape(-1).to(features.device)].cpu()
        places = torch.arange(seen, seen + len(values))[:, None].expand_as(values)
        seen += len(values)
        high = _best(high, (values, places), k, descending=True)
        low = _best(low, (values, places), k, descending=False)
    if high is None or low is None:
        raise ValueError("images: got an empty data set, wanted at least one batch")
    ranked = [part.T if wanted.ndim else part[:, 0] for part in (*high, *low)]
    return TopImages(highest=ranked[1], lowest=ranked[3], highest_values=ranked[0], lowest_values=ranked[2])


def contributions(model: Model, images: Images, classes: Labels | Indices, *, positions: bool = False) -> Features:
    """How much each component adds to a class's logit, R_i(x) · W[c, i], (n, components).

    With positions: how much each component adds at each position p, R_{i,p}(x) · W[c, i] / positions, (n, channels ·
    height · width), see `Model.positions`; summed over positions it is the former.

    Args:
        model: the classifier.
        images: (n, 3, h, w), pixels in [0, 1].
        classes: (n,) class indices, for instance the wrong predictions.

    Raises:
        IndexError: a class is outside the classifier's.
        ValueError: with positions, a network whose representation is not the mean over them.

    Source: the ranking of the misclassification demo of Engstrom et al., arXiv:1906.00945.
    """
    classes = indices(classes, "classes", below=len(model.classes)).to(model.device)
    with torch.no_grad():
        weights = model.head.weight[classes].reshape(-1, model.components)
        if not positions:
            return model.representation(images) * weights
        if not model.averaged:
            raise ValueError(f"positions: {model.name} does more than average over them before its last layer")
        maps = model.representation(images, positions=True).unflatten(1, model.positions)
        return (maps * weights[:, :, None, None] / math.prod(model.positions[1:])).flatten(1)


def _of(model: Model, positions: bool) -> Callable[[Images], Features]:
    return functools.partial(model.representation, positions=True) if positions else model.representation


def predict(model: Model, images: Images | Batches, *, batch_size: int | None = None) -> Labels:
    """Predicted class indices, (n,), on the CPU; arguments as in `represent`."""
    with torch.no_grad():
        return torch.cat([logits.argmax(1).cpu() for logits in stream(model, model.device, images, batch_size)])


def interpolate(first: Tensor, second: Tensor, amounts: Sequence[float] | Tensor) -> Tensor:
    """Linear mixes (1 − λ)·first + λ·second of images or representations.

    Args:
        first, second: a single item (…) each, of one shape.
        amounts: the λ, (m,), 0 for `first` and 1 for `second`.

    Returns:
        (m, …), one mix per λ.

    Raises:
        ValueError: the shapes differ.
    """
    if first.shape != second.shape:
        raise ValueError(f"interpolate: got shapes {tuple(first.shape)} and {tuple(second.shape)}, wanted the same")
    amounts = torch.as_tensor(amounts, dtype=first.dtype, device=first.device)
    return torch.lerp(first[None], second[None], amounts.reshape(-1, *[1] * first.ndim))


def noise(n: int, *, size: Size = 32, channels: int = 3, seed: int = 0) -> Images:
    """Start images of dim grey noise, randn/20 + 0.5 clamped to [0, 1], (n, channels, height, width), on the CPU.

    Args:
        n: how many.
        size: pixels, the side of a square or (height, width).
        channels: `model.channels`.
        seed: random generator.

    Source: the noise start of the reference code of Engstrom et al., arXiv:1906.00945.
    """
    shape = (whole(n, "n", least=1), whole(channels, "channels", least=1), *two_sides(size))
    drawn = torch.randn(shape, generator=seeded(seed), dtype=torch.float32, device="cpu")
    return (drawn / 20 + 0.5).clamp(0, 1)


def random_partners(labels: Labels | Indices, *, seed: int = 0) -> Tensor:
    """For each image another one of a different class, drawn at random, (n,) indices: the pairs of the baseline.

    Args:
        labels: (n,) class indices; give `torch.arange(n)` where any other image will do.
        seed: random generator.

    Raises:
        ValueError: all labels are the same.
    """
    labels, generator = indices(labels, "labels").cpu(), seeded(seed)
    if len(labels.unique()) < 2:
        raise ValueError(f"random_partners: got {labels.unique().tolist()} as labels, wanted at least two classes")
    # A few rows of the table of all pairs at a time: the whole of it would take gigabytes.
    rows = labels.split(max(1, 2**22 // len(labels)))
    return torch.cat(
        [torch.multinomial((row[:, None] != labels).float(), 1, generator=generator)[:, 0] for row in rows]
    )


def distance(features: Features, target: Features) -> PerImage:
    """Normalised distance ‖f − t‖ / ‖t‖ of each row, (n,)."""
    return torch.linalg.vector_norm(features - target, dim=1) / torch.linalg.vector_norm(target, dim=1).clamp_min(1e-12)


def _best(
    kept: tuple[Tensor, Tensor] | None, new: tuple[Tensor, Tensor], k: int, *, descending: bool
) -> tuple[Tensor, Tensor]:
    values, indices = new if kept is None else (torch.cat(pair) for pair in zip(kept, new, strict=True))
    order = values.argsort(dim=0, descending=descending, stable=True)[:k]  # stable: ties go to the earlier image
    return values.gather(0, order), indices.gather(0, order)
