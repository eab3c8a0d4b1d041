"""A report's curves: measures over a swept parameter."""

import io
import itertools
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from nbhelpers.figures.plots import PALETTE
from nbhelpers.figures.style import house_style

INK = "#010203"  # placeholder, replaced by the page's text colour


@dataclass(frozen=True)
class Line:
    """The values of one network and combination of the other parameters."""

    label: str
    values: Mapping[float, Sequence[float]]  # position on the axis → values of the runs


@dataclass(frozen=True)
class Panel:
    """A measure over the parameter."""

    title: str
    lines: Sequence[Line]
    ticks: Sequence[Any]  # the parameter's values
    numeric: bool  # ticks are positions on the axis; else positions are 0, 1, …


def is_finite(value: Any) -> bool:
    """Whether a value can be plotted; False for NaN."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e300


def draw_panels(panels: Sequence[Panel], axis: str) -> str:
    """The panels as one SVG in the page's colours; "" without panels."""
    if not panels:
        return ""
    columns = min(3, len(panels))
    rows = -(-len(panels) // columns)
    with house_style({"svg.fonttype": "none", "font.size": 9}):
        figure = Figure(figsize=(3.6 * columns, 2.7 * rows), layout="constrained")
        places = figure.subplots(rows, columns, squeeze=False).flat
        for place, panel in itertools.zip_longest(places, panels):
            if panel is None:
                place.axis("off")
            else:
                _draw(place, panel, axis)
        text = io.StringIO()
        figure.savefig(text, format="svg", transparent=True, metadata={"Date": None})
    svg = text.getvalue()
    return svg[svg.index("<svg") :].replace(INK, "currentColor")


def _draw(place: Axes, panel: Panel, axis: str) -> None:
    for color, line in zip(itertools.cycle(PALETTE), panel.lines, strict=False):
        if line.values:
            x, groups = zip(*sorted(line.values.items()), strict=True)
            means = [statistics.fmean(group) for group in groups]
            spreads = [statistics.stdev(group) if len(group) > 1 else 0.0 for group in groups]
            look: dict[str, Any] = {"color": color, "marker": "o", "markersize": 4, "capsize": 3}
            place.errorbar(x, means, spreads, label=_verbatim(line.label), **look)
    place.set_title(_verbatim(panel.title), color=INK, fontsize=9.5)
    place.set_xlabel(_verbatim(axis), color=INK)
    if not panel.numeric:
        names = [_verbatim(str(tick)) for tick in panel.ticks]
        place.set_xticks(range(len(names)), names, rotation=20, ha="right")
        place.margins(x=0.15)
    elif all(isinstance(tick, int) for tick in panel.ticks):
        place.xaxis.set_major_locator(MaxNLocator(integer=True))
    place.tick_params(colors=INK)
    place.spines[["top", "right"]].set_visible(False)
    place.spines[["left", "bottom"]].set_color(INK)
    place.patch.set_visible(False)
    if len(panel.lines) > 1:
        place.legend(fontsize=8, labelcolor=INK, frameon=False)


def _verbatim(text: str) -> str:
    return text.replace("$", r"\$")  # no mathematics in matplotlib
