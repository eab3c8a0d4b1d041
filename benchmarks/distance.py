"""Seconds to reach the published loop's distance after 10,000 steps, without a worse picture.

The published loop's images come from our `descend` with its settings, whose steps equal the peer's
(tested); its seconds are the peer's, measured in the same run.
"""

import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

import nbhelpers as nb
from benchmarks import measure, peer

ROBUST, STANDARD, N, SEEDS, PUBLISHED = "cifar10-l2-0.5", "cifar10-standard", 32, (0, 1, 2), 10_000
MARKS = (100, 200, 400, 800, 1500, 3000, 5000, 8000, 10_000)
OURS = (25, 50, 75, 100, 125, 150, 200, 300, 400)
PRECISIONS = ("float32", "bfloat16")


def main() -> None:
    print(
        f"\n# distance: {N} images, from noise; the published loop's {PUBLISHED} steps against our "
        "defaults"
    )
    about = measure.header()
    for name, other in ((ROBUST, STANDARD), (STANDARD, ROBUST)):
        judge = Judge(nb.load_model(name), nb.load_model(other))
        results = [
            {"published": published(judge, name, seed)}
            | {p: ours(judge, seed, p) for p in PRECISIONS}
            for seed in SEEDS
        ]
        print(name)
        rows = summary(judge, name, results)
        measure.save(f"distance-{name}", {"about": about, "n": N, "seeds": SEEDS, "rows": rows})
    figure, axes = measure.axes()
    curves(axes, measure.load(f"distance-{ROBUST}")["rows"])
    measure.draw(figure, measure.FOLDER / "distance.png")


class Judge:
    """A network, a held-out network as its judge, and images."""

    def __init__(self, model: nb.Model, other: nb.Model):
        self.model, self.other = model, other
        images, labels = nb.load_images("cifar10-sample", indices=range(N))
        self.images, self.labels = images.to(model.device), labels
        self.target = model.representation(self.images)

    def start(self, seed: int) -> torch.Tensor:
        return nb.noise(N, seed=seed).to(self.model.device)

    @contextmanager
    def passing(self, precision: str) -> Iterator[Callable[[torch.Tensor], torch.Tensor]]:
        """The representation with gradient passes in another precision; scores are float32."""
        self.model.precision = precision
        try:
            yield self.model.representation
        finally:
            self.model.precision = "float32"

    def scores(self, images: torch.Tensor) -> dict[str, float]:
        """Distance, PSNR, SSIM, the judge's accuracy, and the share of saturated pixels."""
        error = (images - self.images).square().mean((1, 2, 3))
        return {
            "distance": nb.distance(self.model.representation(images), self.target).mean().item(),
            "psnr": (-10 * error.log10()).mean().item(),
            "ssim": nb.ssim(images, self.images).mean().item(),
            "agree": (nb.predict(self.other, images) == self.labels).float().mean().item(),
            "saturated": ((images <= 0) | (images >= 1)).float().mean().item(),
        }


def ours(judge: Judge, seed: int, precision: str) -> dict[int, dict[str, float]]:
    """Scores of our defaults by number of steps, a run each, since the step size decays to zero."""
    objective, start = nb.match(judge.target), judge.start(seed)
    with judge.passing(precision) as f:
        return {
            steps: judge.scores(nb.minimize(f, objective, start, steps=steps).images)
            for steps in OURS
        }


def published(judge: Judge, name: str, seed: int) -> dict[int, dict[str, float]]:
    """Scores of the published loop by steps, saved in runs/bench."""
    key = f"published-{name}-seed{seed}"
    if not (scores := measure.load(key)):
        loop = nb.descend(
            judge.model.representation,
            nb.match(judge.target),
            judge.start(seed),
            steps=PUBLISHED,
            solver=nb.PUBLISHED,
        )
        scores = {step.index: judge.scores(step.images) for step in loop if step.index in MARKS}
        measure.save(key, scores)
    return {int(steps): score for steps, score in scores.items()}


def summary(judge: Judge, name: str, results: list) -> list[dict]:
    """Print means over seeds with seconds, and the steps after which ours is as near."""
    seconds, rows = seconds_per_step(judge, name), []
    for loop, each in seconds.items():
        for steps in results[0][loop]:
            scores = [result[loop][steps] for result in results]
            means = {key: statistics.fmean(score[key] for score in scores) for key in scores[0]}
            rows.append({"loop": loop, "steps": steps, "seconds": steps * each, **means})
    measure.table(rows)
    last = next(row for row in reversed(rows) if row["loop"] == "published")
    print(
        f"The published loop after {last['steps']} steps: {last['distance']:.4f}, as near and no "
        "worse a picture is"
    )
    for loop in PRECISIONS:
        good = [
            row
            for row in rows
            if row["loop"] == loop
            and row["distance"] <= last["distance"]
            and row["psnr"] >= last["psnr"]
            if row["agree"] >= last["agree"]
        ]
        if good:
            faster = last["seconds"] / good[0]["seconds"]
            print(f"  ours, {loop}, after {good[0]['steps']} steps: {faster:.0f} times faster")
        else:
            print(f"  ours, {loop}: never")
    return rows


def seconds_per_step(judge: Judge, name: str) -> dict[str, float]:
    """Seconds per step of peer and ours, runs in turn; without the peer, of our published loop."""
    start, steps, theirs = judge.start(0), 20, peer.load(name)

    def timed(precision: str) -> list[float]:
        with judge.passing(precision) as f:
            began = time.perf_counter()
            nb.minimize(f, nb.match(judge.target), start, steps=steps)
            return [(measure.clock() - began) / steps]

    contenders = {
        precision: lambda precision=precision: timed(precision) for precision in PRECISIONS
    }
    if theirs is not None:
        theirs = theirs.to(judge.model.device)
        contenders["published"] = lambda: peer.invert(theirs, start, judge.target, steps)[1]
    seconds = {
        loop: measure.median(times) for loop, times in measure.interleave(contenders, 7).items()
    }
    return {"published": seconds.get("published", seconds["float32"])} | {
        p: seconds[p] for p in PRECISIONS
    }


def curves(axes, rows) -> None:
    """Plot distance over seconds for each loop."""
    for loop, style in STYLES.items():
        points = [(row["seconds"], row["distance"]) for row in rows if row["loop"] == loop]
        axes.plot(*zip(*points, strict=True), **style)
    axes.set(
        xscale="log", yscale="log", xlabel=f"seconds, {N} images", ylabel="normalised distance"
    )
    axes.set_title("Inversion of a robust network")
    axes.legend()


STYLES = {
    "published": {
        "marker": ".",
        "color": measure.COLOURS["peer"],
        "label": "published loop, robustness 1.2.1",
    },
    "float32": {"marker": ".", "color": measure.COLOURS["ours"], "label": "nbhelpers"},
    "bfloat16": {
        "marker": ".",
        "ls": "--",
        "color": measure.COLOURS["ours"],
        "label": "nbhelpers, bfloat16",
    },
}
