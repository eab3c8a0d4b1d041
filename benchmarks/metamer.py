"""Inversion against a peer: `Metamer` of plenoptic 2.1.1 and `minimize`.

Both match the same layer (the last map, all positions) of the same network, in one batch, from the
same noise. plenoptic runs with its own defaults, and with the learning rate and schedule that are
best for it on other images. Its loss is a mean over the batch and its penalty a sum, so the
penalty's weight is divided by the batch size: then each image moves as it would alone. Its pixels
are clamped to [0, 1] before they are scored, since it only penalises values outside. Resumes after
the last complete run; times are measured at the end, the loops alternating.
"""

import sys
import types
import warnings
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

import nbhelpers as nb
from benchmarks import measure

N, TUNED_ON, SEED = 16, 4, 0  # images in the table; further ones, on which plenoptic is tuned
NETWORKS = {
    "cifar10-l2-0.5": ("cifar10-sample", 32),
    "cifar10-standard": ("cifar10-sample", 32),
    "tiny-l2-2.0": ("photographs", 64),
    "tiny-standard": ("photographs", 64),
}
OURS, DEFAULTS, TUNED = (50, 100, 200), (100, 200, 400, 1000), (100, 200, 400)
RATES, TUNING_STEPS = (0.01, 0.02, 0.05, 0.1, 0.2), 100  # 0.01 is its default
TIMED, ROUNDS = 10, 7  # steps over which seconds per step are averaged; rounds of both loops
PENALTY = 0.1  # its default weight, for one image
STEADY, FALLING = "constant", "cosine"

Marks = Iterator[tuple[int, int, Tensor]]  # steps wanted, steps made, images
Scores = dict[str, float]


def main() -> None:
    print(f"\n# metamer: plenoptic's Metamer and ours, {N} images in a batch, from noise")
    peer = load()
    if peer is None:
        return
    about = measure.header() | {"plenoptic": peer.__version__}
    tables: dict[str, Any] = {}
    for name, (source, size) in NETWORKS.items():
        model = nb.load_model(name)
        f = partial(model.representation, positions=True)
        images = nb.open_images(source, size=size).load(range(N + TUNED_ON))[0].to(model.device)
        rate, schedule, tuning = tuned(peer, name, f, images[N:])
        runs = {
            "nbhelpers": ours,
            "plenoptic, defaults": partial(theirs, peer),
            f"plenoptic, rate {rate}, {schedule}": partial(best, peer, rate, schedule),
        }
        print(f"\n{name}: {N} of {source}; plenoptic tuned on {TUNED_ON} others:")
        measure.table(tuning)
        scores = {
            loop: kept(f"metamer-{name}-{loop}", partial(scored, run, f, images[:N]))
            for loop, run in runs.items()
        }
        rows = summary(scores, seconds_per_step(peer, f, images[:N]))
        measure.table(rows)
        tables[name] = {"tuning": tuning, "rows": rows}
    measure.save("metamer", {"about": about, "n": N, "seed": SEED, **tables})


def load() -> types.ModuleType | None:
    """plenoptic, or None without the package."""
    sys.path.append(str(measure.ROOT / ".peers"))
    try:
        import plenoptic
    except ImportError as error:
        print(
            f"no peer: {error}; uv pip install --target .peers --no-deps -r "
            "tests/peers/requirements.txt"
        )
        return None
    return plenoptic


class Layer(nn.Module):
    """A representation as a module with the three-dimensional output that plenoptic expects."""

    def __init__(self, f: Callable[[Tensor], Tensor]):
        super().__init__()
        self.f = f

    def forward(self, images: Tensor) -> Tensor:
        return self.f(images)[:, None]


def ours(f: Callable, images: Tensor, start: Tensor) -> Marks:
    """Our defaults. The step size decays to zero, so each number of steps is a run."""
    for steps in OURS:
        yield steps, steps, nb.minimize(f, nb.match(f(images)), start, steps=steps).images


def theirs(peer: Any, f: Callable, images: Tensor, start: Tensor) -> Marks:
    """plenoptic's defaults: Adam, rate 0.01, its own stopping rule. One run, scored on the way."""
    metamer, made = metamer_of(peer, f, images, start), 0
    for before, steps in zip((0, *DEFAULTS), DEFAULTS, strict=False):
        if made == before:  # else it has stopped
            synthesize(metamer, steps - made)
            made = len(metamer.losses) - 1
        yield steps, made, pixels(metamer)


