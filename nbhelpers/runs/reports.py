"""A sweep's folder as one page and one table."""

import base64
import csv
import html
import io
import itertools
import json
import statistics
import urllib.parse
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import matplotlib
import PIL.Image
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from nbhelpers.files import write_text

COLORS = ("#3b8ec2", "#e07b39", "#4ba36a", "#b76bc4", "#b59a2c", "#d8566a", "#4db0b0", "#8f8f8f")  # on light and dark
INK = "#010203"  # stands for the page's own text colour until the figure is in the page

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
    varied = [key for key in records[0].parameters if len({str(record.parameters.get(key)) for record in records}) > 1]
    try:
        write_text(folder / "results.csv", _table(records))
        write_text(folder / "report.html", _page(folder, records, varied, over))
    except OSError as error:
        raise ValueError(f"cannot write to {folder}: {error.strerror}") from error
    return folder / "report.html"


def read_runs(folder: str | Path) -> list[Record]:
    """What is done or has failed in a sweep's folder, in the order of its plan."""
    records = [_read(path.parent) for path in Path(folder).glob("[!.]*/run.json")]
    return sorted(records, key=lambda record: (record.index, record.name))


def _read(place: Path) -> Record:
    run = json.loads((place / "run.json").read_text(encoding="utf-8"))
    path = place / "result.json"
    result = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    return Record(
        place.name,
        run["index"],
        run["parameters"],
        _flat(result.get("numbers", {}), run["parameters"]),
        run["duration_s"],
        run["peak_memory_mib"],
        result.get("device", ""),
        result.get("versions", {}),
        f"{place.name}/{run['notebook']}" if (place / run["notebook"]).exists() else "",
        tuple(f"{place.name}/{picture.name}" for picture in sorted(place.glob("*.png"))),
        run.get("error", ""),
    )


def _flat(numbers: Mapping[str, Any], parameters: Mapping[str, Any]) -> dict[Number, float]:
    """Numbers by measure and network; a network that a parameter names goes by that parameter, to compare runs."""
    names = {value: key for key, value in parameters.items() if isinstance(value, str) and value}
    flat, subject = {}, ""
    for measure, value in numbers.items():
        if measure.startswith("…"):  # goes on from the measure above it
            measure = f"{subject} {measure}".strip()
        else:
            subject = measure
        for network, number in value.items() if isinstance(value, Mapping) else [("", value)]:
            if isinstance(number, int | float):
                flat[measure, names.get(network, network)] = float(number)
    return flat


def _table(records: Sequence[Record]) -> str:
    parameters, numbers = _keys(r.parameters for r in records), _keys(r.numbers for r in records)
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rest = ["duration_s", "peak_memory_mib", "device", "error", "notebook"]
    rows.writerow(["run", *parameters, *map(_label, numbers), *rest])
    for record in records:
        values = [record.parameters.get(key) for key in parameters] + [record.numbers.get(key) for key in numbers]
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
        parts += ["<h2>Pictures</h2>", _contact_sheet(folder, done, varied), "<h2>All runs</h2>", _runs(done, varied)]
    title = f"{folder.resolve().name}: {len(done)} runs"
    return PAGE.replace("TITLE", _text(title)).replace("BODY", "\n".join(parts))


def _facts(records: Sequence[Record], done: Sequence[Record], failed: Sequence[Record], varied: Sequence[str]) -> str:
    fixed = {key: value for key, value in records[0].parameters.items() if key not in varied}
    devices, versions = _join(r.device for r in done), _join(f"{k} {v}" for r in done for k, v in r.versions.items())
    seconds = [r.duration_s for r in done if r.duration_s is not None]
    memory = [r.peak_memory_mib for r in done if r.peak_memory_mib is not None]
    facts = {
        "notebook": _text(_join(Path(r.notebook).name for r in records)),
        "runs": f"{len(done)} done, {len(failed)} failed",
        "swept": _text("; ".join(f"{key}: {_join(r.parameters.get(key) for r in records)}" for key in varied) or "–"),
        "fixed": _text(", ".join(f"{key}={value}" for key, value in fixed.items()) or "–"),
        "one run": f"{statistics.median(seconds):.3g} s (median)" if seconds else "",
        "peak memory": f"{max(memory):.0f} MiB" if memory else "",
        "device, versions": _text(", ".join(filter(None, (devices, versions)))),
        "table": "<a href=results.csv>results.csv</a>",
    }
    return "<dl>" + "".join(f"<dt>{key}<dd>{value}" for key, value in facts.items() if value) + "</dl>"


def _summary(done: Sequence[Record], axes: Sequence[str], over: str) -> str:
    """Mean and spread of every number, for every combination of the other parameters."""
    numbers, groups = _keys(r.numbers for r in done), _groups(done, axes)
    table = [[", ".join(axes), *(_text(_label(key)) for key in numbers), "n", f"notebooks, by {_text(over)}"]]
    for values, group in groups.items():
        links = " ".join(_link(r.notebook, r.parameters.get(over, r.name)) for r in group)
        means = (_mean([r.numbers[key] for r in group if key in r.numbers]) for key in numbers)
        table.append([_text(", ".join(map(str, values)) or "all"), *means, str(len(group)), links])
    if len(groups) < len(numbers):  # the longer side goes down the page
        table = [list(column) for column in zip(*table, strict=True)]
    return _html_table(table) + f"<p class=note>Mean ± standard deviation over {_text(over)}, of n runs.</p>"


