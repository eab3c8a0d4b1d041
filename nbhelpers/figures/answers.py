"""Answers of the recognition test: CSV files, and accuracy per condition."""

import csv
import glob
import io
import os
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

from nbhelpers.figures.plots import PALETTE, Figure
from nbhelpers.figures.results import Mean, mean_of
from nbhelpers.figures.style import in_house_style

ORIGINAL, INVERSION = "original", "inversion"  # conditions; an original is a catch trial
LEAST = 0.75  # share of catch trials that a person must get right


@dataclass(frozen=True)
class Answer:
    """One answer; fields are the columns of the CSV file, without personal data."""

    condition: str  # ORIGINAL or INVERSION
    network: str  # name of its checkpoint; empty for an original
    layer: str  # number and name, "3 (layer3)"; empty for an original
    image: str  # correct name
    answer: str  # chosen name
    right: bool
    time: float  # response time, seconds
    choices: int  # number of names
    seed: int  # of the session
    set: str  # description of pictures and settings
    version: str  # of nbhelpers

    @property
    def kind(self) -> str:
        """The condition with its network and layer."""
        return f"{self.network}, {self.layer}" if self.condition == INVERSION else "originals"


@dataclass(frozen=True, eq=False)
class Recognised:
    """Answers of one or more people."""

    answers: tuple[Answer, ...]
    people: int = 1
    notes: tuple[str, ...] = ()  # excluded files, and why

    @property
    def kinds(self) -> dict[str, list[Answer]]:
        """The answers in each condition: originals, then each network's layers."""
        kinds: dict[str, list[Answer]] = {}
        for one in sorted(self.answers, key=lambda one: (one.network, one.layer)):
            kinds.setdefault(one.kind, []).append(one)
        return kinds

    @property
    def accuracy(self) -> dict[str, Mean]:
        """Accuracy by condition, with Wilson's 95 % interval; answers count as independent."""
        return {kind: mean_of([one.right for one in some]) for kind, some in self.kinds.items()}

    @property
    def chance(self) -> float:
        """Chance level."""
        return statistics.mean(1 / one.choices for one in self.answers)

    @property
    def table(self) -> list[tuple[str, str, str, str]]:
        """Rows: condition, right answers, accuracy with interval, median time."""
        return [
            (
                kind,
                f"{sum(one.right for one in some)} of {len(some)}",
                str(self.accuracy[kind]),
                f"{statistics.median(one.time for one in some):.1f} s",
            )
            for kind, some in self.kinds.items()
        ]

    @in_house_style
    def figure(self) -> Figure:
        """Accuracy by network and layer, with intervals, chance and the originals."""
        figure = Figure(figsize=(6.4, 3.2), dpi=100, layout="constrained", label="recognition")
        axes, accuracy = figure.add_subplot(), self.accuracy
        networks = dict.fromkeys(one.network for one in self.answers if one.network)
        layers = sorted({one.layer for one in self.answers if one.layer})
        for index, network in enumerate(networks):
            found = [(k, accuracy.get(f"{network}, {layer}")) for k, layer in enumerate(layers)]
            there = [(k + 0.06 * index, mean) for k, mean in found if mean is not None]
            spans = [(mean.low, mean.mean, mean.high) for _, mean in there]
            lengths = [
                [middle - (middle if low is None else low) for low, middle, _ in spans],
                [(middle if high is None else high) - middle for _, middle, high in spans],
            ]
            axes.errorbar(
                [k for k, _ in there],
                [mean.mean for _, mean in there],
                yerr=lengths,
                color=PALETTE[index % len(PALETTE)],
                marker="o",
                capsize=3,
                label=network,
            )
        if "originals" in accuracy:
            axes.axhline(
                accuracy["originals"].mean, color="#4d4d4d", linestyle=":", label="originals"
            )
        axes.axhline(self.chance, color="#8a8a8a", linestyle="--", label="chance")
        axes.set_xticks(range(len(layers)), layers)
        axes.set(ylim=(0, 1.02), xlabel="layer", ylabel="share recognised")
        axes.spines[["top", "right"]].set_visible(False)
        figure.legend(loc="outside right upper", frameon=False, fontsize=8.5)
        return figure

    def __str__(self) -> str:
        head = ("condition", "right", "accuracy (95 %)", "median time")
        rows = [head, *self.table]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = [
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
            for row in rows
        ]
        people = "1 person" if self.people == 1 else f"{self.people} people"
        return "\n".join([*lines, f"({people}; chance {self.chance:.2g})", *self.notes])

    __repr__ = __str__


