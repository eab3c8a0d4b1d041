"""Seconds until a reconstruction is as near as the published loop's after 10,000 steps, and no worse a picture.

The published loop's images come from our own `descend` with its settings, as tests show its steps to be the peer's;
its seconds are those of the peer's own step, measured here in the same run.
"""

import statistics
import time

import torch

import nbhelpers as nb
from benchmarks import measure, peer

ROBUST, STANDARD, N, SEEDS, PUBLISHED = "cifar10-l2-0.5", "cifar10-standard", 32, (0, 1, 2), 10_000
MARKS = (100, 200, 400, 800, 1500, 3000, 5000, 8000, 10_000)
OURS = (25, 50, 100, 150, 200, 250, 300, 400)


def main() -> None:
    print(f"\n# distance: {N} images, from noise; the published loop's {PUBLISHED} steps against our defaults")
    about = measure.header()
    for name, other in ((ROBUST, STANDARD), (STANDARD, ROBUST)):
        judge = Judge(nb.load_model(name), nb.load_model(other))
        results = [{"published": published(judge, name, seed), "ours": ours(judge, seed)} for seed in SEEDS]
        rows = summary(judge, name, results)
        print(name)
        measure.table(rows)
        measure.save(f"distance-{name}", {"about": about, "n": N, "seeds": SEEDS, "rows": rows})
    figure, axes = measure.axes()
    curves(axes, measure.load(f"distance-{ROBUST}")["rows"])
    measure.draw(figure, measure.FOLDER / "distance.png")


class Judge:
    """A network, another that judges its reconstructions, and the images."""

    def __init__(self, model: nb.Model, other: nb.Model):
        self.model, self.other = model, other
        images, labels = nb.load_images("cifar10-sample", indices=range(N))
        self.images, self.labels = images.to(model.device), labels
        self.target = model.representation(self.images)

    def start(self, seed: int) -> torch.Tensor:
        return nb.noise(N, seed=seed).to(self.model.device)

    def scores(self, images: torch.Tensor) -> dict[str, float]:
        """Distance, PSNR, SSIM, agreement of the other network with the label, and saturated pixels."""
        error = (images - self.images).square().mean((1, 2, 3))
        return {
            "distance": nb.distance(self.model.representation(images), self.target).mean().item(),
            "psnr": (-10 * error.log10()).mean().item(),
            "ssim": nb.ssim(images, self.images).mean().item(),
            "agree": (nb.predict(self.other, images) == self.labels).float().mean().item(),
            "saturated": ((images <= 0) | (images >= 1)).float().mean().item(),
        }


def ours(judge: Judge, seed: int) -> dict[int, dict[str, float]]:
    """Scores of our defaults, by steps asked for: the step's length falls to zero at the end of each."""
    objective, start = nb.match(judge.target), judge.start(seed)
    return {
        steps: judge.scores(nb.minimize(judge.model.representation, objective, start, steps=steps).images)
        for steps in OURS
    }


def published(judge: Judge, name: str, seed: int) -> dict[int, dict[str, float]]:
    """Scores of the published loop, by steps; out of runs/bench where they are already."""
    key = f"published-{name}-seed{seed}"
    if not (scores := measure.load(key)):
        loop = nb.descend(
            judge.model.representation,
            nb.match(judge.target),
            judge.start(seed),
            steps=PUBLISHED,
            step_size=1.0,
            momentum=0.0,
            schedule="constant",
        )
        scores = {step.index: judge.scores(step.images) for step in loop if step.index in MARKS}
        measure.save(key, scores)
    return {int(steps): score for steps, score in scores.items()}


def summary(judge: Judge, name: str, results: list) -> list[dict]:
    """Means over seeds, with seconds."""
    ours, theirs = seconds_per_step(judge, name)
    rows = []
    for loop, each in (("published", theirs), ("ours", ours)):
        for steps in results[0][loop]:
            scores = [result[loop][steps] for result in results]
            means = {key: statistics.fmean(score[key] for score in scores) for key in scores[0]}
            rows.append({"loop": loop, "steps": steps, "seconds": steps * each, **means})
    last = next(row for row in reversed(rows) if row["loop"] == "published")
    good = [
        row
        for row in rows
        if row["loop"] == "ours" and row["distance"] <= last["distance"] and row["psnr"] >= last["psnr"]
        if row["agree"] >= last["agree"]
    ]
    if good:
        print(
            f"{name}: the published loop's distance {last['distance']:.4f} after {last['steps']} steps is ours after "
            f"{good[0]['steps']}: {last['seconds'] / good[0]['seconds']:.0f} times faster"
        )
    else:
        print(f"{name}: no setting of ours reached the published loop's distance at no worse a picture")
    return rows


def seconds_per_step(judge: Judge, name: str) -> tuple[float, float]:
    """Of ours and of the peer, whole runs in turn; without the peer, of the same loop run by ours."""
    start, steps, theirs = judge.start(0), 20, peer.load(name)

    def ours() -> list[float]:
        began = time.perf_counter()
        nb.minimize(judge.model.representation, nb.match(judge.target), start, steps=steps)
        return [(measure.clock() - began) / steps]

    contenders = {"ours": ours}
    if theirs is not None:
        theirs = theirs.to(judge.model.device)
        contenders["peer"] = lambda: peer.invert(theirs, start, judge.target, steps)[1]
    seconds = measure.interleave(contenders, 7)
    return measure.median(seconds["ours"]), measure.median(seconds.get("peer", seconds["ours"]))


def curves(axes, rows) -> None:
    """Distance over seconds, both loops."""
    for loop, kind, label in (("published", "peer", "published loop, robustness 1.2.1"), ("ours", "ours", "nbhelpers")):
        points = [(row["seconds"], row["distance"]) for row in rows if row["loop"] == loop]
        axes.plot(*zip(*points, strict=True), ".-", color=measure.COLOURS[kind], label=label)
    axes.set(xscale="log", yscale="log", xlabel=f"seconds, {N} images", ylabel="normalised distance")
    axes.set_title("Inversion of a robust network")
    axes.legend()
