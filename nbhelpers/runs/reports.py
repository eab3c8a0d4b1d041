"""A sweep's folder as one page and one table."""

import base64
import csv
import io
import json
import statistics
import sys
import urllib.parse
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import jinja2
import PIL.Image
from markupsafe import Markup, escape

from nbhelpers.files import check_file, write_text
from nbhelpers.names import near
from nbhelpers.runs.pages import notebook_page
from nbhelpers.runs.report_curves import Line, Panel, draw_panels, is_finite

PAGE = Path(__file__).with_name("report.html")
# The notebooks' names of networks → parameters.
ROLES = {"robust": "checkpoint", "standard": "baseline"}
MISSING = "–"  # a parameter missing in an earlier notebook

Number = tuple[str, str]  # measure, network (or null, or "")


@dataclass(frozen=True)
class Record:
    """A run, read from its folder."""

    name: str
    index: int  # position in the plan
    parameters: Mapping[str, Any]
    numbers: Mapping[Number, float] = field(default_factory=dict)
    duration_s: float | None = None
    peak_memory_mib: float | None = None
    device: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)
    notebook: str = ""  # relative to the sweep's folder, as are the pictures
    page: str = ""  # the notebook as HTML, or itself without conversion
    pictures: tuple[str, ...] = ()
    error: str = ""
    done: bool = False  # has a result; without result and error, a sweep repeats it


def report(folder: str | Path, *, over: str = "seed") -> Path:
    """Write `report.html` and `results.csv` into a sweep's folder.

    Args:
        folder: of the sweep.
        over: the parameter to average over; "seed" may be missing.

    Returns:
        The page's path.

    Raises:
        ValueError: no run in the folder, no run with the parameter, or an unwritable folder.
    """
    folder = Path(folder)
    records = read_runs(folder)
    if not records:
        raise ValueError(f"no run in {folder}; wanted the folder given to a sweep with -o")
    known = _keys(record.parameters for record in records)
    if over not in known and over != "seed":
        meant = "".join(f"did you mean {name}? " for name in near(over, known, most=1))
        raise ValueError(f"over: no run has {over!r}; {meant}The runs have {', '.join(known)}")
    check_file(folder / "results.csv")
    check_file(folder / "report.html")
    over = over if over in known else ""
    varied = [
        key for key in _keys(r.parameters for r in records) if len(_groups(records, [key])) > 1
    ]
    try:
        records = [replace(record, page=_readable(folder, record)) for record in records]
        write_text(folder / "results.csv", _table(records))
        write_text(
            folder / "report.html", _page(folder, records, varied, over if over in known else "")
        )
    except OSError as error:
        raise ValueError(f"cannot write to {folder}: {error.strerror}") from error
    return folder / "report.html"


def read_runs(folder: str | Path) -> list[Record]:
    """The done and failed runs of a sweep's folder, in plan order."""
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
        path.exists() and not run.get("error"),
    )