def _mean(values: Sequence[float]) -> str:
    if not values:
        return ""
    spread = f"<small> ± {statistics.stdev(values):.2g}</small>" if len(values) > 1 else ""
    return f"{_short(statistics.fmean(values))}{spread}"


def _runs(done: Sequence[Record], varied: Sequence[str]) -> str:
    numbers = _keys(r.numbers for r in done)
    table = [[", ".join(varied), *(_text(_label(key)) for key in numbers), "seconds", "MiB"]]
    for record in done:
        values = [_short(record.numbers[key]) if key in record.numbers else "" for key in numbers]
        values += ["" if value is None else f"{value:.0f}" for value in (record.duration_s, record.peak_memory_mib)]
        table.append([_text(_join(record.parameters.get(key) for key in varied) or record.name)])
        table[-1] += [_link(record.notebook, value) for value in values]
    return _html_table(table)


def _curves(done: Sequence[Record], axis: str, axes: Sequence[str]) -> str:
    """One panel per measure; a line per network and per combination of the other parameters."""
    measures = list(dict.fromkeys(key[0] for key in _keys(r.numbers for r in done)))
    if not measures:
        return ""
    others = [key for key in axes if key != axis]
    ticks = list(dict.fromkeys(r.parameters[axis] for r in done))
    numeric = all(isinstance(tick, int | float) and not isinstance(tick, bool) for tick in ticks)
    columns = min(3, len(measures))
    rows = -(-len(measures) // columns)
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "nbhelpers", "font.size": 9}):
        figure = Figure(figsize=(3.6 * columns, 2.7 * rows), layout="constrained")
        panels = figure.subplots(rows, columns, squeeze=False).flat
        for panel, measure in itertools.zip_longest(panels, measures):
            if measure is None:
                panel.axis("off")
                continue
            lines = [
                (network, values, group)
                for network in dict.fromkeys(key[1] for r in done for key in r.numbers if key[0] == measure)
                for values, group in _groups(done, others).items()
            ]
            for color, (network, values, group) in zip(itertools.cycle(COLORS), lines, strict=False):
                points = []
                for (tick,), runs in _groups(group, [axis]).items():
                    seen = [r.numbers[measure, network] for r in runs if (measure, network) in r.numbers]
                    if seen:
                        spread = statistics.stdev(seen) if len(seen) > 1 else 0.0
                        points.append((tick if numeric else ticks.index(tick), statistics.fmean(seen), spread))
                if points:
                    x, y, spread = zip(*sorted(points), strict=True)
                    label = ", ".join(map(str, filter(None, (network, *values))))
                    panel.errorbar(x, y, spread, color=color, marker="o", markersize=4, capsize=3, label=label)
            panel.set_title(measure, color=INK, fontsize=9.5)
            panel.set_xlabel(axis, color=INK)
            if not numeric:
                panel.set_xticks(range(len(ticks)), map(str, ticks), rotation=20, ha="right")
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
        caption = ", ".join(f"{key}={record.parameters.get(key)}" for key in varied) or record.name
        for picture in record.pictures:
            with PIL.Image.open(folder / picture) as image:
                small = image.convert("RGB")
            small.thumbnail((640, 640), PIL.Image.Resampling.LANCZOS)
            encoded = io.BytesIO()
            small.save(encoded, "WEBP", quality=80)
            source = "data:image/webp;base64," + base64.b64encode(encoded.getvalue()).decode()
            name = Path(picture).stem
            tag = f'<img src="{source}" width={small.width} height={small.height} alt="{_text(f"{name}, {caption}")}">'
            sheets.setdefault(name, []).append(
                f'<figure><a href="{_quote(picture)}">{tag}</a>'
                f"<figcaption>{_link(record.notebook, caption)}</figcaption></figure>"
            )
    if not sheets:
        return "<p class=note>The runs saved no picture.</p>"
    return "".join(f"<h3>{_text(name)}</h3><div class=sheet>{''.join(each)}</div>" for name, each in sheets.items())


def _failure(record: Record) -> str:
    error_file = f'<a href="{_quote(record.name)}/error.txt">error.txt</a>'
    return f"<li>{_link(record.notebook, record.name)}: {_text(record.error)} ({error_file})"


def _groups(records: Iterable[Record], keys: Sequence[str]) -> dict[tuple[Any, ...], list[Record]]:
    groups: dict[tuple[Any, ...], list[Record]] = {}
    for record in records:
        groups.setdefault(tuple(record.parameters.get(key) for key in keys), []).append(record)
    return groups


def _keys(mappings: Iterable[Mapping[Any, Any]]) -> list[Any]:
    return list(dict.fromkeys(key for mapping in mappings for key in mapping))


def _html_table(table: Sequence[Sequence[str]]) -> str:
    """From cells that are HTML already; the first row and the first column are headings."""
    head = "".join(f"<th>{cell}" for cell in table[0])
    rows = "".join(f"<tr><th>{row[0]}" + "".join(f"<td>{cell}" for cell in row[1:]) for row in table[1:])
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
