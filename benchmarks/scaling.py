"""Cost of a step over batch, image size and network width, and per unit of work.

Units: an image, a pixel, a multiplication (width squared); a constant column is linear scaling.
Small batches are bound by call overhead, large ones by memory, so `descend` splits them.
"""

import torch

import nbhelpers as nb
from benchmarks import measure
from nbhelpers.networks.resnets import resnet
from nbhelpers.types import pick_device

ROUNDS, STEPS = 5, 2
CASES = {
    "batch": [{"batch": batch} for batch in (1, 2, 4, 8, 16, 32, 64, 128, 256)],
    "size": [{"batch": 2, "size": size} for size in (32, 64, 96, 128, 160, 192, 224)],
    "width": [{"batch": 8, "width": width} for width in (4, 8, 16, 32, 64)],
}


def main() -> None:
    print("\n# scaling: ms per step; ResNet-18 of width 16, 32 pixels, by default")
    about, tables = measure.header(), {}
    figure, panels = measure.axes(len(CASES))
    for (what, cases), axes in zip(CASES.items(), panels, strict=True):
        seconds = measure.interleave({str(case[what]): stepper(**case) for case in cases}, ROUNDS)
        rows = []
        for case, times in zip(cases, seconds.values(), strict=True):
            work = case[what] if what == "batch" else case[what] ** 2
            each = 1000 * measure.median(times)
            rows.append({what: case[what], "ms": each, "µs per unit": 1000 * each / work})
        tables[what] = rows
        measure.table(rows)
        axes.plot(
            [row[what] for row in rows],
            [row["ms"] for row in rows],
            "o-",
            color=measure.COLOURS["ours"],
        )
        axes.set(xscale="log", yscale="log", xlabel=what, ylabel="ms per step")
    measure.save("scaling", {"about": about, **tables})
    measure.draw(figure, measure.FOLDER / "scaling.png")


def stepper(batch: int, size: int = 32, width: int = 16) -> measure.Contender:
    """A few steps of a random network."""
    torch.manual_seed(0)
    model = nb.Model(resnet("resnet18", width=width), image_size=32).to(pick_device())
    start = nb.noise(batch, size=size).to(model.device)

    def run() -> list[float]:
        iterates = nb.descend(model.representation, nb.activate(0), start, steps=100)
        next(iterates)
        return measure.laps(lambda: next(iterates), STEPS)

    return run
