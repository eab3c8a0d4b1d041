"""A notebook's parameters cell, read from its syntax: names, types, defaults and comments;
nothing is run.
"""

import ast
import builtins
import difflib
import io
import math
import operator
import re
import tokenize
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nbformat

SCALARS = ("int", "float", "bool", "str")
_CONTAINERS = {
    "list": "list",
    "List": "list",
    "Sequence": "list",
    "Iterable": "list",
    "Collection": "list",
}
_CONTAINERS |= {
    "tuple": "tuple",
    "Tuple": "tuple",
    "set": "set",
    "Set": "set",
    "frozenset": "set",
    "FrozenSet": "set",
}
_CONTAINERS |= {"dict": "dict", "Dict": "dict", "Mapping": "dict", "MutableMapping": "dict"}
_OPERATORS: dict[type, Callable[[Any, Any], Any]] = {ast.Add: operator.add, ast.Sub: operator.sub}
_OPERATORS |= {
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Pow: operator.pow,
}


@dataclass(frozen=True)
class Kind:
    """What values a parameter takes."""

    names: tuple[str, ...] = ()  # of SCALARS, or one of list, tuple, set, dict; () for anything
    optional: bool = False  # None too
    choices: tuple[Any, ...] = ()  # of a Literal
    inside: tuple["Kind", ...] = ()  # of a container's items, of a dictionary's keys and values

    @property
    def scalar(self) -> bool:
        return bool(self.names) and all(name in SCALARS for name in self.names)


@dataclass(frozen=True)
class Parameter:
    """A line of the parameters cell."""

    name: str
    annotation: str  # as written; "" for none
    default: str  # as written
    kind: Kind
    help: str = ""

    @property
    def value(self) -> Any:
        """The default, where it is a literal; else its text, for the record only."""
        try:
            return ast.literal_eval(self.default)
        except (ValueError, SyntaxError):
            return self.default


def read_parameters(notebook: Path) -> dict[str, Parameter]:
    """The notebook's parameters by name, in order.

    Raises:
        ValueError: no such notebook, not a notebook, no tagged cell, or no parameter `out`.
    """
    if not notebook.is_file():
        near = difflib.get_close_matches(
            notebook.name, [path.name for path in notebook.parent.glob("*.ipynb")]
        )
        hint = f"; did you mean {near[0]}?" if near else ""
        raise ValueError(f"no notebook {notebook}{hint}")
    try:
        cells = nbformat.read(notebook, 4).cells
        tagged = [
            c.source
            for c in cells
            if c.cell_type == "code" and "parameters" in c.metadata.get("tags", [])
        ]
        parameters = parse(tagged[0]) if tagged else {}
    except Exception as error:  # whatever JSON, nbformat or the parser find wrong with it
        reason = " ".join(str(error).split())[:200]
        raise ValueError(f"{notebook} cannot be read as a notebook: {reason}") from error
    if "out" not in parameters:
        raise ValueError(
            f'{notebook.name} has no parameter `out`: tag a cell "parameters", with `out: str = '
            '""` in it'
        )
    return parameters


def parse(source: str) -> dict[str, Parameter]:
    """The parameters that a cell's source assigns, one name a statement, IPython's commands left
    out.

    Raises:
        SyntaxError: it is no Python.
    """
    # A command's place is kept, so that comments stay beside their lines.
    plain = "\n".join("" if re.match(r"\s*[%!?]", line) else line for line in source.splitlines())
    tokens = tokenize.generate_tokens(io.StringIO(plain + "\n").readline)
    comments = {
        token.start[0]: token.string.lstrip("# ")
        for token in tokens
        if token.type == tokenize.COMMENT
    }
    found: dict[str, Parameter] = {}
    targets: list[ast.expr]
    for statement in ast.parse(plain).body:
        if isinstance(statement, ast.AnnAssign) and statement.value is not None:
            targets, annotation = [statement.target], statement.annotation
        elif isinstance(statement, ast.Assign):
            targets, annotation = statement.targets, None
        else:
            continue
        for target in targets:
            if isinstance(target, ast.Name):
                value: Any = statement.value
                written = ast.get_source_segment(plain, value) or ""
                default = written if written and "\n" not in written else ast.unparse(value)
                text = ast.unparse(annotation).strip("'") if annotation else ""
                kind = _kind(annotation, value)
                found[target.id] = Parameter(
                    target.id, text, default, kind, comments.get(statement.end_lineno or 0, "")
                )
    return found


