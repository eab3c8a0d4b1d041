"""Figures in one style: image grids, distributions, curves."""

import io
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy
import PIL.Image
import torch
from matplotlib.figure import Figure as MatplotlibFigure
from matplotlib.font_manager import FontProperties
from matplotlib.textpath import TextToPath
from torch import Tensor
from torch.nn import functional

from nbhelpers.figures.results import mean_of
from nbhelpers.figures.style import in_house_style
from nbhelpers.types import Images, check_images, whole

PALETTE = ("#1769aa", "#d1571b", "#3a8f4d", "#8e4aa8", "#b8860b", "#4d4d4d", "#c2476b", "#2f8f8f")
COLOURS = {
    "robust": PALETTE[0],
    "standard": PALETTE[1],
    "random pairs": "#8a8a8a",
    "pixels": "#8a8a8a",
}
_DPI, _FONT, _LINE = 100, 8.5, 13  # dots per inch, points, dots per line of text
_LABEL, _MOST_LINES = 110, 6  # widest row label in dots; lines of text under an image
_LARGEST = 600_000  # bytes of a figure in full colours
_METRICS = TextToPath()


class Figure(MatplotlibFigure):
    """A matplotlib figure in the house style that displays in a notebook without pyplot."""

    @in_house_style
    def savefig(self, *args: Any, **options: Any) -> None:
        super().savefig(*args, **options)

    @in_house_style
    def draw(self, renderer: Any) -> None:
        super().draw(renderer)

    def _repr_png_(self) -> bytes:
        buffer = io.BytesIO()
        self.savefig(buffer, format="rgba", dpi=_DPI)
        width, height = self.canvas.get_width_height()
        pixels = numpy.frombuffer(buffer.getvalue(), numpy.uint8).reshape(height, width, 4)[..., :3]
        # six bits a channel: invisible, and a quarter smaller
        picture = PIL.Image.fromarray((pixels & 0xFC) | (pixels >> 6))
        png = _png(picture)
        # else a sheet of a hundred pictures has megabytes
        return png if len(png) <= _LARGEST else _png(picture.quantize(256))

    def __repr__(self) -> str:  # nbval compares it: nothing may vary between runs
        return f"Figure({self.get_label()})"


def _png(picture: PIL.Image.Image) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, format="png")  # optimize=True takes ten times as long for 2 %
    return buffer.getvalue()


@in_house_style
def image_grid(
    rows: Mapping[str, Images],
    *,
    columns: Sequence[str] = (),
    captions: Mapping[str, Sequence[str] | Tensor] | None = None,
    first: int | None = None,
    cell: int = 96,
    title: str = "",
) -> Figure:
    """Images in labelled rows, one batch a row, enlarged by whole pixels.

    Texts are wrapped, and truncated with "…" after six lines.

    Args:
        rows: row label → (n, 3, h, w) in [0, 1]; rows may differ in length and image size.
        columns: a heading per column.
        captions: row label → a short text or number per image.
        first: images per row, at most; None for all.
        cell: longer side of an image, dots, rounded to a multiple of its pixels; up to twice as
            many for larger images.
        title: over the grid.

    Raises:
        ValueError: no rows, captions of an unknown row, or `first` is not positive.
    """
    captions = captions or {}
    if not rows or captions.keys() - rows.keys():
        raise ValueError(
            f"image_grid: got rows {list(rows)} and captions {list(captions)}, wanted captions of "
            "rows"
        )
    if first is not None and first < 1:
        raise ValueError(f"image_grid: got first={first}, wanted at least 1, or None for all")
    for label, images in rows.items():
        check_images(images, label)
    batches = [images[:first] for images in rows.values()]
    longest = max(max(images.shape[-2:]) for images in batches)
    cell = longest * round(cell / longest) if longest <= cell else min(2 * cell, longest)
    labels = [_wrapped(label, _LABEL) for label in rows]
    heads = [_wrapped(text, cell) for text in columns[:first]]
    under = [[_text(one) for one in captions.get(row, ())[:first]] for row in rows]
    scale = _scale((text for texts in under for text in texts), cell)
    under = [[_wrapped(text, cell / scale) for text in texts] for texts in under]
    gap, left = 6, 16 + round(max(map(_width, labels)))
    top = 6 + (_LINE + 8 if title else 0) + _LINE * _lines(heads)
    heights = [cell + gap + _LINE * _lines(texts) for texts in under]
    width, height = left + max(map(len, batches)) * (cell + gap), top + sum(heights)
    canvas = numpy.ones((height, width, 3), dtype=numpy.float32)
    figure = Figure(
        figsize=(width / _DPI, height / _DPI),
        dpi=_DPI,
        label=f"{len(rows)} × {max(map(len, batches))} images",
    )
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    centres = [left + column * (cell + gap) + cell / 2 for column in range(max(map(len, batches)))]
    style: Any = {"fontsize": _FONT, "linespacing": 1.1, "parse_math": False}
    middle = style | {"ha": "center", "va": "baseline"}
    y = top
    for label, images, texts, row_height in zip(labels, batches, under, heights, strict=True):
        axes.text(left - 10, y + cell / 2, label, ha="right", va="center", **style)
        for column, picture in enumerate(_enlarge(images, cell)):
            high, wide = picture.shape[:2]
            x, above = left + column * (cell + gap) + (cell - wide) // 2, y + (cell - high) // 2
            canvas[above : above + high, x : x + wide] = picture
        for centre, text in zip(centres, texts, strict=False):
            # the last line's baseline, independent of descenders
            base = y + cell + 12 + _LINE * text.count("\n")
            axes.text(centre, base, text, color="#444444", **middle | {"fontsize": _FONT * scale})
        y += row_height
    for centre, text in zip(centres, heads, strict=False):
        axes.text(centre, top - 7, text, **middle)
    if title:
        bold: Any = {"fontsize": 10.5, "fontweight": "bold", "parse_math": False}
        axes.text(left, 4, title, ha="left", va="top", **bold)
    axes.imshow(canvas, extent=(0, width, height, 0), interpolation="nearest", aspect="auto")
    return figure


