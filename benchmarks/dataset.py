"""Speed and memory of a data set's representations and top images; floor: the forward pass."""

import subprocess
import sys
from collections.abc import Iterator

import torch

import nbhelpers as nb
from benchmarks import measure
from nbhelpers.networks.resnets import resnet

N, BATCHES, ROUNDS = 10_000, (64, 256), 11


def main() -> None:
    print(
        f"\n# dataset: {N} images of 32 pixels, seconds, medians; the floor is the fastest of the "
        "bare passes"
    )
    about = measure.header()
    model = nb.load_model("cifar10-l2-0.5")
    images = torch.rand(N, 3, 32, 32)

    def bare(size: int) -> None:
        with torch.no_grad():
            for part in images.split(size):
                # requires_grad skips the check of the pixels
                model.representation(part.to(model.device).requires_grad_())

    contenders = {
        f"bare, batches of {size}": lambda size=size: measure.laps(lambda: bare(size), 1)
        for size in BATCHES
    }
    floors = list(contenders)
    contenders |= {
        "represent": lambda: measure.laps(lambda: nb.represent(model, images), 1),
        "top_images": lambda: measure.laps(lambda: nb.top_images(model, images, 0), 1),
    }
    seconds = measure.interleave(contenders, ROUNDS)
    floor = min(floors, key=lambda name: measure.median(seconds[name]))
    rows = [
        {
            "what": name,
            "seconds": measure.median(times),
            "of the floor's speed": measure.ratio(seconds[floor], times),
        }
        for name, times in seconds.items()
    ]
    measure.table(rows)
    memory = [
        {"what": what, "images": n, "peak MB": peak(what, n)}
        for what in ("bare", "top_images")
        for n in (10_000, 1_000_000)
    ]
    print(
        "Peak memory of a process, simulated stream of 8-pixel images through a network of width 4:"
    )
    measure.table(memory)
    measure.save("dataset", {"about": about, "rows": rows, "memory": memory})
    figure, axes = measure.axes()
    axes.barh(
        [row["what"] for row in rows[::-1]],
        [row["seconds"] for row in rows[::-1]],
        color=measure.COLOURS["ours"],
    )
    axes.set(xlabel="seconds", title=f"{N} images")
    measure.draw(figure, measure.FOLDER / "dataset.png")


def peak(what: str, n: int) -> float:
    """Peak memory of a new process that streams `n` images, megabytes (Linux)."""
    # Not ru_maxrss, which a process inherits from its parent.
    code = (
        f"from benchmarks import dataset; dataset.stream({what!r}, {n}); "
        "print(open('/proc/self/status').read())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=measure.ROOT, capture_output=True, text=True, check=True
    )
    return int(done.stdout.partition("VmHWM:")[2].split()[0]) / 1024


def stream(what: str, n: int) -> None:
    """Stream `n` images."""
    model = nb.Model(resnet("resnet18", width=4), image_size=8)

    def batches() -> Iterator[torch.Tensor]:
        for _ in range(n // 1000):
            yield torch.rand(1000, 3, 8, 8)

    if what == "top_images":
        nb.top_images(model, batches(), 0)
    else:
        with torch.no_grad():
            for part in batches():
                model.representation(part)
