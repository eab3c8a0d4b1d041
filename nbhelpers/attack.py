"""Projected gradient descent (PGD): in training, in evaluation, and on the representation."""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor

from nbhelpers.objectives import leave, margin, misclassify
from nbhelpers.optimize import Solver, descend, l2_ball, l2_direction, linf_ball, minimize
from nbhelpers.types import Classifier, Images, Indices, PerImage, Projection, indices, seeded

Norm = Literal["l2", "linf"]


def perturb(
    f: Callable[[Images], Tensor],
    images: Images,
    labels: Indices,
    *,
    eps: float,
    norm: Norm = "l2",
    steps: int = 2,
    generator: torch.Generator | None = None,
) -> Images:
    """Adversarial images within `eps`, the inner maximisation of robust training.

    Args:
        f: images → logits (n, classes).
        images: (n, c, h, w), pixels in [0, 1].
        labels: (n,) class indices.
        eps: radius of the ball, pixel units.
        norm: "l2" or "linf".
        steps: gradient steps of size 2.5·eps / steps.
        generator: draws the start, on the ball's surface (L2) or inside it (L∞); images' device.

    Raises:
        ValueError: unknown norm; eps or steps not positive.

    Source: PGD of Madry et al., arXiv:1706.06083.
    """
    solver, project = _pgd(images, eps, steps, norm)
    noise = torch.empty_like(images)
    if norm == "l2":
        noise = l2_direction(noise.normal_(generator=generator)) * eps
    else:
        noise = noise.uniform_(-eps, eps, generator=generator)
    start = project(images + noise)
    # Training needs no loss of the last iterate, which saves a forward pass.
    solver, loss = dataclasses.replace(solver, score_last=False), misclassify(labels)
    *_, last = descend(
        f, loss, start, steps=steps, solver=solver, project=project, batch_size=len(images)
    )
    return last.images


def fooled(
    model: Classifier,
    images: Images,
    labels: Indices,
    eps: float,
    *,
    steps: int = 20,
    restarts: int = 1,
    seed: int = 0,
) -> Tensor:
    """Which images PGD misclassifies within `eps` (L2, pixel units), (n,) of bool.

    Each restart draws a random start in the ball for the images not yet fooled. Restarts alternate
    between cross-entropy and margin, because the cross-entropy of a confident image is flat.

    Raises:
        ValueError: eps or steps not positive.

    Source: Madry et al., arXiv:1706.06083; step size 2.5·eps / steps as in published evaluations.
    """
    generator = seeded(seed)
    labels = indices(labels, "labels").to(images.device)
    known = _wrong(model, images, labels)  # already misclassified
    for restart in range(restarts):
        rows = (~known).nonzero()[:, 0]
        if not len(rows):
            break
        truth, center = labels[rows], images[rows]
        # Above this cross-entropy the label's probability is below 1 / classes: misclassified.
        even = -math.log(len(model.classes))
        sure, objective = (0.0, margin(truth)) if restart % 2 else (even, misclassify(truth))
        start = _inside(center, eps, generator)
        solver, project = _pgd(center, eps, steps)
        solver = dataclasses.replace(solver, stop_below=sure)
        found = minimize(model, objective, start, steps=steps, solver=solver, project=project)
        known[rows] = _wrong(model, found.images, truth)
    return known


def sensitivity(
    model: Classifier, images: Images, eps: float, *, steps: int = 20, seed: int = 0
) -> PerImage:
    """The largest ‖R(x) − R(x′)‖ found within `eps` of each image, (n,).

    Source: the left side of equation (1) of Engstrom et al., arXiv:1906.00945, by gradient ascent.
    """
    with torch.no_grad():
        objective = leave(model.representation(images))
    true_relu = functools.partial(model.representation, fake_relu=False)
    start = _inside(images, eps, seeded(seed))
    solver, project = _pgd(images, eps, steps)
    found = minimize(true_relu, objective, start, steps=steps, solver=solver, project=project)
    return -found.loss


def _pgd(center: Images, eps: float, steps: int, norm: Norm = "l2") -> tuple[Solver, Projection]:
    """The solver and projection that turn `descend` into PGD."""
    if norm not in ("l2", "linf"):
        raise ValueError(f"norm: got {norm!r}, wanted 'l2' or 'linf'")
    if not (eps > 0 and math.isfinite(eps)) or steps < 1:
        raise ValueError(f"got eps={eps} and steps={steps}, wanted positive numbers")
    ball, direction = (l2_ball, l2_direction) if norm == "l2" else (linf_ball, torch.sign)
    steady = Solver(momentum=0, schedule="constant", direction=direction)
    return dataclasses.replace(steady, step_size=2.5 * eps / steps), ball(center, eps)


def _inside(center: Images, eps: float, generator: torch.Generator) -> Images:
    """A uniform sample of each image's L2 ball, drawn on the CPU, clamped to [0, 1]."""
    options: Any = {"generator": generator, "dtype": torch.float32, "device": "cpu"}
    offset = torch.randn(center.shape, **options)
    length = torch.rand(len(center), 1, 1, 1, **options) ** (1 / center[0].numel())
    offset *= eps * length / torch.linalg.vector_norm(offset, dim=(1, 2, 3), keepdim=True)
    return (center + offset.to(center.device)).clamp(0, 1)


@torch.no_grad()
def _wrong(model: Classifier, images: Images, labels: Tensor) -> Tensor:
    return model(images).argmax(1) != labels