def image_sheet(
    images: Images, captions: Sequence[str] = (), *, columns: int = 12, cell: int = 96
) -> Figure:
    """Images in reading order, with captions.

    Args:
        images: (n, 3, h, w) in [0, 1].
        captions: a text per image, or none.
        columns: images per row.
        cell: as in `image_grid`.

    Raises:
        ValueError: `columns` is not positive, or not one caption per image.
    """
    columns = whole(columns, "columns", least=1)
    if len(captions) not in (0, len(images)):
        raise ValueError(f"captions: got {len(captions)} for {len(images)} images, wanted one each")
    starts = range(0, len(images), columns)
    # distinct labels, all invisible
    rows = {" " * k: images[i : i + columns] for k, i in enumerate(starts)}
    texts = {" " * k: captions[i : i + columns] for k, i in enumerate(starts)} if captions else None
    return image_grid(rows, captions=texts, cell=cell)


@in_house_style
def distributions(
    samples: Mapping[str, Tensor], *, xlabel: str, title: str = "", log: bool = False
) -> Figure:
    """Overlaid histograms with medians.

    Args:
        samples: label → (n,) numbers.
        xlabel: quantity and unit.
        log: logarithmic axis.
    """
    figure, axes = _axes(title, xlabel, "images", f"distributions of {', '.join(samples)}")
    values = torch.cat([sample.detach().float().cpu() for sample in samples.values()])
    low, high = values.min().item(), values.max().item()
    bins = (
        numpy.geomspace(max(low, 1e-6), high, 33) if log else numpy.linspace(min(low, 0), high, 33)
    )
    for index, (label, sample) in enumerate(samples.items()):
        numbers, colour = sample.detach().float().cpu().numpy(), _colour(label, index)
        axes.hist(
            numbers,
            bins=bins,
            color=colour,
            alpha=0.55,
            label=f"{label} (median {numpy.median(numbers):.2g})",
        )
        axes.axvline(numpy.median(numbers), color=colour, linewidth=1.5)
    if log:
        axes.set_xscale("log")
    _legend(axes)
    return figure


