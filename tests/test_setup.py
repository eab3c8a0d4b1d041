"""The lists, layers and notebooks keep their promises."""

import ast
import re
import tomllib
from pathlib import Path

import nbformat
import papermill
import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("[0-9]_*.ipynb"))
CONDA_NAMES = {"torch": "pytorch", "matplotlib": "matplotlib-base"}

# A module may import from its own layer's left neighbours and from the layers before it.
LAYERS = [
    {"types"},
    {"optimize", "objectives", "resnet", "safe_pickle", "checkpoints", "cut"},
    {"models", "data"},
    {"representation", "evaluate"},
    {"plots", "results", "train", "widgets", "grid", "sweep", "report", "shards", "invert", "visualize", "demo"},
]


def test_environment_lists_the_same_packages() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = {re.sub(r"^[\w-]+", lambda m: CONDA_NAMES.get(m[0], m[0]), text) for text in project["dependencies"]}
    listed = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    extra = {"pip", f"python{project['requires-python']}"}
    assert {entry for entry in listed if isinstance(entry, str)} == wanted | extra
    assert {"pip": ["--no-deps -e ."]} in listed


@pytest.mark.parametrize("path", sorted((ROOT / "nbhelpers").rglob("*.py")), ids=lambda path: path.stem)
def test_imports_go_downward(path: Path) -> None:
    def layer(module: str) -> int:
        return next(i for i, names in enumerate(LAYERS) if module in names)

    parts = path.relative_to(ROOT / "nbhelpers").with_suffix("").parts
    if parts[0] == "__init__":
        return
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "nbhelpers":
            module = node.module.split(".")[1:2] or [alias.name for alias in node.names]
            for name in module:
                assert layer(name) <= layer(parts[0]), f"{path.name} imports {name}"
                assert (parts[0], name) != ("optimize", "models")


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_keeps_the_contract(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1)), "not executed in order"
    assert sum("parameters" in cell.metadata.get("tags", []) for cell in cells) == 1
    assert not any(output.output_type == "error" for cell in cells for output in cell.outputs)
    assert any("image/png" in output.get("data", {}) for cell in cells for output in cell.outputs), "no picture"
    for cell in cells:
        lines = cell.source.splitlines()
        assert len(lines) <= 15, f"a code cell of {len(lines)} lines: {lines[0]}"
        assert not re.search(r"^\s*(def|class) ", cell.source, re.M), "the package lacks a verb"
    assert not re.search(r'"(/(home|root|tmp|work|Users)/|[A-Z]:\\\\)', path.read_text()), "an absolute path"
    assert path.stat().st_size < 400_000
    assert notebook.cells[0].cell_type == "markdown" and "**Claim.**" in notebook.cells[0].source
    for before, cell in zip(notebook.cells, notebook.cells[1:], strict=False):
        if cell.cell_type == "code" and any("image/png" in o.get("data", {}) for o in cell.get("outputs", [])):
            assert before.cell_type == "markdown" or "figure" in cell.source, "a figure without prose before it"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_papermill_reads_the_parameters(path: Path) -> None:
    parameters = papermill.inspect_notebook(str(path))
    networks = {"checkpoints"} if path.stem.startswith("0") else {"checkpoint", "baseline"}
    assert networks | {"dataset", "n_images", "steps", "seed", "device", "out"} <= parameters.keys()
    for name, about in parameters.items():
        assert about["inferred_type_name"] in ("str", "int", "float", "list"), name
        assert about["help"], f"{name} has no comment"


def test_no_index_host_or_machine_path_is_written_down() -> None:
    pattern = re.compile(r"https?://(registry|files|deb|pypi)\.[a-z]|(^|[\s\"'=(])/(work|root|farm)/")
    for path in [*ROOT.glob("*.*"), *ROOT.glob("nbhelpers/**/*.py"), *ROOT.glob("tests/*.py"), ROOT / "Makefile"]:
        if path.is_file() and path.suffix not in (".pyc",) and path != Path(__file__):
            assert not pattern.search(path.read_text(encoding="utf-8")), path.name
