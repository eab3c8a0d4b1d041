"""A sweep's folder as one page and one table."""

import base64
import csv
import html
import io
import itertools
import json
import statistics
import sys
import urllib.parse
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import PIL.Image
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from nbhelpers.figures.plots import PALETTE
from nbhelpers.figures.style import house_style
from nbhelpers.files import write_text
from nbhelpers.runs.pages import notebook_page

INK = "#010203"  # stands for the page's own text colour until the figure is in the page

PAGE = Path(__file__).with_name("report.html")
# What the notebooks call the networks that their parameters name.
ROLES = {"robust": "checkpoint", "standard": "baseline"}
MISSING = "–"  # a parameter that a notebook did not have yet

Number = tuple[str, str]  # measure, network (or null, or nothing)


@dataclass(frozen=True)
class Record:
    """A run as its folder tells it."""

    name: str
    index: int  # place in the sweep's plan
    parameters: Mapping[str, Any]
    numbers: Mapping[Number, float] = field(default_factory=dict)
    duration_s: float | None = None
    peak_memory_mib: float | None = None
    device: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)
    notebook: str = ""  # relative to the sweep's folder, as the pictures
    page: str = ""  # the same to read in a browser, or the notebook where it cannot be made
    pictures: tuple[str, ...] = ()
    error: str = ""


def report(folder: str | Path, *, over: str = "seed") -> Path:
    """Write `report.html` and `results.csv` into a sweep's folder.

    Args:
        folder: of the sweep.
        over: the parameter to average over.

    Returns:
        The page's path.

    Raises:
        ValueError: there is no run in the folder, or it cannot be written.
    """
    folder = Path(folder)
    records = read_runs(folder)
    if not records:
        raise ValueError(f"no run in {folder}; wanted the folder given to a sweep with -o")
    varied = [
        key for key in _keys(r.parameters for r in records) if len(_groups(records, [key])) > 1
    ]
    try:
        records = [replace(record, page=_readable(folder, record)) for record in records]
        write_text(folder / "results.csv", _table(records))
        write_text(folder / "report.html", _page(folder, records, varied, over))
    except OSError as error:
        raise ValueError(f"cannot write to {folder}: {error.strerror}") from error
    return folder / "report.html"


def read_runs(folder: str | Path) -> list[Record]:
    """What is done or has failed in a sweep's folder, in the order of its plan."""
    records = [_read(path.parent) for path in Path(folder).glob("[!.]*/run.json")]
    return sorted(records, key=lambda record: (record.index, record.name))


def _readable(folder: Path, record: Record) -> str:
    if not record.notebook:
        return ""
    page = notebook_page(folder / record.notebook)
    return record.notebook if page is None else page.relative_to(folder).as_posix()


