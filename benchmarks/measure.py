"""Measurements: machine header, contenders in turn, medians and ratios, table, picture, JSON."""

import itertools
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure

from nbhelpers.figures.style import house_style
from nbhelpers.files import replacing

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "runs" / "bench"
COLOURS = {"ours": "#1769aa", "peer": "#d1571b", "floor": "#8a8a8a"}
GREY = "#7d7d7d"  # readable on white and on black

# runs a few units of work, returns the seconds of each
Contender = Callable[[], Sequence[float]]


def header() -> dict[str, Any]:
    """Hardware, versions and load, printed and returned."""
    cpu = next(
        (
            line.partition(":")[2].strip()
            for line in _lines("/proc/cpuinfo")
            if line.startswith("model name")
        ),
        platform.processor() or platform.machine(),
    )
    about = {
        "date": date.today().isoformat(),
        "cpu": f"{cpu}, {os.cpu_count()} cores, {torch.get_num_threads()} threads",
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else "none",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "nbhelpers": version("nbhelpers"),
        "load": round(os.getloadavg()[0], 1) if hasattr(os, "getloadavg") else None,
    }
    print("  ".join(f"{key} {value}" for key, value in about.items()))
    if (about["load"] or 0) > 0.5 * (os.cpu_count() or 1):
        print("WARNING: the machine is busy; trust the ratios, and not too far")
    return about


def interleave(contenders: Mapping[str, Contender], rounds: int) -> dict[str, list[list[float]]]:
    """Seconds per unit, (rounds, units) by contender: a warm-up, then in turn, order alternating."""
    seconds: dict[str, list[list[float]]] = {name: [] for name in contenders}
    for run in contenders.values():
        run()
    for number in range(rounds):
        for name in list(contenders)[:: 1 if number % 2 else -1]:
            seconds[name].append(list(contenders[name]()))
    return seconds


def median(rounds: Sequence[Sequence[float]]) -> float:
    """Median over all units."""
    return statistics.median(value for units in rounds for value in units)


def ratio(above: Sequence[Sequence[float]], below: Sequence[Sequence[float]]) -> float:
    """Median over rounds of the medians' ratio, which cancels a round's background load."""
    return statistics.median(
        statistics.median(a) / statistics.median(b) for a, b in zip(above, below, strict=True)
    )


def clock() -> float:
    """Time after pending GPU work, seconds."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def laps(work: Callable[[], Any], count: int) -> list[float]:
    """Seconds of each of `count` calls."""
    times = [clock()]
    for _ in range(count):
        work()
        times.append(clock())
    return [after - before for before, after in itertools.pairwise(times)]


def table(rows: Sequence[Mapping[str, Any]]) -> None:
    """Print rows with equal keys."""
    cells = [
        {
            key: f"{value:.3g}" if isinstance(value, float) else str(value)
            for key, value in row.items()
        }
        for row in rows
    ]
    widths = {key: max(len(key), *(len(row[key]) for row in cells)) for key in cells[0]}
    for row in [dict(zip(widths, widths, strict=True)), *cells]:
        print("  ".join(row[key].rjust(width) for key, width in widths.items()))


def save(name: str, content: Mapping[str, Any]) -> None:
    """Write runs/bench/NAME.json atomically."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    part = FOLDER / f".{name}.part"
    part.write_text(json.dumps(content, indent=1))
    part.replace(FOLDER / f"{name}.json")


def load(name: str) -> Any:
    """The content from `save`, or None."""
    path = FOLDER / f"{name}.json"
    return json.loads(path.read_text()) if path.exists() else None


def axes(panels: int = 1) -> tuple[Figure, Any]:
    """A figure with a transparent background, in grey for dark and light pages."""
    figure = Figure(figsize=(4.6 * panels, 3.2), layout="constrained")
    all_axes = figure.subplots(1, panels, squeeze=False)[0]
    for one in all_axes:
        one.tick_params(colors=GREY, which="both")
        for part in (one.xaxis.label, one.yaxis.label, one.title):
            part.set_color(GREY)
        for side, spine in one.spines.items():
            spine.set(color=GREY, visible=side in ("left", "bottom"))
    return figure, all_axes if panels > 1 else all_axes[0]


def draw(figure: Figure, path: Path) -> None:
    """Save a figure as PNG."""
    path.parent.mkdir(parents=True, exist_ok=True)
    for one in figure.axes:
        if legend := one.get_legend():
            legend.get_frame().set_alpha(0)
            for text in legend.get_texts():
                text.set_color(GREY)
    with house_style(), replacing(path) as temporary:
        figure.savefig(temporary, dpi=160, transparent=True, format="png")
    print(f"wrote {path.relative_to(ROOT)}")


def _lines(path: str) -> list[str]:
    return Path(path).read_text().splitlines() if Path(path).exists() else []
