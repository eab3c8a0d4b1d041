"""What a sweep runs over: values checked and typed by the notebook's own parameters cell."""

import ast
import contextlib
import difflib
import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from nbhelpers.runs.parameters import SCALARS, Kind, Parameter, read_parameters

_BOOLS = {"true": True, "false": False}


class Values(list):
    """Several values of one parameter; a plain list may also be the single value of a list
    parameter.
    """


def axes(
    notebook: Path, grid: Mapping[str, Any], presets: Sequence[str | Path]
) -> dict[str, list[Any]]:
    """The values of every parameter that is given, those of the grid last and in its order.

    Args:
        notebook: whose parameters they are.
        grid: parameter → value or values.
        presets: YAML files of the same, which the grid overrides.

    Raises:
        ValueError: an unknown parameter or file, or a value of the wrong type.
    """
    known = read_parameters(notebook)
    found: dict[str, list[Any]] = {}
    for preset in presets:
        for name, values in _read_preset(preset, notebook).items():
            found[name] = _axis(name, values, known, str(preset))
    found = {name: values for name, values in found.items() if name not in grid}
    return found | {name: _axis(name, values, known, "the grid") for name, values in grid.items()}


def defaults(notebook: Path) -> dict[str, Any]:
    """The notebook's own values, without `out`; an expression's text, for the record."""
    return {
        name: parameter.value
        for name, parameter in read_parameters(notebook).items()
        if name != "out"
    }


def run_name(parameters: Mapping[str, Any]) -> str:
    """A folder name: readable, safe on any file system, the same every time, and different for
    different values.
    """
    exact = ",".join(f"{key}={value}" for key, value in parameters.items()) or "defaults"
    name = re.sub(r"[^\w.,=+-]", "_", exact, flags=re.ASCII)
    if name != exact or len(name) > 120:
        name = f"{name[:100]}-{hashlib.sha256(exact.encode()).hexdigest()[:8]}"
    return name


def from_words(words: Iterable[str], notebook: Path) -> dict[str, Any]:
    """A grid from `NAME=VALUES` of the command line; a name given again adds its values.

    Raises:
        ValueError: no `=`, or a list or dictionary that is neither YAML nor Python.
    """
    known, grid = read_parameters(notebook), dict[str, Any]()
    for word in words:
        name, equals, text = word.partition("=")
        if not equals:
            raise ValueError(f"-p {word}: wanted NAME=VALUES")
        # `plan` tells the nearest name
        kind = known[name].kind if name in known else Kind(("str",))
        try:
            values = split_values(
                text, kind.names[0] if kind.scalar and len(kind.names) == 1 else ""
            )
            if kind.scalar and len(kind.names) > 1:  # int | str, say
                values = [_loaded(part) for part in text.split(",")]
        except (yaml.YAMLError, RecursionError) as error:
            raise ValueError(
                f"-p {word}: {' '.join(str(error).split())[:100]}; wanted for instance [1, 2]"
            ) from error
        grid[name] = Values([*grid.get(name, ()), *values])
    return grid


def split_values(text: str, kind: str) -> list[Any]:
    """Values from the command line: `a,b`, for integers also `0:5` and `0:10:2`.

    A list or a dictionary is a single value, written in YAML or Python.
    """
    if kind not in SCALARS:
        return [_loaded(text)]
    if kind == "int" and re.fullmatch(r"-?\d+:-?\d+(:-?\d+)?", text):
        return list(range(*map(int, text.split(":"))))
    return text.split(",")


def _loaded(text: str) -> Any:
    try:
        return ast.literal_eval(text.strip())
    except (ValueError, SyntaxError, TypeError):
        return _numbers(yaml.safe_load(text))


def _numbers(value: Any) -> Any:
    """YAML takes 1e-3 for text; inside lists and dictionaries nothing else would make it a
    number.
    """
    if isinstance(value, list):
        return [_numbers(one) for one in value]
    if isinstance(value, dict):
        return {key: _numbers(one) for key, one in value.items()}
    return (
        float(value)
        if isinstance(value, str) and re.fullmatch(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+", value)
        else value
    )


def _axis(name: str, values: Any, known: Mapping[str, Parameter], where: str) -> list[Any]:
    if name == "out":
        raise ValueError(
            "out: the sweep itself gives each run its folder; take it out of the parameters"
        )
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]}? " if near else ""
        raise ValueError(
            f"unknown parameter {name!r} in {where}; {hint}The notebook has {', '.join(known)}"
        )
    values = values if isinstance(values, Values) else _plain(values)
    parameter = known[name]
    many = isinstance(values, list | tuple | set | frozenset)
    if isinstance(values, Values) or (
        many and (parameter.kind.scalar or _several(values, parameter))
    ):
        checked = [_value(name, value, parameter, where) for value in values]
    else:
        try:
            checked = [_value(name, values, parameter, where)]
        except ValueError:  # what is no value of the parameter may be several
            if not many:
                raise
            try:
                checked = [_value(name, value, parameter, where) for value in values]
            except ValueError:
                checked = []
            if not checked:
                raise
    if not checked:
        raise ValueError(f"{name}: no value in {where}")
    return checked