def _flat(numbers: Mapping[str, Any], parameters: Mapping[str, Any]) -> dict[Number, float]:
    """Numbers by measure and network; networks are named by their parameter, to compare runs.

    If checkpoint and baseline are equal, their comparison is left out.
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
        if measure.startswith("…"):  # continues the previous measure's name
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
    records = [
        r if r.done or r.error else replace(r, error="open: no result.json") for r in records
    ]
    rows.writerow(["run", *parameters, *map(_label, numbers), *rest])
    for record in records:
        values = [record.parameters.get(key) for key in parameters] + [
            record.numbers.get(key) for key in numbers
        ]
        rows.writerow([record.name, *values, *(getattr(record, key) for key in rest)])
    return text.getvalue()


def _page(folder: Path, records: Sequence[Record], varied: Sequence[str], over: str) -> str:
    done, failed = [r for r in records if r.done], [r for r in records if r.error]
    axes = [key for key in varied if key != over]
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, undefined=jinja2.StrictUndefined
    )
    return environment.from_string(PAGE.read_text(encoding="utf-8")).render(
        name=folder.resolve().name,
        done=done,
        failed=failed,
        facts=_facts(records, varied),
        summary=_summary(done, axes, over),
        over=over,
        curves={axis: Markup(draw_panels(_panels(done, axis, axes), axis)) for axis in axes},
        pictures=_contact_sheets(folder, done, varied),
        runs=_runs(done, varied),
        link=_link,
    )


def _facts(records: Sequence[Record], varied: Sequence[str]) -> dict[str, str | Markup]:
    fixed = {
        key: value
        for record in records
        for key, value in record.parameters.items()
        if key not in varied
    }
    done, failed = sum(r.done for r in records), sum(bool(r.error) for r in records)
    left = len(records) - done - failed
    seconds = [r.duration_s for r in records if r.done and r.duration_s is not None]
    memory = [r.peak_memory_mib for r in records if r.done and r.peak_memory_mib is not None]
    devices = [r.device for r in records if r.done]
    versions = [f"{name} {is_}" for r in records if r.done for name, is_ in r.versions.items()]
    swept = (f"{key}: {_join(_shown(r, key) for r in records)}" for key in varied)
    return {
        "notebook": _join(Path(r.notebook).name for r in records),
        "runs": f"{done} done, {failed} failed" + (f", {left} open" if left else ""),
        "swept": "; ".join(swept) or "–",
        "fixed": ", ".join(f"{key}={value}" for key, value in fixed.items()) or "–",
        "one run": f"{statistics.median(seconds):.3g} s (median)" if seconds else "",
        "peak memory": f"{max(memory):.0f} MiB" if memory else "",
        "device, versions": _join([*devices, *versions]),
        "table": _link("results.csv", "results.csv"),
    }


def _summary(done: Sequence[Record], axes: Sequence[str], over: str) -> list[list[str | Markup]]:
    """Mean and standard deviation of each number, per combination of the other parameters."""
    numbers, groups = _keys(r.numbers for r in done), _groups(done, axes)
    links_by = f"notebooks, by {over}" if over else "notebooks"
    table: list[list[str | Markup]] = [
        [", ".join(axes), *(_label(key) for key in numbers), "n", links_by]
    ]
    for values, group in groups.items():
        links = Markup(" ").join(_link(r.page, r.parameters.get(over, r.name)) for r in group)
        means = (_mean([r.numbers[key] for r in group if key in r.numbers]) for key in numbers)
        table.append([", ".join(values) or "all", *means, str(len(group)), links])
    if len(groups) < len(numbers):  # the longer side as rows
        table = [list(column) for column in zip(*table, strict=True)]
    return table


def _mean(values: Sequence[float]) -> str | Markup:
    finite = [value for value in values if is_finite(value)]
    if not finite:
        return _join(map(_short, values))
    spread = f" ± {statistics.stdev(finite):.2g}" if len(finite) > 1 else ""
    if len(finite) < len(values):
        spread += f" ({len(values) - len(finite)} of {len(values)} not finite)"
    mean = _short(statistics.fmean(finite))
    return Markup("{}<small>{}</small>").format(mean, spread) if spread else mean


def _runs(done: Sequence[Record], varied: Sequence[str]) -> list[list[str | Markup]]:
    numbers = _keys(r.numbers for r in done)
    table: list[list[str | Markup]] = [
        [", ".join(varied), *(_label(key) for key in numbers), "seconds", "MiB"]
    ]
    for record in done:
        values = [_short(record.numbers[key]) if key in record.numbers else "" for key in numbers]
        values += [
            "" if value is None else f"{value:.0f}"
            for value in (record.duration_s, record.peak_memory_mib)
        ]
        name = _join(_shown(record, key) for key in varied) or record.name
        table.append([name, *(_link(record.page, value) for value in values)])
    return table


def _panels(done: Sequence[Record], axis: str, axes: Sequence[str]) -> list[Panel]:
    """One panel per measure; a line per network and combination of the other parameters."""
    others = [key for key in axes if key != axis]
    ticks = [group[0].parameters.get(axis, MISSING) for group in _groups(done, [axis]).values()]
    numeric = all(map(is_finite, ticks))
    places = {_frozen(tick): tick if numeric else k for k, tick in enumerate(ticks)}
    panels = []
    for measure in dict.fromkeys(key[0] for key in _keys(r.numbers for r in done)):
        networks = dict.fromkeys(key[1] for r in done for key in r.numbers if key[0] == measure)
        lines = []
        for network in networks:
            for values, group in _groups(done, others).items():
                seen: dict[float, list[float]] = {}
                for record in group:
                    value = record.numbers.get((measure, network))
                    if value is not None and is_finite(value):
                        place = places[_frozen(record.parameters.get(axis, MISSING))]
                        seen.setdefault(place, []).append(value)
                lines.append(Line(", ".join(filter(None, (network, *values))), seen))
        panels.append(Panel(measure, lines, ticks, numeric))
    return panels


def _contact_sheets(
    folder: Path, done: Sequence[Record], varied: Sequence[str]
) -> dict[str, list[dict[str, Any]]]:
    """Thumbnails of the runs' pictures, by name."""
    sheets: dict[str, list[dict[str, Any]]] = {}
    for record in done:
        caption = ", ".join(f"{key}={_shown(record, key)}" for key in varied) or record.name
        for picture in record.pictures:
            try:
                with PIL.Image.open(folder / picture) as image:
                    small = image.convert("RGB")
            except Exception:
                continue  # a damaged picture; the run's numbers still count
            small.thumbnail((640, 640), PIL.Image.Resampling.LANCZOS)
            encoded = io.BytesIO()
            small.save(encoded, "WEBP", quality=80)
            source = "data:image/webp;base64," + base64.b64encode(encoded.getvalue()).decode()
            about = {"place": picture, "source": source, "size": small.size}
            about |= {"caption": caption, "page": record.page}
            sheets.setdefault(Path(picture).stem, []).append(about)
    return sheets


def _groups(records: Iterable[Record], keys: Sequence[str]) -> dict[tuple[str, ...], list[Record]]:
    """The records by values of some parameters, as shown; 1 equals 1.0, NaN equals NaN."""
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


def _keys(mappings: Iterable[Mapping[Any, Any]]) -> list[Any]:
    return list(dict.fromkeys(key for mapping in mappings for key in mapping))


def _label(key: Number) -> str:
    return " · ".join(filter(None, key))


def _short(value: float) -> str:
    return f"{value:.3g}"


def _join(values: Iterable[Any]) -> str:
    return ", ".join(dict.fromkeys(str(value) for value in values if value not in (None, "")))


def _link(path: str, label: Any) -> Markup:
    if not path or not str(label):
        return escape(label)
    return Markup('<a href="{}">{}</a>').format(urllib.parse.quote(path), label)