def _kind(annotation: ast.expr | None, default: ast.expr) -> Kind:
    """A parameter's kind by its annotation; where that is none or of unknown names, by its
    default.
    """
    given = _annotated(annotation) if annotation is not None else Kind()
    if given.names:
        # A default of None makes None a value, whatever the annotation says.
        nothing = isinstance(default, ast.Constant) and default.value is None
        return Kind(given.names, given.optional or nothing, given.choices, given.inside)
    value = _folded(default)
    name = type(value).__name__
    known = value is not None and name in (*SCALARS, "list", "tuple", "set", "dict")
    return Kind((name,) if known else (), given.optional or value is None)


def _annotated(node: ast.expr) -> Kind:
    if isinstance(node, ast.Constant) and isinstance(node.value, str):  # an annotation in quotes
        try:
            return _annotated(ast.parse(node.value, mode="eval").body)
        except SyntaxError:
            return Kind()
    if isinstance(node, ast.Constant) and node.value is None:
        return Kind(optional=True)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr):
        return _either([_annotated(node.left), _annotated(node.right)])
    name = _last_name(node)
    if not isinstance(node, ast.Subscript):
        return Kind((_CONTAINERS.get(name, name),)) if name in (*SCALARS, *_CONTAINERS) else Kind()
    parts = node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]
    if name in ("Optional", "Union"):
        return _either(
            [_annotated(part) for part in parts] + [Kind(optional=True)] * (name == "Optional")
        )
    if name in ("Annotated", "Final", "ClassVar"):
        return _annotated(parts[0])
    if name == "Literal":
        values = tuple(_folded(part) for part in parts)
        kinds = tuple(dict.fromkeys(type(value).__name__ for value in values if value is not None))
        return Kind(kinds, None in values, tuple(value for value in values if value is not None))
    if name in _CONTAINERS:
        inside = [
            _annotated(part)
            for part in parts
            if not (isinstance(part, ast.Constant) and part.value is ...)
        ]
        return Kind((_CONTAINERS[name],), inside=tuple(inside))
    return Kind()


def _either(kinds: list[Kind]) -> Kind:
    optional = any(kind.optional for kind in kinds)
    real = [kind for kind in kinds if kind != Kind(optional=True)]
    if len(real) == 1:
        return Kind(real[0].names, optional, real[0].choices, real[0].inside)
    if all(kind.scalar for kind in real):
        return Kind(tuple(dict.fromkeys(name for kind in real for name in kind.names)), optional)
    return Kind(optional=optional)  # a list or a number, say: anything


def _last_name(node: ast.expr) -> str:
    node = node.value if isinstance(node, ast.Subscript) else node
    return (
        node.attr
        if isinstance(node, ast.Attribute)
        else node.id
        if isinstance(node, ast.Name)
        else ""
    )


def _folded(node: ast.expr) -> Any:
    """The value of a literal, or of arithmetic on numbers; Ellipsis for all else."""
    try:
        return ast.literal_eval(node)
    except (ValueError, TypeError, SyntaxError):
        pass
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        value = _folded(node.operand)
        return -value if isinstance(value, int | float) else ...
    if isinstance(node, ast.BinOp) and type(node.op) in _OPERATORS:
        left, right = _folded(node.left), _folded(node.right)
        numbers = all(
            isinstance(side, int | float) and math.isfinite(side) and abs(side) < 1e9
            for side in (left, right)
        )
        if numbers and not (isinstance(node.op, ast.Pow) and abs(right) > 64):
            try:
                return _OPERATORS[type(node.op)](left, right)
            except (ArithmeticError, ValueError):
                return ...
    if isinstance(node, ast.Call) and _last_name(node.func) in (
        *SCALARS,
        "list",
        "tuple",
        "set",
        "dict",
    ):
        # an empty one: only its type is asked for
        return getattr(builtins, _last_name(node.func))()
    return ...
