"""Projected gradient descent over images, on an objective of f(images)."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from nbhelpers.passes import Passes, fitting, losses_and_gradients, tracked
from nbhelpers.types import Features, Images, Objective, PerImage, Projection, check_images, whole


@dataclass(frozen=True)
class Step:
    """One iterate: images and *their own* losses, on the device; reading a value synchronises."""

    index: int  # 0 is the start
    total: int  # `steps`
    images: Images
    losses: PerImage


@dataclass(frozen=True)
class Result:
    """What `minimize` returns."""

    images: Images  # one per start image, the best or the last iterate
    losses: Tensor  # (iterates, n), the start first
    loss: PerImage  # of `images`
    stopped: str  # "steps", "tolerance" (all below `stop_below`), "callback" or "interrupt"


def box(images: Images) -> Images:
    """Clamp pixels to [0, 1]."""
    return images.clamp(0, 1)


def l2_ball(center: Images, radius: float) -> Projection:
    """Project each image onto the L2 ball around its centre, then onto [0, 1].

    Args:
        center: (n, c, h, w) ball centres, pixels in [0, 1].
        radius: L2 length over a whole image, in pixel units (a CIFAR-10 image spans 55.4).

    Raises:
        ValueError: `radius` is negative or not finite.

    Source: the projection of PGD, Madry et al., arXiv:1706.06083.
    """
    radius = _checked(radius)

    def project(images: Images) -> Images:
        offset = images - center
        # The centre is in [0, 1], so clamping cannot leave the ball.
        return (center + offset * (radius / _length(offset)).clamp(max=1)).clamp(0, 1)

    return project


def linf_ball(center: Images, radius: float) -> Projection:
    """As `l2_ball`, for the L∞ ball: each pixel within `radius` of the centre's."""
    radius = _checked(radius)
    return lambda images: torch.clamp(images, center - radius, center + radius).clamp(0, 1)


def within(mask: Tensor, start: Images, *, inside: Projection = box) -> Projection:
    """Apply `inside`, then keep each pixel within `mask` of the start's; 0 fixes it exactly.

    Args:
        mask: (h, w) or (n, 1, h, w), boolean or in [0, 1], pixel units.
        start: (n, c, h, w), pixels in [0, 1].
        inside: another projection: `box`, `l2_ball(start, radius)`.

    Raises:
        ValueError: a mask of another size, outside [0, 1], or zero everywhere.
    """
    given, sides = tuple(mask.shape), tuple(start.shape[2:])
    if given not in (sides, (1, 1, *sides), (len(start), 1, *sides)):
        raise ValueError(f"mask: got shape {given}, wanted {sides}, or one per image, (n, 1, h, w)")
    if not (mask.min() >= 0 and mask.max() <= 1):  # NaN too
        span = f"{mask.min():.3g} to {mask.max():.3g}"
        raise ValueError(f"mask: got {span}, wanted 0 (stays) to 1 (may change)")
    if not mask.reshape(-1, sides[0] * sides[1]).any(1).all():
        raise ValueError("mask: it is empty, wanted at least one pixel above 0 for each image")
    low, high = start - mask.to(start), start + mask.to(start)
    return lambda images: inside(images.clamp(low, high)).clamp(low, high)


def l2_direction(gradient: Images) -> Images:
    """Each image's gradient at unit L2 length; zero stays zero."""
    return gradient / _length(gradient)


def relative_diagonal(shape: Sequence[int]) -> float:
    """The L2 diagonal of an image (…, c, h, w), in units of a 3×32×32 image's."""
    return math.sqrt(math.prod(shape[-3:]) / 3072)


def first_step(length: float, full: int, *, steps: int, shape: Sequence[int]) -> float:
    """Size of the first step, scaled from `length` for `full` steps on 3×32×32 images.

    Fewer steps are longer, at most twice: more overshoots (measured, see docs/speed.md).
    """
    return length * min(max(full / steps, 1), 2) * relative_diagonal(shape)


