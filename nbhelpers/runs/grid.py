"""A sweep's values, typed by the notebook's parameters cell."""

import ast
import contextlib
import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

import yaml

from nbhelpers.names import near
from nbhelpers.runs.parameters import SCALARS, Notebook, Parameter, read_notebook

_BOOLS = {"true": True, "false": False}
_TAG = "tag:yaml.org,2002:"


class _Plain(yaml.SafeLoader):
    """YAML with 2020-01-02 and 12:30 as strings, and 1e-3 as a number."""


_Plain.yaml_constructors = {
    tag: construct
    for tag, construct in yaml.SafeLoader.yaml_constructors.items()
    if tag != f"{_TAG}timestamp"
}
_Plain.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in known if tag.removeprefix(_TAG) in ("bool", "null")]
    for first, known in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Plain.add_constructor(f"{_TAG}int", lambda loader, node: int(loader.construct_scalar(node)))
for _name, _pattern in (
    ("int", r"[-+]?\d+"),
    ("float", r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)"),
    ("merge", "<<"),
):
    _Plain.add_implicit_resolver(
        f"{_TAG}{_name}", re.compile(f"^(?:{_pattern})$"), list("-+.0123456789<")
    )


class Values(list):
    """Several values of a parameter; a plain list may be one value of a list parameter."""


def axes(
    notebook: str | Path | Notebook,
    grid: Mapping[str, Any],
    presets: Sequence[str | Path | Mapping[str, Any]],
) -> dict[str, list[Any]]:
    """Parameter → values, from presets, then the grid in its order.

    Args:
        notebook: defines the parameters.
        grid: parameter → value or values.
        presets: the same, as YAML files or mappings; the grid overrides them.

    Raises:
        ValueError: an unknown parameter or file, or a value of the wrong type.
    """
    notebook = read_notebook(notebook)
    found: dict[str, list[Any]] = {}
    for preset in presets:
        given, where = preset, "the preset"
        if not isinstance(given, Mapping):  # a path relative to here, or else to the notebook
            places = [Path(given).expanduser(), notebook.path.parent / given]
            place = next((place for place in places if place.is_file()), None)
            if place is None:
                raise ValueError(
                    f"no parameter file {given}, neither here nor in {notebook.path.parent}"
                )
            given, where = read_values(place), str(preset)
        for name, values in given.items():
            found[name] = _axis(name, values, notebook.parameters, where)
    found = {name: values for name, values in found.items() if name not in grid}
    return found | {
        name: _axis(name, values, notebook.parameters, "the grid") for name, values in grid.items()
    }


def read_values(path: Path) -> dict[str, Any]:
    """Parameters from a YAML file.

    Raises:
        ValueError: unreadable, or not lines of `parameter: value`.
    """
    try:
        values = yaml.load(path.read_text(encoding="utf-8"), _Plain)
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise ValueError(
            f"{path} cannot be read as YAML: {' '.join(str(error).split())}"
        ) from error
    if not isinstance(values, dict):
        raise ValueError(f"{path}: wanted lines of `parameter: value`")
    return {str(name): value for name, value in values.items()}


def run_name(parameters: Mapping[str, Any]) -> str:
    """A readable, portable, deterministic and unique folder name."""
    exact = ",".join(f"{key}={value}" for key, value in parameters.items()) or "defaults"
    name = re.sub(r"[^\w.,=+-]", "_", exact, flags=re.ASCII)
    if name != exact or len(name) > 120:
        name = f"{name[:100]}-{hashlib.sha256(exact.encode()).hexdigest()[:8]}"
    return name


def from_words(words: Iterable[str], notebook: str | Path | Notebook) -> dict[str, Any]:
    """A grid from `NAME=VALUES` of the command line; repeated names add values.

    Raises:
        ValueError: no `=`, or a list or dictionary that is neither YAML nor Python.
    """
    known, grid = read_notebook(notebook).parameters, dict[str, Any]()
    for word in words:
        name, equals, text = word.partition("=")
        if not equals:
            raise ValueError(f"-p {word}: wanted NAME=VALUES")
        # an unknown name is reported by `plan`
        kinds = _scalars(known[name].kind if name in known else str)
        if len(kinds) == 1:
            values = split_values(text, kinds[0])
        else:  # such as int | str; a list or dictionary is a single value
            parts = text.split(",") if kinds else [text]
            values = [loaded(part, word) for part in parts]
        grid[name] = Values([*grid.get(name, ()), *values])
    return grid


def split_values(text: str, kind: type) -> list[Any]:
    """Scalars from the command line: `a,b`, for integers also `0:5` and `0:10:2`."""
    if kind is int and re.fullmatch(r"-?\d+:-?\d+(:-?\d+)?", text):
        return list(range(*map(int, text.split(":"))))
    return text.split(",")


def loaded(text: str, word: str) -> Any:
    """A Python or YAML value of a word after -p.

    Raises:
        ValueError: neither.
    """
    try:
        return ast.literal_eval(text.strip())
    except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
        pass
    try:
        return yaml.load(text, _Plain)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ValueError(
            f"-p {word}: {' '.join(str(error).split())[:100]}; wanted for instance [1, 2]"
        ) from error


