"""A run's numbers: means with intervals, a table, and result.json."""

import ast
import json
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy
from matplotlib.figure import Figure

from nbhelpers.files import replacing, write_text
from nbhelpers.types import pick_device

RESAMPLES = 1000  # of the bootstrap
NORMAL_95 = 1.96  # ± standard deviations for 95 % of a normal distribution


@dataclass(frozen=True)
class Mean:
    """The mean of `n` values, with its 95 % interval unless n = 1."""

    mean: float
    low: float | None = None
    high: float | None = None
    n: int = 1

    def __str__(self) -> str:
        """At most three significant digits: `0.45 (0.44–0.46)`."""
        if self.low is None or self.high is None:
            return f"{self.mean:.3g}"
        scale = max(abs(self.mean), (self.high - self.low) / 2)
        # two digits below ten, three if two do not separate the bounds
        for digits in (3,) if scale >= 10 else (2, 3):
            places = max(0, digits - 1 - math.floor(math.log10(scale))) if scale else 0
            mean, low, high = (f"{x:z.{places}f}" for x in (self.mean, self.low, self.high))
            if (low != mean or self.low == self.mean) and (high != mean or self.high == self.mean):
                break
        return f"{mean} ({low}{' to ' if self.low < 0 else '–'}{high})"


Numbers = Mapping[str, Mapping[str, Any]]  # measure → network, or null → a number, values or a Mean


def mean_of(values: Any) -> Mean:
    """The mean and its 95 % interval.

    Args:
        values: a number, or (n,) tensor, array or list, one per image; truth values are 0 and 1.

    Returns:
        A percentile bootstrap over images with a fixed seed; for values of 0 and 1, Wilson's, since
        a bootstrap of equal values has no width. No interval for a single or non-finite value.

    Raises:
        ValueError: no values, or more than one dimension.

    Source: Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13; Wilson, JASA
    22(158), 1927.
    """
    if isinstance(values, Mean):
        return values
    found = _array(values)
    if found.ndim > 1 or not found.size:
        raise ValueError(
            f"numbers: got shape {found.shape}, wanted one number, or one for each image"
        )
    n, mean = found.size, float(found.mean())
    if found.ndim == 0 or n == 1 or not math.isfinite(mean):
        return Mean(mean, n=n)
    if numpy.isin(found, (0.0, 1.0)).all():
        spread = NORMAL_95 * math.sqrt(mean * (1 - mean) / n + NORMAL_95**2 / (4 * n**2))
        middle, scale = mean + NORMAL_95**2 / (2 * n), 1 + NORMAL_95**2 / n
        low, high = (middle - spread) / scale, (middle + spread) / scale
        return Mean(mean, max(0.0, low), min(1.0, high), n)  # rounding may pass 0 and 1
    generator = numpy.random.default_rng(0)
    means = [generator.choice(found, n).mean() for _ in range(RESAMPLES)]
    low, high = map(float, numpy.quantile(means, (0.025, 0.975)))
    return Mean(mean, low, high, n)


def _array(values: Any) -> numpy.ndarray:
    if hasattr(values, "detach"):
        values = values.detach().cpu().double().numpy()
    return numpy.asarray(values, dtype=numpy.float64)


def _not_finite(numbers: Numbers) -> str:
    """Which values are NaN or infinite, in a line; "" where none is."""
    listed = []
    for measure, row in numbers.items():
        for column, values in row.items():
            bad = ~numpy.isfinite(_array(values.mean if isinstance(values, Mean) else values))
            if bad.any():
                share = f" ({bad.sum()} of {bad.size} values)" if bad.size > 1 else ""
                listed.append(f"{measure} of {column}{share}")
    return f"not finite: {', '.join(listed)}" if listed else ""


def print_numbers(numbers: Numbers, *, note: str = "") -> None:
    """Print means with 95 % intervals, measures as rows, networks and nulls as columns.

    Args:
        numbers: measure → column → a number or one per image, as in `mean_of`.
        note: how they were measured: n, seed, device.

    NaN and infinities are named in a line of their own.
    """
    names = list(dict.fromkeys(column for row in numbers.values() for column in row))
    means = {
        measure: {column: mean_of(values) for column, values in row.items()}
        for measure, row in numbers.items()
    }
    table = [["", *names]]
    table += [[name, *(str(row.get(c, "")) for c in names)] for name, row in means.items()]
    # headings wider than their column break after a comma
    longest = [max(map(len, cells)) for cells in zip(*table[1:], strict=True)] or [0]
    broken = [
        name.split(", ") if len(name) > width else [name]
        for name, width in zip(table[0], longest, strict=False)
    ]
    deep = max(map(len, broken))
    heads = [
        [lines[row - deep + len(lines)] if row >= deep - len(lines) else "" for lines in broken]
        for row in range(deep)
    ]
    lines = [*heads, *table[1:]]
    widths = [max(map(len, cells)) for cells in zip(*lines, strict=True)]
    for measure, *texts in lines:
        right = (text.rjust(width) for text, width in zip(texts, widths[1:], strict=True))
        print(measure.ljust(widths[0]), *right, sep="  ")
    intervals = any(one.low is not None for row in means.values() for one in row.values())
    about = "; ".join(filter(None, ["means with 95 % intervals" if intervals else "", note]))
    if about:
        print(f"({about})")
    if spoilt := _not_finite(numbers):
        print(spoilt)