@dataclass(frozen=True)
class Solver:
    """Step rule, selection and stopping of the loop.

    Args:
        step_size: L2 length of an image's first step, pixel units. None: for 3×32×32 pixels 0.2
            from 200 steps on, up to 0.4 for fewer; proportional to the image's diagonal.
        momentum: weight of past steps, in [0, 1).
        schedule: "cosine" (decays to zero) or "constant".
        direction: gradient → step of unit length; `torch.sign` for L∞.
        keep: "best" for each image's lowest loss, "last" for the last iterate.
        stop_below: loss below which an image stops (checked every ten steps); None for never.
        interrupt: on Ctrl-C "raise" KeyboardInterrupt, or "keep" the result so far.
        score_last: False skips the last iterate's forward pass; its losses are NaN.

    Raises:
        ValueError: a value outside these.
    """

    step_size: float | None = None
    momentum: float = 0.8
    schedule: Literal["cosine", "constant"] = "cosine"
    direction: Callable[[Images], Images] = l2_direction
    keep: Literal["best", "last"] = "best"
    stop_below: float | None = None
    interrupt: Literal["raise", "keep"] = "raise"
    score_last: bool = True

    def __post_init__(self) -> None:
        words = {"schedule": ("cosine", "constant"), "keep": ("best", "last")}
        for name, allowed in {**words, "interrupt": ("raise", "keep")}.items():
            if getattr(self, name) not in allowed:
                wanted = " or ".join(map(repr, allowed))
                raise ValueError(f"{name}: got {getattr(self, name)!r}, wanted {wanted}")
        size = self.step_size
        if size is not None and not (size > 0 and math.isfinite(size)):
            raise ValueError(f"step_size: got {size}, wanted a positive length in pixel units")
        if not 0 <= self.momentum < 1:
            raise ValueError(f"momentum: got {self.momentum}, wanted 0 to below 1")
        if self.stop_below is not None and math.isnan(self.stop_below):
            raise ValueError("stop_below: got NaN, wanted a loss, or None for never")
        # torch accepts no NumPy scalar as a factor.
        vars(self).update(step_size=size and float(size), momentum=float(self.momentum))

    def rates(self, steps: int, shape: Sequence[int]) -> list[float]:
        """Step sizes on images of `shape` (…, c, h, w), pixel units."""
        first = self.step_size or first_step(0.2, 200, steps=steps, shape=shape)
        falling = [first * 0.5 * (1 + math.cos(math.pi * i / steps)) for i in range(steps)]
        return falling if self.schedule == "cosine" else [first] * steps


# Engstrom et al., arXiv:1906.00945; 10,000 steps for inversion, 200 for features.
PUBLISHED = Solver(step_size=1.0, momentum=0.0, schedule="constant", keep="last")


