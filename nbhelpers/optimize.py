"""The one loop: minimise an objective of f(images) over images, by projected gradient descent."""

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
    """One iterate: images with *their own* losses, on the device; reading a value waits for it."""

    index: int  # 0 is the start
    total: int  # steps asked for
    images: Images
    losses: PerImage


@dataclass(frozen=True)
class Result:
    """What `minimize` returns."""

    images: Images  # one per start image, the best or the last iterate
    losses: Tensor  # (iterates, n): every iterate's loss; the start comes first
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
        # The centre lies in [0, 1], so clamping afterwards cannot leave the ball again.
        return (center + offset * (radius / _length(offset)).clamp(max=1)).clamp(0, 1)

    return project


def linf_ball(center: Images, radius: float) -> Projection:
    """As `l2_ball`, but each pixel may differ from its centre's by `radius`."""
    radius = _checked(radius)
    return lambda images: torch.clamp(images, center - radius, center + radius).clamp(0, 1)


def within(mask: Tensor, start: Images, *, inside: Projection = box) -> Projection:
    """Keep each pixel within `mask` of the start's, whatever `inside` does.

    At 0 it stays as it is, bit for bit; at 1 it may go anywhere; between, that far.

    Args:
        mask: (h, w), or (n, 1, h, w) for one per image; 0 to 1, or boolean.
        start: (n, c, h, w), pixels in [0, 1].
        inside: projection of what may change: `box`, `l2_ball(start, radius)`.

    Raises:
        ValueError: a mask of another size, of values outside [0, 1], or without any above 0.
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
    """The steepest direction in L2: each image's gradient at unit length (zero stays zero)."""
    return gradient / _length(gradient)


def relative_diagonal(shape: Sequence[int]) -> float:
    """The L2 diagonal of an image (…, c, h, w), in units of a 3×32×32 image's."""
    return math.sqrt(math.prod(shape[-3:]) / 3072)


def first_step(length: float, full: int, *, steps: int, shape: Sequence[int]) -> float:
    """Length of the first of `steps` steps, where `length` suits `full` steps on 3×32×32 images.

    Fewer steps are longer, at most twice: more may overshoot (measured, see docs/speed.md).
    """
    return length * min(max(full / steps, 1), 2) * relative_diagonal(shape)


@dataclass(frozen=True)
class Solver:
    """How the loop steps, what it keeps and when it stops. Checked when it is made.

    Args:
        step_size: L2 length of one image's first step, in pixel units. None: for 3×32×32 pixels
            0.2 from 200 steps on, up to 0.4 for fewer; it grows with the image's diagonal.
        momentum: weight of the past steps, 0 (none) to below 1.
        schedule: "cosine" lets the step fall to zero, "constant" keeps it.
        direction: turns a gradient into a step of unit length; `torch.sign` for L∞.
        keep: "best" for each image's lowest loss, "last" for the last iterate.
        stop_below: loss below which an image stops (looked at every ten steps); None for never.
        interrupt: on Ctrl-C "raise" KeyboardInterrupt, or "keep" the result so far.
        score_last: False spares the pass that scores the last iterate, whose losses are NaN.

    Raises:
        ValueError: what was given, what is allowed.
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
        # torch takes no NumPy scalar as a factor.
        vars(self).update(step_size=size and float(size), momentum=float(self.momentum))

    def rates(self, steps: int, shape: Sequence[int]) -> list[float]:
        """The length of each of `steps` steps on images of `shape` (…, c, h, w), pixel units."""
        first = self.step_size or first_step(0.2, 200, steps=steps, shape=shape)
        falling = [first * 0.5 * (1 + math.cos(math.pi * i / steps)) for i in range(steps)]
        return falling if self.schedule == "cosine" else [first] * steps


# The loop of Engstrom et al., arXiv:1906.00945; inversion takes 10,000 steps of it, features 200.
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
    """Minimise `objective(f(images))` from `start`; yield every iterate, the start included.

    One forward and one backward pass per step; a batch of n images equals n runs of one.

    Args:
        f: what the objective looks at: `model.representation`, or the model itself for logits.
        objective: a loss per image, see `nbhelpers.objectives`.
        start: (n, c, h, w), pixels in [0, 1]; left as it is.
        steps: gradient steps; `steps + 1` iterates are yielded.
        solver: how it steps; None for `Solver()`.
        project: onto the feasible images after each step: `box`, `l2_ball(...)`.
        batch_size: images per pass; None for what suits the memory. It leaves results the same.

    Raises:
        TypeError, ValueError: what was given, what is allowed.

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
        # Steps are lost in half precision.
        images = images if images.dtype == torch.float64 else images.float()
        velocity = torch.zeros_like(images)
        losses = images.new_zeros(len(images))
        active = torch.arange(len(images), device=images.device)  # rows that still move
        passes = Passes(size or fitting(f, images))

        def evaluate(*, backward: bool) -> tuple[PerImage, Images]:  # gradients only of active rows
            fresh, slope = losses_and_gradients(f, objective, images, active, passes, backward)
            return _put(losses, active, fresh), _put(images, active, slope)

        for index, rate in enumerate(solver.rates(steps, start.shape)):
            losses, gradient = evaluate(backward=True)
            yield Step(index, steps, images, losses)
            # Looking at a loss waits for the device, so seldom.
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
    """Run `descend` to its end and keep, per image, the best or the last iterate.

    Args:
        callback: called with every `Step`; returning True stops, and the result so far is returned.
        f, objective, start, and all others: as in `descend`.

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
        for step in tracked(iterates, total=steps, initial=-1, unit="step"):  # the start is no step
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
    """`full` with some rows replaced, as a new tensor where they are not all."""
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
