"""Milliseconds per optimisation step: ours, peer, and floor, a forward and input-gradient pass."""

import itertools

import torch

import nbhelpers as nb
from benchmarks import measure, peer

NAME, BATCHES, STEPS, ROUNDS = "cifar10-l2-0.5", (1, 8, 32, 128), 6, 9


def main() -> None:
    print("\n# step: ms per step, medians; ratios are medians over rounds, contenders in turn")
    about = measure.header()
    model = nb.load_model(NAME)
    theirs = peer.load(NAME)
    theirs = theirs and theirs.to(model.device)
    rows = [measure_batch(model, theirs, n) for n in BATCHES]
    measure.table(rows)
    measure.save("step", {"about": about, "model": NAME, "rows": rows})
    figure, axes = measure.axes()
    bars(axes, rows)
    measure.draw(figure, measure.FOLDER / "step.png")


def measure_batch(model: nb.Model, theirs: object, n: int) -> dict[str, float]:
    """A row of the table."""
    start = nb.noise(n).to(model.device)
    target = model.representation(nb.noise(n, seed=1).to(model.device))
    steps = 3 * STEPS if n < 32 else STEPS

    def ours() -> list[float]:
        times: list[float] = []
        nb.minimize(
            model.representation,
            nb.match(target),
            start,
            steps=steps,
            callback=lambda _: times.append(measure.clock()),
        )
        times = times[:-1]  # the last is only a forward pass
        return [after - before for before, after in itertools.pairwise(times)]

    def bare() -> None:
        images = start.detach().requires_grad_()
        torch.autograd.grad(model.representation(images).sum(), images)

    contenders = {"floor": lambda: measure.laps(bare, steps), "ours": ours}
    if theirs is not None:
        contenders["peer"] = lambda: peer.invert(theirs, start, target, steps)[1]
    seconds = measure.interleave(contenders, ROUNDS)
    row = {"batch": n} | {
        f"{name} ms": 1000 * measure.median(times) for name, times in seconds.items()
    }
    row["ours/floor"] = measure.ratio(seconds["ours"], seconds["floor"])
    if theirs is not None:
        row["peer/ours"] = measure.ratio(seconds["peer"], seconds["ours"])
    return row


def bars(axes, rows) -> None:
    """Plot milliseconds per step and image, by batch."""
    names = [name for name in ("peer", "ours", "floor") if f"{name} ms" in rows[0]]
    for shift, name in enumerate(names):
        heights = [row[f"{name} ms"] / row["batch"] for row in rows]
        places = [place + 0.27 * (shift - 1) for place in range(len(rows))]
        axes.bar(places, heights, width=0.25, color=measure.COLOURS[name], label=LABELS[name])
    axes.set(xticks=range(len(rows)), xticklabels=[row["batch"] for row in rows])
    axes.set(xlabel="images in the batch", ylabel="ms per step and image", title="One step")
    axes.legend()


LABELS = {"peer": "robustness 1.2.1", "ours": "nbhelpers", "floor": "bare forward + gradient"}
