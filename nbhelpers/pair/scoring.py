"""How good, and how robust, a classifier is."""

from collections.abc import Sequence
from typing import Any

import torch

from nbhelpers.attack import fooled, sensitivity
from nbhelpers.bars import progress
from nbhelpers.networks.model import Model
from nbhelpers.types import Images, Indices, Labels, indices


def accuracy(
    model: Model, images: Images, labels: Labels | Indices, *, batch_size: int = 128
) -> float:
    """Percentage of images that get their label.

    Raises:
        TypeError, ValueError: labels that are no whole numbers, not one per image, unknown (-1) or
            outside the model's classes.
    """
    labels = indices(labels, "labels")
    if (
        labels.shape != (len(images),)
        or int(labels.min()) < 0
        or int(labels.max()) >= len(model.classes)
    ):
        raise ValueError(
            f"labels: wanted 0 to {len(model.classes) - 1}, one per image; is it this model's data "
            "set?"
        )
    parts = zip(images.split(batch_size), labels.split(batch_size), strict=True)
    with torch.no_grad():
        right = [(model(x.to(model.device)).argmax(1).cpu() == y.cpu()).sum() for x, y in parts]
    return 100 * int(sum(right)) / len(labels)


def evaluate(
    model: Model,
    images: Images,
    labels: Labels | Indices,
    *,
    eps: Sequence[float] = (0.25, 0.5, 1.0),
    steps: int = 20,
    restarts: int = 1,
    seed: int = 0,
    batch_size: int = 128,
) -> dict[str, Any]:
    """Clean accuracy, and at each radius the accuracy under attack and the local sensitivity; JSON-
    ready.

    Args:
        model: the classifier.
        images, labels: (n, c, h, w) in [0, 1] and (n,), on any device.
        eps: L2 radii in pixel units.
        steps, restarts, seed: of the attack.
        batch_size: images at a time.

    Returns:
        Accuracies in percent; sensitivity as the median over images of the largest ‖R(x) − R(x′)‖,
        in units of the median ‖R(x) − R(y)‖ between images that stand next to each other.
    """
    if not all(radius > 0 for radius in eps) or steps < 1 or restarts < 1:
        raise ValueError(
            f"got eps={list(eps)}, steps={steps}, restarts={restarts}, wanted positive numbers"
        )
    labels = indices(labels, "labels")
    clean = accuracy(model, images, labels, batch_size=batch_size)
    parts = list(
        zip(
            images.to(model.device).split(batch_size),
            labels.to(model.device).split(batch_size),
            strict=True,
        )
    )
    with torch.no_grad():
        features = torch.cat([model.representation(x) for x, _ in parts])
    scale = float(torch.linalg.vector_norm(features - features.roll(1, 0), dim=1).median())
    robust: dict[str, float] = {}
    moved: dict[str, float] = {}
    for radius in eps:
        bar = progress(parts, desc=f"eps {radius:g}", unit="batch")
        hits, far = [], []
        for i, (x, y) in enumerate(bar):
            hits.append(fooled(model, x, y, radius, steps=steps, restarts=restarts, seed=seed + i))
            far.append(sensitivity(model, x, radius, steps=steps, seed=seed + i))
        robust[str(radius)] = 100 * int((~torch.cat(hits)).sum()) / len(labels)
        moved[str(radius)] = round(float(torch.cat(far).median()) / scale, 4)
    starts = (
        f"{restarts} random starts, cross-entropy and margin" if restarts > 1 else "1 random start"
    )
    about = {"n": len(labels), "attack": f"{steps}-step L2 PGD, {starts}"}
    return {"clean": clean, "l2": robust, "sensitivity": moved, **about}
