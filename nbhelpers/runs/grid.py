"""What a sweep runs over: values checked and typed by the notebook's own parameters cell."""

import ast
import contextlib
import difflib
import hashlib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import papermill
import yaml

Parameters = Mapping[str, Mapping[str, str]]  # as papermill infers them: name → type, default, help

_KINDS: dict[str, Callable[[Any], Any]] = {
    "int": int,
    "float": float,
    "str": str,
    "bool": lambda text: {"true": True, "false": False}[text.lower()],
}


def inspect(notebook: Path) -> Parameters:
    """The notebook's parameters as papermill infers them.

    Raises:
        ValueError: no such notebook, not a notebook, no tagged cell, or no parameter `out`.
    """
    if not notebook.is_file():
        near = difflib.get_close_matches(notebook.name, [path.name for path in notebook.parent.glob("*.ipynb")])
        hint = f"; did you mean {near[0]}?" if near else ""
        raise ValueError(f"no notebook {notebook}{hint}")
    try:
        parameters = papermill.inspect_notebook(escaped(notebook))
    except Exception as error:  # whatever JSON, nbformat or papermill find wrong with it
        raise ValueError(f"{notebook} cannot be read as a notebook: {error}") from error
    if "out" not in parameters:
        raise ValueError(f'{notebook.name} has no parameter `out`: tag a cell "parameters", with `out: str = ""` in it')
    return parameters


def axes(notebook: Path, grid: Mapping[str, Any], presets: Sequence[str | Path]) -> dict[str, list[Any]]:
    """The values of every parameter that is given, those of the grid last and in its order.

    Args:
        notebook: whose parameters they are.
        grid: parameter → value or values.
        presets: YAML files of the same, which the grid overrides.

    Raises:
        ValueError: an unknown parameter or file, or a value of the wrong type.
    """
    known = inspect(notebook)
    found: dict[str, list[Any]] = {}
    for preset in presets:
        for name, values in _read_preset(preset, notebook).items():
            found[name] = _axis(name, values, known, str(preset))
    found = {name: values for name, values in found.items() if name not in grid}
    return found | {name: _axis(name, values, known, "the grid") for name, values in grid.items()}


def defaults(notebook: Path) -> dict[str, Any]:
    """The notebook's own values, without `out`."""
    return {name: _default(parameter) for name, parameter in inspect(notebook).items() if name != "out"}


def run_name(parameters: Mapping[str, Any]) -> str:
    """A folder name: readable, safe on any file system, the same every time, and different for different values."""
    exact = ",".join(f"{key}={value}" for key, value in parameters.items()) or "defaults"
    name = re.sub(r"[^\w.,=+-]", "_", exact, flags=re.ASCII)
    if name != exact or len(name) > 120:
        name = f"{name[:100]}-{hashlib.sha256(exact.encode()).hexdigest()[:8]}"
    return name


def split_values(text: str, kind: str) -> list[Any]:
    """Values from the command line: `a,b`, for integers also `0:5` and `0:10:2`; a list parameter takes YAML whole."""
    if kind not in _KINDS:
        return [yaml.safe_load(text)]
    if kind == "int" and re.fullmatch(r"-?\d+:-?\d+(:-?\d+)?", text):
        return list(range(*map(int, text.split(":"))))
    return text.split(",")


def kind(parameter: Mapping[str, str]) -> str:
    """The type of a parameter: its annotation, without Optional[…], or else its default's."""
    annotation = parameter["inferred_type_name"]
    if annotation == "None":
        return type(_default(parameter)).__name__
    return re.sub(r"^Optional\[(.*)\]$", r"\1", annotation)


def _default(parameter: Mapping[str, str]) -> Any:
    try:
        return ast.literal_eval(parameter["default"])
    except (ValueError, SyntaxError):
        return parameter["default"]  # an expression: for the record only


def _axis(name: str, values: Any, known: Parameters, where: str) -> list[Any]:
    if name == "out":
        raise ValueError("out: the sweep itself gives each run its folder; take it out of the parameters")
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]}? " if near else ""
        raise ValueError(f"unknown parameter {name!r} in {where}; {hint}The notebook has {', '.join(known)}")
    wanted = kind(known[name])
    many = isinstance(values, Iterable) and not isinstance(values, str | Mapping) and wanted in _KINDS
    checked = [_value(name, value, known[name], where) for value in (values if many else [values])]
    if not checked:
        raise ValueError(f"{name}: no value in {where}")
    return checked


def _value(name: str, value: Any, parameter: Mapping[str, str], where: str) -> Any:
    wanted = kind(parameter)
    value = value.item() if hasattr(value, "item") else str(value) if isinstance(value, Path) else value
    if value is None or (isinstance(value, str) and value.lower() in ("none", "null")):
        if parameter["inferred_type_name"].startswith("Optional[") or parameter["default"] == "None":
            return None
    elif wanted not in _KINDS:
        return value
    elif isinstance(value, str):  # from the command line, or 1e-3, which YAML reads as text
        with contextlib.suppress(ValueError, KeyError):
            return _KINDS[wanted](value)
    elif type(value).__name__ == wanted:
        return value
    elif wanted == "float" and type(value) is int:
        return float(value)
    default = parameter["default"]
    raise ValueError(f"{name}: got {value!r} in {where}, wanted {parameter['inferred_type_name']} (default {default})")


def _read_preset(preset: str | Path, notebook: Path) -> dict[str, Any]:
    """A YAML file's parameters; its path counts from here, or else from the notebook."""
    places = [Path(preset), notebook.parent / preset]
    path = next((place for place in places if place.is_file()), None)
    if path is None:
        raise ValueError(f"no parameter file {preset}, neither here nor in {notebook.parent}")
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise ValueError(f"{path} cannot be read as YAML: {error}") from error
    if not isinstance(values, dict):
        raise ValueError(f"{path}: wanted lines of `parameter: value`")
    return values


def escaped(path: Path) -> str:
    """A path as papermill wants it."""
    return str(path).replace("{", "{{").replace("}", "}}")  # papermill fills in braces