def best(
    peer: Any, rate: float, schedule: str, f: Callable, images: Tensor, start: Tensor
) -> Marks:
    """Another rate and schedule, no stopping rule. One run for each number of steps."""
    for steps in TUNED:
        metamer = metamer_of(peer, f, images, start, rate, steps if schedule == FALLING else None)
        synthesize(metamer, steps, stop_criterion=0.0)
        yield steps, steps, pixels(metamer)


def metamer_of(
    peer: Any,
    f: Callable,
    images: Tensor,
    start: Tensor,
    rate: float | None = None,
    falls_over: int | None = None,
) -> Any:
    """A synthesis, set up; `rate` None is the default, `falls_over` None a constant rate."""
    metamer = peer.Metamer(images, Layer(f).eval(), penalty_lambda=PENALTY / len(images))
    options: dict[str, Any] = {}
    if rate is not None:
        options["optimizer_kwargs"] = {"lr": rate, "amsgrad": True}
    if falls_over is not None:
        options["scheduler"] = torch.optim.lr_scheduler.CosineAnnealingLR
        options["scheduler_kwargs"] = {"T_max": falls_over}
    metamer.setup(start, **options)
    return metamer


def synthesize(metamer: Any, steps: int, **options: Any) -> None:
    """Continue for some steps."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Loss has converged")
        metamer.synthesize(steps, **options)


def pixels(metamer: Any) -> Tensor:
    return metamer.metamer.detach().clamp(0, 1)


def tuned(peer: Any, name: str, f: Callable, images: Tensor) -> tuple[float, str, list[dict]]:
    """Rate and schedule with the smallest mean distance, and all means."""

    def tried(rate: float, schedule: str) -> Scores:
        falls_over = TUNING_STEPS if schedule == FALLING else None
        metamer = metamer_of(peer, f, images, noise(images), rate, falls_over)
        synthesize(metamer, TUNING_STEPS, stop_criterion=0.0)
        return likeness(f, pixels(metamer), images)

    rows: list[dict[str, Any]] = [
        {"rate": rate, "schedule": schedule, "steps": TUNING_STEPS}
        | kept(f"metamer-{name}-{rate}-{schedule}", partial(tried, rate, schedule))
        for schedule in (STEADY, FALLING)
        for rate in RATES
    ]
    least = min(rows, key=lambda row: row["distance"])
    return least["rate"], least["schedule"], rows


def scored(run: Callable[..., Marks], f: Callable, images: Tensor) -> list[Scores]:
    """A loop's scores by its steps."""
    return [
        {"steps": steps, "made": made} | likeness(f, found, images)
        for steps, made, found in run(f, images, noise(images))
    ]


def noise(images: Tensor) -> Tensor:
    return nb.noise(len(images), size=images.shape[-1], seed=SEED).to(images.device)


def likeness(f: Callable, found: Tensor, images: Tensor) -> Scores:
    """Normalised distance of the representations, and SSIM of the images; means."""
    return {
        "distance": nb.distance(f(found), f(images)).mean().item(),
        "SSIM": nb.ssim(found, images).mean().item(),
    }


def kept(key: str, make: Callable[[], Any]) -> Any:
    """From runs/bench if it is there already."""
    if (found := measure.load(key)) is None:
        found = make()
        measure.save(key, found)
    return found


def seconds_per_step(peer: Any, f: Callable, images: Tensor) -> dict[str, float]:
    """Ours and plenoptic's, alternating. Its set-up is not counted; its settings cost the same."""
    start, goal = noise(images), nb.match(f(images))

    def mine() -> list[float]:
        began = measure.clock()
        nb.minimize(f, goal, start, steps=TIMED)
        return [(measure.clock() - began) / TIMED]

    def its() -> list[float]:
        metamer = metamer_of(peer, f, images, start)
        began = measure.clock()
        synthesize(metamer, TIMED, stop_criterion=0.0)
        return [(measure.clock() - began) / TIMED]

    seconds = measure.interleave({"nbhelpers": mine, "plenoptic": its}, ROUNDS)
    print(
        f"a step: plenoptic / ours {measure.ratio(seconds['plenoptic'], seconds['nbhelpers']):.2f}"
    )
    return {loop: measure.median(times) for loop, times in seconds.items()}


def summary(scores: Mapping[str, list[Scores]], each: Mapping[str, float]) -> list[dict]:
    """Rows of the table; seconds are a step's, times the steps made."""
    return [
        {"loop": loop, "seconds": each[loop.partition(",")[0]] * mark["made"]} | mark
        for loop, marks in scores.items()
        for mark in marks
    ]