def _read(place: Path) -> Record:
    path = place / "result.json"
    try:
        run = json.loads((place / "run.json").read_text(encoding="utf-8"))
        result = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        numbers, index = _flat(result.get("numbers") or {}, run["parameters"]), int(run["index"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
        return Record(
            place.name,
            sys.maxsize,
            {},
            error=f"its files cannot be read ({type(error).__name__}: {error})",
        )
    return Record(
        place.name,
        index,
        run["parameters"],
        numbers,
        run["duration_s"],
        run["peak_memory_mib"],
        result.get("device", ""),
        result.get("versions", {}),
        f"{place.name}/{run['notebook']}" if (place / run["notebook"]).exists() else "",
        "",
        tuple(f"{place.name}/{picture.name}" for picture in sorted(place.glob("*.png"))),
        run.get("error", ""),
    )


def _flat(numbers: Mapping[str, Any], parameters: Mapping[str, Any]) -> dict[Number, float]:
    """Numbers by measure and network; a network that a parameter names goes by that parameter, to
    compare runs.

    Where checkpoint and baseline are the same network, what compares it with itself is left out.
    """
    names = {
        value: key
        for key, value in reversed([*parameters.items()])
        if isinstance(value, str) and value
    }
    names |= {role: key for role, key in ROLES.items() if parameters.get(key)}
    alone = bool(parameters.get("checkpoint")) and parameters["checkpoint"] == parameters.get(
        "baseline"
    )
    flat, subject = {}, ""
    for measure, value in numbers.items():
        if measure.startswith("…"):  # goes on from the measure above it
            measure = f"{subject} {measure}".strip()
        else:
            subject = measure
        if alone and "other network" in measure:
            continue
        for network, number in value.items() if isinstance(value, Mapping) else [("", value)]:
            name = str(names.get(network, network))
            if isinstance(number, int | float) and not (alone and name == "baseline"):
                flat[measure, name] = float(number)
    return flat


def _table(records: Sequence[Record]) -> str:
    parameters, numbers = _keys(r.parameters for r in records), _keys(r.numbers for r in records)
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rest = ["duration_s", "peak_memory_mib", "device", "error", "notebook"]
    rows.writerow(["run", *parameters, *map(_label, numbers), *rest])
    for record in records:
        values = [record.parameters.get(key) for key in parameters] + [
            record.numbers.get(key) for key in numbers
        ]
        rows.writerow([record.name, *values, *(getattr(record, key) for key in rest)])
    return text.getvalue()


def _page(folder: Path, records: Sequence[Record], varied: Sequence[str], over: str) -> str:
    done, failed = [r for r in records if not r.error], [r for r in records if r.error]
    axes = [key for key in varied if key != over]
    parts = [f"<h1>{_text(folder.resolve().name)}</h1>", _facts(records, done, failed, varied)]
    if failed:
        parts.append("<h2>Failed</h2><ul class=failed>" + "".join(map(_failure, failed)) + "</ul>")
    if done:
        parts += ["<h2>Numbers</h2>", _summary(done, axes, over)]
        parts += [f"<h2>Over {_text(axis)}</h2>{_curves(done, axis, axes)}" for axis in axes]
        parts += [
            "<h2>Pictures</h2>",
            _contact_sheet(folder, done, varied),
            "<h2>All runs</h2>",
            _runs(done, varied),
        ]
    title = f"{folder.resolve().name}: {len(done)} runs"
    page = PAGE.read_text(encoding="utf-8").replace("TITLE", _text(title), 1)
    return page.replace("BODY", "\n".join(parts), 1)


def _facts(
    records: Sequence[Record],
    done: Sequence[Record],
    failed: Sequence[Record],
    varied: Sequence[str],
) -> str:
    fixed = {
        key: value
        for record in records
        for key, value in record.parameters.items()
        if key not in varied
    }
    devices, versions = (
        _join(r.device for r in done),
        _join(f"{k} {v}" for r in done for k, v in r.versions.items()),
    )
    seconds = [r.duration_s for r in done if r.duration_s is not None]
    memory = [r.peak_memory_mib for r in done if r.peak_memory_mib is not None]
    facts = {
        "notebook": _text(_join(Path(r.notebook).name for r in records)),
        "runs": f"{len(done)} done, {len(failed)} failed",
        "swept": _text(
            "; ".join(f"{key}: {_join(_shown(r, key) for r in records)}" for key in varied) or "–"
        ),
        "fixed": _text(", ".join(f"{key}={value}" for key, value in fixed.items()) or "–"),
        "one run": f"{statistics.median(seconds):.3g} s (median)" if seconds else "",
        "peak memory": f"{max(memory):.0f} MiB" if memory else "",
        "device, versions": _text(", ".join(filter(None, (devices, versions)))),
        "table": "<a href=results.csv>results.csv</a>",
    }
    return (
        "<dl>" + "".join(f"<dt>{key}<dd>{value}" for key, value in facts.items() if value) + "</dl>"
    )


def _summary(done: Sequence[Record], axes: Sequence[str], over: str) -> str:
    """Mean and spread of every number, for every combination of the other parameters."""
    numbers, groups = _keys(r.numbers for r in done), _groups(done, axes)
    table = [
        [
            ", ".join(axes),
            *(_text(_label(key)) for key in numbers),
            "n",
            f"notebooks, by {_text(over)}",
        ]
    ]
    for values, group in groups.items():
        links = " ".join(_link(r.page, r.parameters.get(over, r.name)) for r in group)
        means = (_mean([r.numbers[key] for r in group if key in r.numbers]) for key in numbers)
        table.append([_text(", ".join(map(str, values)) or "all"), *means, str(len(group)), links])
    if len(groups) < len(numbers):  # the longer side goes down the page
        table = [list(column) for column in zip(*table, strict=True)]
    return (
        _html_table(table)
        + f"<p class=note>Mean ± standard deviation over {_text(over)}, of n runs.</p>"
    )


def _mean(values: Sequence[float]) -> str:
    finite = [value for value in values if _is_finite(value)]
    if not finite:
        return _join(map(_short, values))
    spread = f" ± {statistics.stdev(finite):.2g}" if len(finite) > 1 else ""
    spread += (
        f" ({len(values) - len(finite)} of {len(values)} not finite)"
        if len(finite) < len(values)
        else ""
    )
    return (
        f"{_short(statistics.fmean(finite))}<small>{spread}</small>"
        if spread
        else _short(finite[0])
    )


def _is_finite(value: Any) -> bool:
    """Whether a value has a place on an axis."""
    # false for NaN too
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e300


def _runs(done: Sequence[Record], varied: Sequence[str]) -> str:
    numbers = _keys(r.numbers for r in done)
    table = [[", ".join(varied), *(_text(_label(key)) for key in numbers), "seconds", "MiB"]]
    for record in done:
        values = [_short(record.numbers[key]) if key in record.numbers else "" for key in numbers]
        values += [
            "" if value is None else f"{value:.0f}"
            for value in (record.duration_s, record.peak_memory_mib)
        ]
        table.append([_text(_join(_shown(record, key) for key in varied) or record.name)])
        table[-1] += [_link(record.page, value) for value in values]
    return _html_table(table)


def _curves(done: Sequence[Record], axis: str, axes: Sequence[str]) -> str:
    """One panel per measure; a line per network and per combination of the other parameters."""
    measures = list(dict.fromkeys(key[0] for key in _keys(r.numbers for r in done)))
    if not measures:
        return ""
    others = [key for key in axes if key != axis]
    ticks = [group[0].parameters.get(axis, MISSING) for group in _groups(done, [axis]).values()]
    numeric = all(map(_is_finite, ticks))
    columns = min(3, len(measures))
    rows = -(-len(measures) // columns)
    with house_style({"svg.fonttype": "none", "font.size": 9}):
        figure = Figure(figsize=(3.6 * columns, 2.7 * rows), layout="constrained")
        panels = figure.subplots(rows, columns, squeeze=False).flat
        for panel, measure in itertools.zip_longest(panels, measures):
            if measure is None:
                panel.axis("off")
                continue
            lines = [
                (network, values, group)
                for network in dict.fromkeys(
                    key[1] for r in done for key in r.numbers if key[0] == measure
                )
                for values, group in _groups(done, others).items()
            ]
            for color, (network, values, group) in zip(
                itertools.cycle(PALETTE), lines, strict=False
            ):
                points = []
                for runs in _groups(group, [axis]).values():
                    seen = [r.numbers.get((measure, network)) for r in runs]
                    finite = [value for value in seen if value is not None and _is_finite(value)]
                    if finite:
                        spread = statistics.stdev(finite) if len(finite) > 1 else 0.0
                        tick = runs[0].parameters.get(axis, MISSING)
                        place = (
                            tick
                            if numeric
                            else [_frozen(one) for one in ticks].index(_frozen(tick))
                        )
                        points.append((place, statistics.fmean(finite), spread))
                if points:
                    x, y, spread = zip(*sorted(points), strict=True)
                    label = _verbatim(", ".join(filter(None, (network, *values))))
                    panel.errorbar(
                        x, y, spread, color=color, marker="o", markersize=4, capsize=3, label=label
                    )
            panel.set_title(_verbatim(measure), color=INK, fontsize=9.5)
            panel.set_xlabel(_verbatim(axis), color=INK)
            if not numeric:
                panel.set_xticks(
                    range(len(ticks)),
                    [_verbatim(str(tick)) for tick in ticks],
                    rotation=20,
                    ha="right",
                )
                panel.margins(x=0.15)
            elif all(isinstance(tick, int) for tick in ticks):
                panel.xaxis.set_major_locator(MaxNLocator(integer=True))
            panel.tick_params(colors=INK)
            panel.spines[["top", "right"]].set_visible(False)
            panel.spines[["left", "bottom"]].set_color(INK)
            panel.patch.set_visible(False)
            if len(lines) > 1:
                panel.legend(fontsize=8, labelcolor=INK, frameon=False)
        text = io.StringIO()
        figure.savefig(text, format="svg", transparent=True, metadata={"Date": None})
    svg = text.getvalue()
    return f"<figure class=plot>{svg[svg.index('<svg') :].replace(INK, 'currentColor')}</figure>"


def _contact_sheet(folder: Path, done: Sequence[Record], varied: Sequence[str]) -> str:
    sheets: dict[str, list[str]] = {}  # name of a picture → one of each run
    for record in done:
        caption = ", ".join(f"{key}={_shown(record, key)}" for key in varied) or record.name
        for picture in record.pictures:
            try:
                with PIL.Image.open(folder / picture) as image:
                    small = image.convert("RGB")
            except Exception:
                # whatever damaged files make Pillow raise; the run's numbers count all the same
                continue
            small.thumbnail((640, 640), PIL.Image.Resampling.LANCZOS)
            encoded = io.BytesIO()
            small.save(encoded, "WEBP", quality=80)
            source = "data:image/webp;base64," + base64.b64encode(encoded.getvalue()).decode()
            name = Path(picture).stem
            tag = (
                f'<img src="{source}" width={small.width} height={small.height} '
                f'alt="{_text(f"{name}, {caption}")}">'
            )
            sheets.setdefault(name, []).append(
                f'<figure><a href="{_quote(picture)}">{tag}</a>'
                f"<figcaption>{_link(record.page, caption)}</figcaption></figure>"
            )
    if not sheets:
        return "<p class=note>The runs saved no picture.</p>"
    return "".join(
        f"<h3>{_text(name)}</h3><div class=sheet>{''.join(each)}</div>"
        for name, each in sheets.items()
    )


def _failure(record: Record) -> str:
    error_file = f'<a href="{_quote(record.name)}/error.txt">error.txt</a>'
    return f"<li>{_link(record.page, record.name)}: {_text(record.error)} ({error_file})"


def _groups(records: Iterable[Record], keys: Sequence[str]) -> dict[tuple[str, ...], list[Record]]:
    """The records by their values of some parameters, as shown; 1 and 1.0 are one value, and so
    are two NaN.
    """
    groups: dict[tuple[str, ...], list[Record]] = {}
    for record in records:
        frozen = tuple(_frozen(record.parameters.get(key, MISSING)) for key in keys)
        groups.setdefault(frozen, []).append(record)
    return {tuple(_shown(group[0], key) for key in keys): group for group in groups.values()}


def _frozen(value: Any) -> str:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return (
        str(float(value))
        if number and abs(value) < 1e300
        else json.dumps(value, sort_keys=True, default=str)
    )


def _shown(record: Record, key: str) -> str:
    return str(record.parameters.get(key, MISSING))


def _verbatim(text: str) -> str:
    return text.replace("$", r"\$")  # else matplotlib takes it for mathematics


def _keys(mappings: Iterable[Mapping[Any, Any]]) -> list[Any]:
    return list(dict.fromkeys(key for mapping in mappings for key in mapping))


def _html_table(table: Sequence[Sequence[str]]) -> str:
    """From cells that are HTML already; the first row and the first column are headings."""
    head = "".join(f"<th>{cell}" for cell in table[0])
    rows = "".join(
        f"<tr><th>{row[0]}" + "".join(f"<td>{cell}" for cell in row[1:]) for row in table[1:]
    )
    return f"<div class=wide><table><thead><tr>{head}<tbody>{rows}</table></div>"


def _label(key: Number) -> str:
    return " · ".join(filter(None, key))


def _short(value: float) -> str:
    return f"{value:.3g}"


def _join(values: Iterable[Any]) -> str:
    return ", ".join(dict.fromkeys(str(value) for value in values if value not in (None, "")))


def _text(value: Any) -> str:
    return html.escape(str(value))


def _quote(path: str) -> str:
    return urllib.parse.quote(path)


def _link(path: str, label: Any) -> str:
    return f'<a href="{_quote(path)}">{_text(label)}</a>' if path and str(label) else _text(label)