def one_value(text: str, parameter: Parameter) -> Any:
    """A parameter's single value from command-line text.

    Raises:
        ValueError: wrong type.
    """
    one = len(_scalars(parameter.kind)) == 1
    value = text if one else loaded(text, f"{parameter.name}={text}")
    return _value(value, parameter, "-p")


def unknown(name: str, known: Iterable[str]) -> str:
    """A suggestion, and the known names."""
    meant = "".join(f"did you mean {one}? " for one in near(name, known, most=1))
    return f"{meant}The notebook has {', '.join(known)}"


def _axis(name: str, values: Any, known: Mapping[str, Parameter], where: str) -> list[Any]:
    if name == "out":
        raise ValueError(
            "out: the sweep itself gives each run its folder; remove it from the parameters"
        )
    if name not in known:
        raise ValueError(f"unknown parameter {name!r} in {where}; {unknown(name, known)}")
    parameter, several = known[name], isinstance(values, Values)
    try:
        values = values if several else _plain(values)
    except TypeError as error:
        raise ValueError(f"{name}: {error}") from None
    many = isinstance(values, list | tuple | set | frozenset)
    if not several and not (many and _holds_several(values, parameter)):
        try:
            return [_value(values, parameter, where)]
        except ValueError:  # no single value: maybe several
            if not many:
                raise
            with contextlib.suppress(ValueError):
                return _checked([_value(value, parameter, where) for value in values])
            if values:
                raise
    return _checked([_value(value, parameter, where) for value in values], name, where)


def _checked(values: list[Any], name: str = "", where: str = "") -> list[Any]:
    if not values:
        raise ValueError(f"{name}: no value in {where}")
    return values


def _holds_several(values: Any, parameter: Parameter) -> bool:
    """Whether a list of lists is several values of a bare `list` parameter, by its default."""
    containers = list | tuple | set | frozenset
    bare = parameter.kind in (list, tuple, set) and isinstance(parameter.value, containers)
    return bool(
        bare
        and values
        and all(isinstance(value, containers) for value in values)
        and not any(isinstance(one, containers) for one in parameter.value)
    )


def _plain(value: Any) -> Any:
    """NumPy, torch, ranges, iterators and paths as plain Python values.

    Raises:
        TypeError: a value that cannot be written into a notebook.
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
    if not isinstance(value, bool | int | float | complex | str | bytes | NoneType):
        raise TypeError(
            f"got {value!r}, wanted numbers, texts, lists or dictionaries; give a date as a text"
        )
    return value


def _value(value: Any, parameter: Parameter, where: str) -> Any:
    try:
        return _converted(_plain(value), parameter.kind)
    except (ValueError, TypeError, KeyError):
        wanted = parameter.annotation or getattr(parameter.kind, "__name__", "another")
        raise ValueError(
            f"{parameter.name}: got {value!r} in {where}, wanted {wanted} (default "
            f"{parameter.default})"
        ) from None


def _converted(value: Any, kind: Any) -> Any:
    """A value converted to a type; ValueError, TypeError or KeyError if impossible."""
    outer, inside = get_origin(kind) or kind, get_args(kind)
    if kind is Any:
        return value
    if outer in (Union, UnionType):
        return _one_of(value, inside)
    if outer is Literal:
        return {str(choice): choice for choice in inside}[str(value)]
    if outer in SCALARS:
        return _scalar(value, outer)
    takes: Any = {dict: dict, set: list | tuple | set | frozenset}.get(outer, list | tuple)
    if not isinstance(value, takes):
        raise TypeError
    if isinstance(value, dict):
        key, item = inside if len(inside) == 2 else (Any, Any)
        return {_converted(k, key): _converted(v, item) for k, v in value.items()}
    if outer is not tuple or not inside or inside[-1] is ...:
        inside = (inside[0] if inside else Any,) * len(value)
    return outer(_converted(one, item) for one, item in zip(value, inside, strict=True))


def _one_of(value: Any, kinds: Sequence[Any]) -> Any:
    if NoneType in kinds and (value is None or str(value).lower() in ("none", "null")):
        return None
    if type(value) in kinds:
        return value
    for kind in kinds:
        with contextlib.suppress(ValueError, TypeError, KeyError):
            if kind is not NoneType:
                return _converted(value, kind)
    raise ValueError


def _scalar(value: Any, kind: type) -> Any:
    if type(value) is kind:
        return value
    if kind is float and type(value) is int:
        return float(value)
    if not isinstance(value, str):
        raise ValueError
    return _BOOLS[value.lower()] if kind is bool else kind(value)  # from the command line


def _scalars(kind: Any) -> tuple[type, ...]:
    """The scalar types that a type allows besides None; () if it allows others."""
    outer, inside = get_origin(kind) or kind, get_args(kind)
    if outer in (Union, UnionType):
        parts = [_scalars(one) for one in inside if one is not NoneType]
        return tuple(dict.fromkeys(sum(parts, ()))) if all(parts) else ()
    if outer is Literal:
        return tuple(dict.fromkeys(type(choice) for choice in inside if choice is not None))
    return (kind,) if kind in SCALARS else ()
