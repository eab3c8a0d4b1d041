"""Read a notebook's code, kernel and parameters cell, without executing it."""

import ast
import functools
import hashlib
import io
import json
import operator
import re
import tokenize
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import nbformat
from jupyter_client.kernelspec import NATIVE_KERNEL_NAME, KernelSpecManager
from nbformat import NotebookNode

from nbhelpers.names import near

SCALARS = (int, float, bool, str)
# Known annotations, by the last part of the name.
_NAMES: dict[str, Any] = {
    **{kind.__name__: kind for kind in (*SCALARS, list, tuple, set, dict)},
    **dict.fromkeys(("List", "Sequence", "Iterable", "Collection"), list),
    **{"Tuple": tuple, "Set": set, "frozenset": set, "FrozenSet": set},
    **dict.fromkeys(("Dict", "Mapping", "MutableMapping"), dict),
}


@dataclass(frozen=True)
class Parameter:
    """A line of the parameters cell."""

    name: str
    annotation: str  # as written; "" for none
    default: str  # as written
    kind: Any  # a type: int, list[float], str | None; Any if unknown
    help: str = ""

    @property
    def value(self) -> Any:
        """The default if a literal, else its text."""
        try:
            return ast.literal_eval(self.default)
        except (ValueError, SyntaxError):
            return self.default


@dataclass(frozen=True)
class Notebook:
    """A notebook's content for a sweep."""

    path: Path  # absolute
    parameters: dict[str, Parameter]  # in order
    kernel: str  # an installed one
    code: str  # a digest of the code without outputs
    source: str = field(repr=False)  # JSON, without outputs

    @property
    def defaults(self) -> dict[str, Any]:
        """The parameters' defaults, without `out`; expressions as text."""
        return {
            name: parameter.value for name, parameter in self.parameters.items() if name != "out"
        }


def read_notebook(notebook: "str | Path | Notebook") -> Notebook:
    """Read a notebook; a `Notebook` is returned unchanged.

    Raises:
        ValueError: missing, no notebook, no tagged cell, no parameter `out`, or a missing kernel of
            another language.
    """
    if isinstance(notebook, Notebook):
        return notebook
    path = Path(notebook).resolve()
    if not path.is_file():
        names = [other.name for other in path.parent.glob("*.ipynb")]
        meant = "".join(f"; did you mean {name}?" for name in near(path.name, names, most=1))
        raise ValueError(f"no notebook {path}{meant}")
    try:
        node = nbformat.read(path, 4)
        code = [cell for cell in node.cells if cell.cell_type == "code"]
        tagged = [cell for cell in code if "parameters" in cell.metadata.get("tags", [])]
        parameters = parse(tagged[0].source) if tagged else {}
        spec = {**node.metadata.get("kernelspec", {})}
        language = spec.get("language") or node.metadata.get("language_info", {}).get("name")
        for cell in code:
            cell.outputs, cell.execution_count = [], None
        node.metadata.pop("widgets", None)
        digest = hashlib.sha256("\n\n".join(cell.source for cell in code).encode())
    except Exception as error:  # of JSON, nbformat or the parser
        reason = " ".join(str(error).split())[:200]
        raise ValueError(f"{path} cannot be read as a notebook: {reason}") from error
    if "out" not in parameters:
        raise ValueError(
            f'{path.name} has no parameter `out`: tag a cell "parameters", with `out: str = ""` '
            "in it"
        )
    kernel = _kernel(path.name, str(spec.get("name") or ""), str(language or "python"))
    return Notebook(path, parameters, kernel, digest.hexdigest()[:16], json.dumps(node))


def _kernel(notebook: str, name: str, language: str) -> str:
    """The notebook's kernel if installed, else this environment's Python kernel."""
    installed = KernelSpecManager().find_kernel_specs()
    if name in installed:
        return name
    if "python" in language.lower():
        return NATIVE_KERNEL_NAME
    raise ValueError(
        f"{notebook} needs the kernel {name!r} ({language}), which is not installed; there are "
        f"{', '.join(sorted(installed))}"
    )