def numbers_in(result: Mapping[str, Any]) -> dict[str, dict[str, Mean]]:
    """The numbers of a `result.json`, for `print_numbers`; older files have no intervals."""
    intervals = result.get("intervals", {})
    return {
        measure: {
            column: Mean(mean, **intervals.get(measure, {}).get(column, {}))
            for column, mean in row.items()
        }
        for measure, row in result["numbers"].items()
    }


def save_result(
    out: str | Path,
    *,
    parameters: Mapping[str, object],
    numbers: Numbers,
    images: Sequence[int] = (),
    figures: Mapping[str, Figure] | None = None,
) -> None:
    """Write `result.json` and figures as PNG into a folder; nothing if `out` is empty.

    The file is written atomically and last, so it marks a complete run. "numbers" has the means,
    "intervals" their low, high and n. NaN and infinities are reported on standard error, and
    under "not_finite".

    Args:
        out: the folder, created if missing.
        parameters: by name, with `seed` and `device`; or the notebook's `globals()`, reduced to its
            annotated parameters.
        numbers: measure → column → as in `mean_of`.
        images: indices into the data set.
        figures: file name without suffix → figure.

    Raises:
        TypeError: a value without a JSON form.
        ValueError: the folder is not writable.
    """
    if not str(out):
        return
    folder, parameters = Path(out), _parameters(parameters)
    means = {
        measure: {column: mean_of(values) for column, values in row.items()}
        for measure, row in numbers.items()
    }
    intervals = {
        measure: {
            column: {"low": one.low, "high": one.high, "n": one.n}
            for column, one in row.items()
            if one.low is not None
        }
        for measure, row in means.items()
    }
    if spoilt := _not_finite(numbers):
        print(f"result.json: {spoilt}", file=sys.stderr)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, figure in (figures or {}).items():
            with replacing(folder / f"{name}.png") as temporary:
                figure.savefig(temporary, dpi=figure.dpi, format="png")
        text = json.dumps(
            {
                "parameters": parameters,
                "seed": parameters.get("seed"),
                # "auto" resolved
                "device": str(pick_device(str(parameters.get("device", "auto")))),
                "images": list(map(int, images)),
                "numbers": {
                    measure: {column: one.mean for column, one in row.items()}
                    for measure, row in means.items()
                },
                "intervals": {measure: row for measure, row in intervals.items() if row},
                **({"not_finite": spoilt} if spoilt else {}),
                "versions": {
                    name: version(name) for name in ("nbhelpers", "torch", "torchvision", "numpy")
                },
            },
            indent=1,
            ensure_ascii=False,
            default=_plain,
        )
        write_text(folder / "result.json", text)
    except OSError as error:
        raise ValueError(
            f"out: cannot write to {folder} ({error.strerror}); name a folder you may write"
        ) from error


def _parameters(given: Mapping[str, Any]) -> dict[str, Any]:
    """The annotated names of a notebook's globals(); any other mapping unchanged."""
    if not {"__name__", "__builtins__"} & given.keys():
        return dict(given)
    # Python 3.14 has no annotations of a cell; IPython has the cell's text in In.
    names = given.get("__annotations__") or _annotated(given.get("In", ()))
    return {name: given[name] for name in names if name in given}


def _annotated(cells: Sequence[str]) -> list[str]:
    """The annotated names of the first cell that has any."""
    for cell in cells:
        try:
            lines = ast.parse(cell).body
        except SyntaxError:  # a magic command
            continue
        names = [
            line.target.id
            for line in lines
            if isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name)
        ]
        if names:
            return names
    return []


def _plain(value: Any) -> Any:
    """JSON default: NumPy and torch values as Python's, paths as text."""
    if hasattr(value, "tolist"):
        return value.tolist()
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"result.json: got {value!r:.80}, wanted numbers, texts, lists and tables")