def descend(
    f: Callable[[Images], Features],
    objective: Objective,
    start: Images,
    *,
    steps: int = 200,
    solver: Solver | None = None,
    project: Projection = box,
    batch_size: int | None = None,
) -> Iterator[Step]:
    """Minimise `objective(f(images))`; iterate over the start and every step.

    One forward and one backward pass per step; a batch of n images equals n runs of one.

    Args:
        f: images → features: `model.representation`, or the model itself for logits.
        objective: features → a loss per image, see `nbhelpers.objectives`.
        start: (n, c, h, w), pixels in [0, 1]; not modified.
        steps: gradient steps; gives `steps + 1` iterates.
        solver: step rule; None for `Solver()`.
        project: projection after each step: `box`, `l2_ball(...)`.
        batch_size: images per pass, without effect on results; None chooses by memory.

    Raises:
        TypeError, ValueError: an invalid argument.

    Source: `PUBLISHED` is the published loop of Engstrom et al., arXiv:1906.00945.
    """
    solver = Solver() if solver is None else solver
    if not isinstance(solver, Solver):
        raise TypeError(f"solver: got {solver!r:.80}, wanted nb.Solver(step_size=…, momentum=…, …)")
    check_images(start, "start")
    steps = whole(steps, "steps", least=1)
    size = None if batch_size is None else whole(batch_size, "batch_size", least=1)

    @torch.inference_mode(False)  # in which there would be no gradients
    def iterates() -> Iterator[Step]:
        images = start.detach().clone()
        # Half precision rounds small steps away.
        images = images if images.dtype == torch.float64 else images.float()
        velocity = torch.zeros_like(images)
        losses = images.new_zeros(len(images))
        active = torch.arange(len(images), device=images.device)  # images not yet stopped
        passes = Passes(size or fitting(f, images))

        def evaluate(*, backward: bool) -> tuple[PerImage, Images]:  # gradients only of active rows
            fresh, slope = losses_and_gradients(f, objective, images, active, passes, backward)
            return _put(losses, active, fresh), _put(images, active, slope)

        for index, rate in enumerate(solver.rates(steps, start.shape)):
            losses, gradient = evaluate(backward=True)
            yield Step(index, steps, images, losses)
            # Reading a loss synchronises the device, so seldom.
            if solver.stop_below is not None and index % 10 == 0:
                active = (~(losses < solver.stop_below)).nonzero()[:, 0]
                if len(active) == 0:
                    return
            velocity = torch.add(solver.direction(gradient), velocity, alpha=solver.momentum)
            moved = project(torch.sub(images, velocity, alpha=rate))
            images = _put(images, active, moved if len(active) == len(images) else moved[active])
        unscored = torch.full_like(losses, math.nan)
        losses = evaluate(backward=False)[0] if solver.score_last else unscored
        yield Step(steps, steps, images, losses)

    return iterates()


def minimize(
    f: Callable[[Images], Features],
    objective: Objective,
    start: Images,
    *,
    steps: int = 200,
    solver: Solver | None = None,
    project: Projection = box,
    callback: Callable[[Step], bool | None] | None = None,
    batch_size: int | None = None,
) -> Result:
    """Run `descend`; returns each image's best or last iterate.

    Args:
        callback: called with every `Step`; True stops with the result so far.
        f, objective, start and the others: as in `descend`.

    Raises:
        TypeError, ValueError: as in `descend`.
        KeyboardInterrupt: Ctrl-C, unless the solver's `interrupt` is "keep".
    """
    iterates = descend(
        f, objective, start, steps=steps, solver=solver, project=project, batch_size=batch_size
    )
    solver, steps = solver or Solver(), whole(steps, "steps")
    images, loss, history, stopped = start, None, [], None
    try:
        for step in tracked(iterates, total=steps, initial=-1, unit="step"):  # index 0 is the start
            history.append(step.losses)
            if loss is None or solver.keep == "last":
                images, loss = step.images, step.losses
            else:
                better = step.losses < loss
                images = torch.where(better[:, None, None, None], step.images, images)
                loss = torch.where(better, step.losses, loss)
            if callback is not None and callback(step):
                stopped = "callback"
                break
    except KeyboardInterrupt:
        if loss is None or solver.interrupt == "raise":
            raise
        stopped = "interrupt"
    assert loss is not None
    stopped = stopped or ("steps" if len(history) == steps + 1 else "tolerance")
    return Result(images, torch.stack(history), loss, stopped)


def _put(full: Tensor, rows: Tensor, values: Tensor) -> Tensor:
    """`full` with some rows replaced; a new tensor unless all are."""
    return values if len(rows) == len(full) else full.index_copy(0, rows, values.to(full.dtype))


def _length(images: Images) -> Tensor:
    """L2 length per image, (n, 1, 1, 1), never zero."""
    return torch.linalg.vector_norm(images, dim=(1, 2, 3), keepdim=True).clamp_min(1e-12)


def _checked(radius: float) -> float:
    several = getattr(radius, "ndim", hasattr(radius, "__len__"))  # a scalar array has a length too
    number = math.nan if several else float(radius)
    if not (number >= 0 and math.isfinite(number)):
        raise ValueError(f"radius: got {radius}, wanted one finite length ≥ 0 for all images")
    return number