def with_kernel(notebook: NotebookNode, kernel: str) -> NotebookNode:
    """The notebook with its kernel set; metadata of the same kernel is kept."""
    spec = notebook.metadata.get("kernelspec", {})
    if spec.get("name") != kernel:
        about = {"name": kernel, "display_name": kernel, "language": "python"}
        notebook.metadata["kernelspec"] = nbformat.from_dict(about)
    return notebook


def parse(source: str) -> dict[str, Parameter]:
    """Parameters assigned in a cell's source; IPython commands are ignored.

    Raises:
        SyntaxError: not Python.
    """
    # Blank lines replace commands, so comments keep their line numbers.
    plain = "\n".join("" if re.match(r"\s*[%!?]", line) else line for line in source.splitlines())
    tokens = tokenize.generate_tokens(io.StringIO(plain + "\n").readline)
    comments = {
        token.start[0]: token.string.lstrip("# ")
        for token in tokens
        if token.type == tokenize.COMMENT
    }
    found: dict[str, Parameter] = {}
    targets: list[ast.expr]
    annotation: ast.expr | None
    for statement in ast.parse(plain).body:
        if isinstance(statement, ast.AnnAssign) and statement.value is not None:
            targets, annotation, value = [statement.target], statement.annotation, statement.value
        elif isinstance(statement, ast.Assign):
            targets, annotation, value = statement.targets, None, statement.value
        else:
            continue
        comment = comments.get(statement.end_lineno or 0, "")
        written = ast.get_source_segment(plain, value) or "\n"
        default = written if "\n" not in written else ast.unparse(value)
        text = ast.unparse(annotation).strip("'") if annotation else ""
        for target in targets:
            if isinstance(target, ast.Name):
                kind = _kind(annotation, value)
                found[target.id] = Parameter(target.id, text, default, kind, comment)
    return found


def _kind(annotation: ast.expr | None, default: ast.expr) -> Any:
    """A parameter's type by its annotation, else by its default."""
    try:
        value = ast.literal_eval(default)
    except (ValueError, TypeError, SyntaxError):
        value = ...
    kind = Any if annotation is None else _annotated(annotation)
    if kind is Any and type(value) in _NAMES.values():
        kind = type(value)
    return kind | None if value is None else kind


def _annotated(node: ast.expr) -> Any:
    """An annotation as a type; Any for unknown names."""
    match node:
        case ast.Constant(value=None):
            return type(None)
        case ast.Constant(value=str(text)):  # a quoted annotation
            try:
                return _annotated(ast.parse(text, mode="eval").body)
            except SyntaxError:
                return Any
        case ast.BinOp(left=left, op=ast.BitOr(), right=right):
            return _annotated(left) | _annotated(right)
        case ast.Name(id=name) | ast.Attribute(attr=name):
            return _NAMES.get(name, Any)
        case ast.Subscript(value=ast.Name(id=name) | ast.Attribute(attr=name), slice=inside):
            return _generic(name, inside.elts if isinstance(inside, ast.Tuple) else [inside])
    return Any


def _generic(name: str, parts: list[ast.expr]) -> Any:
    if name == "Literal":
        try:
            return Literal[tuple(ast.literal_eval(part) for part in parts)]
        except ValueError:
            return Any
    kinds = tuple(
        ... if isinstance(part, ast.Constant) and part.value is ... else _annotated(part)
        for part in parts
    )
    if name in ("Annotated", "Final", "ClassVar"):
        return kinds[0]
    if name in ("Optional", "Union"):
        return functools.reduce(operator.or_, (*kinds, None) if name == "Optional" else kinds)
    kind = _NAMES.get(name, Any)
    return kind[kinds] if kind in (list, tuple, set, dict) else kind