@in_house_style
def curves(
    x: Sequence[float] | Tensor,
    series: Mapping[str, Tensor],
    *,
    xlabel: str,
    ylabel: str,
    title: str = "",
) -> Figure:
    """Lines over a common x; an (m, n) series as its mean with a band.

    Args:
        x: (m,) positions.
        series: label → (m,) or (m, n). The band is the middle half of the n values; for truth
            values, whose mean is a share, Wilson's 95 % interval.
        xlabel, ylabel: what they are, with units.
    """
    figure, axes = _axes(title, xlabel, ylabel, f"curves of {', '.join(series)}")
    positions = torch.as_tensor(x).cpu().numpy()
    for index, (label, values) in enumerate(series.items()):
        values = values if values.dtype == torch.bool else values.float()
        numbers, colour = values.detach().cpu().numpy(), _colour(label, index)
        # the second series of a colour is dashed
        repeated = colour in [line.get_color() for line in axes.lines]
        if numbers.ndim == 2:
            axes.fill_between(positions, *_band(numbers), color=colour, alpha=0.15, linewidth=0)
            numbers = numbers.mean(1)
        look: dict[str, Any] = {
            "linestyle": "--" if repeated else "-",
            "marker": "o" if len(positions) < 16 else None,
        }
        axes.plot(positions, numbers, color=colour, markersize=4, label=label, **look)
    axes.xaxis.get_major_locator().set_params(integer=bool((positions == positions.round()).all()))
    low, high = axes.get_ylim()
    axes.set_ylim(min(0, low), high + 0.04 * (high - min(0, low)))
    _legend(axes)
    return figure


def _band(values: numpy.ndarray) -> Any:
    """Lower and upper ends, (2, m), of values (m, n)."""
    if values.dtype != bool:
        return numpy.quantile(values, (0.25, 0.75), axis=1)
    shares = [mean_of(row) for row in values]
    if any(one.low is None for one in shares):  # of a single value
        return values.mean(1), values.mean(1)
    return [one.low for one in shares], [one.high for one in shares]


def _axes(title: str, xlabel: str, ylabel: str, label: str):
    figure = Figure(figsize=(6.4, 2.9), dpi=_DPI, layout="constrained", label=label)
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=_FONT)
    axes.set_xlabel(xlabel, fontsize=_FONT + 0.5)
    axes.set_ylabel(ylabel, fontsize=_FONT + 0.5)
    if title:
        axes.set_title(title, fontsize=10.5, fontweight="bold", loc="left")
    return figure, axes


def _legend(axes) -> None:
    """A legend beside the axes."""
    axes.figure.legend(loc="outside right upper", frameon=False, borderpad=0, fontsize=_FONT)


def _colour(label: str, index: int) -> str:
    return next(
        (colour for name, colour in COLOURS.items() if label.startswith(name)),
        PALETTE[2 + index % 4],
    )


def _text(value: object) -> str:
    """A caption: text unchanged, numbers with two decimals."""
    return value if isinstance(value, str) else f"{float(value):.2f}"  # type: ignore[arg-type]


def _width(text: str) -> float:
    """Width of the widest line, dots."""
    font = FontProperties(size=_FONT)
    lines = [line for line in text.split("\n") if line]
    points = [_METRICS.get_text_width_height_descent(line, font, False)[0] for line in lines]
    return max(points, default=0.0) * _DPI / 72


def _scale(texts: Iterable[str], width: float) -> float:
    """What shrinks the font, at most to 0.8, so that no word is split."""
    widest = max((_width(word) for text in texts for word in text.split()), default=0)
    return min(1, max(0.8, width / widest)) if widest else 1


def _wrapped(text: str, width: float) -> str:
    """The text wrapped to `width` dots, at most six lines."""
    lines: list[str] = []
    for line in text.split("\n"):
        now = ""
        for word in line.split(" "):
            joined = f"{now} {word}" if now else word
            if _width(joined) <= width:
                now = joined
                continue
            lines += [now] if now else []
            now = word
            while _width(now) > width:  # split a word wider than its cell
                end = max(1, sum(_width(now[: i + 1]) <= width for i in range(len(now))))
                lines.append(now[:end])
                now = now[end:]
        lines.append(now)
    if len(lines) <= _MOST_LINES:
        return "\n".join(lines)
    last = lines[_MOST_LINES - 1]
    while last and _width(last + "…") > width:
        last = last[:-1]
    return "\n".join([*lines[: _MOST_LINES - 1], last + "…"])


def _lines(texts: Sequence[str]) -> int:
    return max((text.count("\n") + 1 for text in texts if text), default=0)


def _enlarge(images: Images, cell: int) -> numpy.ndarray:
    """(n, height, width, 3), no side above `cell`: repeated pixels, or an antialiased reduction."""
    images = images.detach().float().cpu()
    factor = cell // max(images.shape[-2:])
    if factor:
        images = images.repeat_interleave(factor, 2).repeat_interleave(factor, 3)
    else:
        height, width = (
            max(1, round(side * cell / max(images.shape[-2:]))) for side in images.shape[-2:]
        )
        images = functional.interpolate(
            images, (height, width), mode="bilinear", antialias=True
        ).clamp(0, 1)
    return images.expand(-1, 3, -1, -1).permute(0, 2, 3, 1).numpy()
