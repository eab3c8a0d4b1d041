"""A run's numbers: shown as a table, kept as result.json."""

import json
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from nbhelpers.files import write_text
from nbhelpers.types import pick_device

Numbers = Mapping[str, Mapping[str, float]]  # measure → network (or null) → value


def print_numbers(numbers: Numbers, *, note: str = "") -> None:
    """Print measures as rows and networks as columns, three significant digits.

    Args:
        numbers: measure → column → value; a missing value stays empty.
        note: how they were measured: n, seed, device.
    """
    columns = list(dict.fromkeys(column for row in numbers.values() for column in row))
    texts = {
        measure: [f"{row[c]:.3g}" if c in row else "" for c in columns]
        for measure, row in numbers.items()
    }
    first = max(map(len, texts))
    widths = [
        max(len(column), *(len(row[i]) for row in texts.values()))
        for i, column in enumerate(columns)
    ]
    print(
        " " * first,
        *(column.rjust(width) for column, width in zip(columns, widths, strict=True)),
        sep="  ",
    )
    for measure, row in texts.items():
        print(
            measure.ljust(first),
            *(t.rjust(width) for t, width in zip(row, widths, strict=True)),
            sep="  ",
        )
    if note:
        print(f"({note})")


def _plain(value: Any) -> Any:
    """What JSON has no form for: numbers and arrays of NumPy and torch as Python's, paths as
    text.
    """
    if hasattr(value, "tolist"):
        return value.tolist()
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"result.json: got {value!r:.80}, wanted numbers, texts, lists and tables")


def save_result(
    out: str | Path,
    *,
    parameters: Mapping[str, object],
    numbers: Numbers,
    images: Sequence[int] = (),
    figures: Mapping[str, Figure] | None = None,
) -> None:
    """Write `result.json` and the figures as PNG into a folder; do nothing where `out` is empty.

    The file is replaced whole, and last: where it stands, the run was complete.

    Args:
        out: the folder, made where missing.
        parameters: of the notebook; `seed` and `device` among them.
        numbers: measure → network → value.
        images: indices into the data set.
        figures: file name without ending → figure.

    Raises:
        TypeError: a parameter or number that JSON has no form for.
        ValueError: the folder cannot be written.
    """
    if not str(out):
        return
    folder = Path(out)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, figure in (figures or {}).items():
            figure.savefig(folder / f"{name}.png", dpi=figure.dpi)
        text = json.dumps(
            {
                "parameters": dict(parameters),
                "seed": parameters.get("seed"),
                # what "auto" was
                "device": str(pick_device(str(parameters.get("device", "auto")))),
                "images": list(map(int, images)),
                "numbers": {measure: dict(row) for measure, row in numbers.items()},
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