def recognised(
    files: str | os.PathLike[str] | Iterable[str | os.PathLike[str]], *, least: float = LEAST
) -> Recognised:
    """Join the answers of several people, a file each.

    Duplicate files, and people below `least` on the originals, are excluded with a note.

    Args:
        files: a pattern such as "answers/*.csv", or paths.
        least: required share of originals recognised, 0 to 1.

    Returns:
        Accuracies, which print as a table; `.figure()` draws them.

    Raises:
        ValueError: no files, not a file of answers, different versions or sets, or nobody is left.
    """
    paths = _paths(files)
    sessions = {path: read_answers(path) for path in paths}
    for field in ("version", "set"):
        found = {getattr(one, field) for some in sessions.values() for one in some}
        if len(found) > 1:
            raise ValueError(f"files: {field}s differ ({', '.join(sorted(found))}); join one alone")
    kept: list[Answer] = []
    seen: list[list[Answer]] = []
    notes = []
    for path, some in sessions.items():
        caught = [one.right for one in some if one.condition == ORIGINAL]
        if some in seen:
            notes.append(f"left out: {path.name}, the same answers as in another file")
            continue
        seen.append(some)
        if not caught or sum(caught) < least * len(caught):
            share = f"{sum(caught)} of {len(caught)} originals right"
            notes.append(f"left out: {path.name}, {share}, {least:.0%} are needed")
            continue
        kept += some
    if not kept:
        raise ValueError(f"files: nobody is left; {'; '.join(notes)}")
    return Recognised(tuple(kept), len(sessions) - len(notes), tuple(notes))


def write_answers(answers: Sequence[Answer]) -> str:
    """Answers as the text of a CSV file."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    names = [field.name for field in fields(Answer)]
    writer.writerow(names)
    for one in answers:
        row = vars(one) | {"right": int(one.right), "time": f"{one.time:.2f}"}
        writer.writerow([row[name] for name in names])
    return buffer.getvalue()


def read_answers(path: str | os.PathLike[str]) -> list[Answer]:
    """The answers in a CSV file, in order.

    Raises:
        ValueError: not a file of answers.
    """
    path = Path(path)
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            rows = list(csv.DictReader(file))
        answers = [_answer(row) for row in rows]
    except (OSError, KeyError, TypeError, ValueError, csv.Error) as error:
        raise ValueError(
            f"files: {path.name} has no answers ({type(error).__name__}: {error}); give files of "
            "“Save answers”"
        ) from None
    if not answers:
        raise ValueError(f"files: {path.name} has no answers; give files of “Save answers”")
    return answers


def _answer(row: dict[str, str]) -> Answer:
    if row["condition"] not in (ORIGINAL, INVERSION) or row["right"] not in ("0", "1"):
        raise ValueError(f"condition {row['condition']!r}, right {row['right']!r}")
    numbers = {"right": row["right"] == "1", "time": float(row["time"])}
    numbers |= {"choices": int(row["choices"]), "seed": int(row["seed"])}
    texts = {field.name: row[field.name] for field in fields(Answer)}
    if numbers["choices"] < 1 or None in texts.values():
        raise ValueError("a row is damaged")
    return Answer(**(texts | numbers))  # type: ignore[arg-type]


def _paths(files: str | os.PathLike[str] | Iterable[str | os.PathLike[str]]) -> list[Path]:
    if not isinstance(files, str | os.PathLike):
        paths = [Path(one).expanduser() for one in files]
    else:
        pattern = os.path.expanduser(os.fspath(files))
        paths = (
            [Path(pattern)] if os.path.isfile(pattern) else sorted(map(Path, glob.glob(pattern)))
        )
    if not paths:
        raise ValueError(f"files: nothing matches {files!r}; give such as 'answers/*.csv'")
    return paths