def _several(values: Any, parameter: Parameter) -> bool:
    """Whether a list holds several values of a list or dictionary parameter, rather than being
    one.
    """
    containers = list | tuple | set | frozenset | dict
    if (
        not values
        or not parameter.kind.names
        or not all(isinstance(value, containers) for value in values)
    ):
        return False
    if parameter.kind.names == ("dict",):
        return True
    if parameter.kind.inside:
        return all(one.scalar for one in parameter.kind.inside)
    default = parameter.value
    return isinstance(default, containers) and not any(
        isinstance(one, containers) for one in default
    )


def _plain(value: Any) -> Any:
    """NumPy's and torch's numbers and arrays, ranges, iterators and paths as Python's own
    values.
    """
    if hasattr(value, "tolist"):
        return value.tolist()
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Mapping):
        return {key: _plain(one) for key, one in value.items()}
    if isinstance(value, Iterable) and not isinstance(value, str | bytes):
        items = [_plain(one) for one in value]
        return {tuple: tuple, set: set, frozenset: frozenset}.get(type(value), list)(items)
    return value


def _value(name: str, value: Any, parameter: Parameter, where: str) -> Any:
    try:
        return _converted(_plain(value), parameter.kind)
    except (ValueError, TypeError, KeyError):
        wanted = parameter.annotation or " or ".join(parameter.kind.names)
        raise ValueError(
            f"{name}: got {value!r} in {where}, wanted {wanted} (default {parameter.default})"
        ) from None


def _converted(value: Any, kind: Kind) -> Any:
    """A value as the parameter's kind wants it; raises one of ValueError, TypeError, KeyError
    where it cannot be.
    """
    if kind.optional and (
        value is None or (isinstance(value, str) and value.lower() in ("none", "null"))
    ):
        return None
    if not kind.names:
        return value
    if kind.choices:
        return {str(choice): choice for choice in kind.choices}[str(value)]
    if kind.scalar:
        return _scalar(value, kind.names)
    (name,) = kind.names
    takes: Any = {"dict": dict, "set": list | tuple | set | frozenset}.get(name, list | tuple)
    if not isinstance(value, takes):
        raise TypeError
    if isinstance(value, dict):
        key, item = kind.inside if len(kind.inside) == 2 else (Kind(), Kind())
        return {_converted(k, key): _converted(v, item) for k, v in value.items()}
    inside = kind.inside if len(kind.inside) > 1 else (kind.inside or (Kind(),)) * len(value)
    items = [_converted(one, item) for one, item in zip(value, inside, strict=True)]
    return items if name == "list" else {"tuple": tuple, "set": set}[name](items)


def _scalar(value: Any, names: Sequence[str]) -> Any:
    if type(value).__name__ in names:
        return value
    if "float" in names and type(value) is int:
        return float(value)
    if isinstance(value, str):  # from the command line, or 1e-3, which YAML reads as text
        for name, convert in (
            ("int", int),
            ("float", float),
            ("bool", lambda text: _BOOLS[text.lower()]),
        ):
            if name in names:
                with contextlib.suppress(ValueError, KeyError):
                    return convert(value)
    raise ValueError


def _read_preset(preset: str | Path, notebook: Path) -> dict[str, Any]:
    """A YAML file's parameters; its path counts from here, or else from the notebook."""
    places = [Path(preset).expanduser(), notebook.parent / preset]
    path = next((place for place in places if place.is_file()), None)
    if path is None:
        raise ValueError(f"no parameter file {preset}, neither here nor in {notebook.parent}")
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise ValueError(
            f"{path} cannot be read as YAML: {' '.join(str(error).split())}"
        ) from error
    if not isinstance(values, dict):
        raise ValueError(f"{path}: wanted lines of `parameter: value`")
    return {
        str(name): _numbers(value) if isinstance(value, list | dict) else value
        for name, value in values.items()
    }
