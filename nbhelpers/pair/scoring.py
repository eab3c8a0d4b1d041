"""Accuracy and robustness of a classifier."""

import math
from collections.abc import Sequence
from typing import Any

import numpy
import torch
from torch import Tensor

from nbhelpers.attack import fooled, sensitivity
from nbhelpers.bars import progress
from nbhelpers.data.images import Source
from nbhelpers.networks.model import Model
from nbhelpers.pair.labels import Given, labelled
from nbhelpers.types import Features, Images

Radii = float | Sequence[float] | numpy.ndarray | Tensor


def accuracy(
    model: Model, images: Images | Source, labels: Given | None = None, *, batch_size: int = 128
) -> float:
    """Accuracy in percent.

    Args:
        model: the classifier.
        images: (n, c, h, w); or a labelled data set, opened or by name or path, which is reduced
            to the network's classes.
        labels: for a tensor, (n,): class indices or names.
        batch_size: images at a time.

    Raises:
        TypeError, ValueError: labels not integers, not one per image, unknown (−1) or outside the
            classes; a network with one output; logits that are not finite.
    """
    images, truth = labelled(model, images, labels)
    parts = zip(images.split(batch_size), truth.split(batch_size), strict=True)
    with torch.no_grad():
        right = [
            (_finite(model, "logits", model(x.to(model.device))).argmax(1).cpu() == y.cpu()).sum()
            for x, y in parts
        ]
    return 100 * int(sum(right)) / len(truth)


def evaluate(
    model: Model,
    images: Images | Source,
    labels: Given | None = None,
    *,
    eps: Radii = (0.25, 0.5, 1.0),
    steps: int = 20,
    restarts: int = 1,
    seed: int = 0,
    batch_size: int = 128,
) -> dict[str, Any]:
    """Clean accuracy, and accuracy under attack and sensitivity at each radius; JSON-ready.

    Args:
        model: the classifier.
        images, labels: as in `accuracy`, on any device.
        eps: L2 radii in pixel units, or one.
        steps, restarts, seed: of the attack.
        batch_size: images at a time.

    Returns:
        Accuracies in percent. Sensitivity: the median over images of the largest ‖R(x) − R(x′)‖ in
        the ball, divided by the median ‖R(x) − R(y)‖ of consecutive images; None if that is zero.

    Raises:
        TypeError, ValueError: as in `accuracy`; arguments that are not positive; representations
            that are not finite.
    """
    radii = _radii(eps)
    if not all(0 < radius < math.inf for radius in radii) or steps < 1 or restarts < 1:
        raise ValueError(
            f"got eps={radii}, steps={steps}, restarts={restarts}, wanted positive numbers"
        )
    images, truth = labelled(model, images, labels)
    clean = accuracy(model, images, truth, batch_size=batch_size)
    parts = list(
        zip(
            images.to(model.device).split(batch_size),
            truth.to(model.device).split(batch_size),
            strict=True,
        )
    )
    with torch.no_grad():
        features = torch.cat([model.representation(x) for x, _ in parts])
    _finite(model, "representations", features)
    scale = float(torch.linalg.vector_norm(features - features.roll(1, 0), dim=1).median())
    robust: dict[str, float] = {}
    moved: dict[str, float | None] = {}
    for radius in radii:
        bar = progress(parts, desc=f"eps {radius:g}", unit="batch")
        hits, far = [], []
        for i, (x, y) in enumerate(bar):
            hits.append(fooled(model, x, y, radius, steps=steps, restarts=restarts, seed=seed + i))
            far.append(sensitivity(model, x, radius, steps=steps, seed=seed + i))
        reached = _finite(model, "representations under attack", torch.cat(far)[:, None])
        robust[str(radius)] = 100 * int((~torch.cat(hits)).sum()) / len(truth)
        moved[str(radius)] = round(float(reached.median()) / scale, 4) if scale > 0 else None
    starts = (
        f"{restarts} random starts, cross-entropy and margin" if restarts > 1 else "1 random start"
    )
    about = {"n": len(truth), "attack": f"{steps}-step L2 PGD, {starts}"}
    return {"clean": clean, "l2": robust, "sensitivity": moved, **about}


def _radii(eps: Radii) -> list[float]:
    given = list(eps) if isinstance(eps, list | tuple) else numpy.atleast_1d(eps).tolist()
    try:
        # rounded, so that a float32 radius prints as given
        return [r if type(r) in (int, float) else float(f"{float(r):.6g}") for r in given]
    except (TypeError, ValueError):
        raise TypeError(f"eps: got {eps!r}, wanted a radius, or several") from None


def _finite(model: Model, what: str, values: Features) -> Features:
    """`values`, (n, d); raises ValueError if they are not finite."""
    bad = ~values.isfinite().all(1)
    if bool(bad.any()):
        kind = "NaN" if bool(values.isnan().any()) else "infinite"
        raise ValueError(
            f"{model.name}: its {what} are {kind} for {int(bad.sum())} of {len(values)} images; "
            "look at its weights and its normalisation"
        )
    return values
