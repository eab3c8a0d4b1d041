"""Public names, layers of the package, and notebooks."""

import ast
import graphlib
import inspect
import re
import subprocess
import sys
import textwrap
import tomllib
from pathlib import Path

import nbformat
import papermill
import pytest
import yaml

import nbhelpers as nb
from nbhelpers import files
from nbhelpers.commands import COMMANDS, main

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = files.notebooks()
CONDA_NAMES = {"torch": "pytorch", "matplotlib": "matplotlib-base"}

PACKAGE = ROOT / "nbhelpers"
CORE = ["types", "optimize", "passes", "objectives", "attack", "representation"]
BASE = [*CORE, "files", "bars", "commands", "names"]  # importable by every wing
WINGS = ["checkpoints", "networks", "data", "figures", "pair", "training", "runs", "widgets"]
WINGS += ["page"]  # each may import the ones before it
PUBLIC = """
    Model Result Step TopImages activate box class_names contributions count_images curves descend distance
    distributions image_grid interpolate iter_batches l2_ball Solver PUBLISHED pair page leave linf_ball load_images load_model match minimize
    misclassify noise perturb predict print_numbers random_indices random_partners represent represent_set save_result
    ssim top_images widgets
"""


def test_environment_lists_the_same_packages() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = {
        re.sub(r"^[\w-]+", lambda m: CONDA_NAMES.get(m[0], m[0]), text)
        for text in project["dependencies"]
    }
    listed = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    extra = {"pip", f"python{project['requires-python']}"}
    assert {entry for entry in listed if isinstance(entry, str)} == wanted | extra
    assert {"pip": ["--no-deps -e ."]} in listed


def test_the_image_copies_what_the_package_includes_before_it_installs_it() -> None:
    before, _, _ = (ROOT / "Dockerfile").read_text().partition("\nRUN ")
    wheel = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"][
        "targets"
    ]["wheel"]
    for source in [*wheel["packages"], *wheel["force-include"]]:
        folder = source.partition("/")[0]
        assert f"\nCOPY {folder} {folder}\n" in before, source
        assert (ROOT / source).exists(), source


def imports_of_each_module() -> dict[str, set[str]]:
    """Module → imported modules of the package, also inside functions; without the prefix."""
    paths = {
        ".".join(path.relative_to(PACKAGE).with_suffix("").parts): path
        for path in PACKAGE.rglob("*.py")
    }
    found: dict[str, set[str]] = {name: set() for name in paths}
    for name, path in paths.items():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom):
                assert node.module and node.level == 0, f"{name}: a relative import"
            if isinstance(node, ast.ImportFrom) and node.module.split(".")[0] == "nbhelpers":
                module = node.module.partition(".")[2]
                for alias in node.names:
                    inner = f"{module}.{alias.name}".removeprefix(".")
                    face = f"{module}.__init__".removeprefix(".")
                    found[name].add(
                        inner if inner in paths else module if module in paths else face
                    )
            elif isinstance(node, ast.Import):
                assert not any(alias.name.split(".")[0] == "nbhelpers" for alias in node.names), (
                    path
                )
    return found


def test_imports_go_down_only() -> None:
    for module, imported in imports_of_each_module().items():
        wing, _, name = module.partition(".")
        if wing in ("__init__", "__main__"):
            continue
        allowed = {*CORE} if wing in CORE or wing == "bars" else set()
        if wing in WINGS:
            allowed = {*BASE, *WINGS[: WINGS.index(wing) + 1]}
        for other in imported:
            assert other.partition(".")[0] in allowed, f"{module} imports {other}"
            faces = [*WINGS, "names"]
            assert name != "__init__" or other.partition(".")[0] in faces, f"{module}: {other}"


def test_there_are_no_circles() -> None:
    faces = ("__init__", *(f"{wing}.__init__" for wing in WINGS))
    found = imports_of_each_module()
    graph = {module: others for module, others in found.items() if module not in faces}
    order = [*graphlib.TopologicalSorter(graph).static_order()]  # raises CycleError
    assert {*CORE} <= {*order}


def test_the_core_is_thin_and_needs_torch_alone() -> None:
    texts = {name: (PACKAGE / f"{name}.py").read_text(encoding="utf-8") for name in CORE}
    assert sum(len(text.splitlines()) for text in texts.values()) <= 1000
    for name, text in texts.items():
        for node in ast.walk(ast.parse(text)):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) else []
            foreign = {found.partition(".")[0] for found in names} - sys.stdlib_module_names
            assert foreign <= {"torch", "nbhelpers", "numpy", "jaxtyping"}, name


def test_the_loop_takes_eight_parameters() -> None:
    wanted = ["f", "objective", "start", "steps", "solver", "project", "callback", "batch_size"]
    assert list(inspect.signature(nb.minimize).parameters) == wanted
    assert {*inspect.signature(nb.descend).parameters} <= {*wanted}


def test_no_private_name_crosses_a_file_and_no_module_is_named_like_a_function() -> None:
    paths = [*PACKAGE.rglob("*.py")]
    trees = {path: ast.parse(path.read_text(encoding="utf-8")) for path in paths}
    functions = {
        node.name for tree in trees.values() for node in tree.body if hasattr(node, "name")
    }
    for path, tree in trees.items():
        assert path.stem not in functions, f"{path.name} is named like a function"
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("nbhelpers"):
                private = [alias.name for alias in node.names if alias.name.startswith("_")]
                assert not private, f"{path.name} imports {private}"


def test_nothing_is_loaded_before_its_use() -> None:
    script = """
        import sys
        import nbhelpers.optimize
        print(*(name for name in sys.modules if name.startswith("nbhelpers.")))
        loaded = {"PIL", "matplotlib", "papermill", "ipywidgets", "torchvision"} & {*sys.modules}
        assert not loaded, f"import nbhelpers loads {loaded}"
        import nbhelpers.runs.shards, nbhelpers.training
        loaded = {"papermill", "nbconvert", "ipywidgets", "matplotlib"} & {*sys.modules}
        assert not loaded, f"training and shards load {loaded}"
    """
    run = [sys.executable, "-c", textwrap.dedent(script)]
    loaded = subprocess.run(run, check=True, cwd=ROOT, capture_output=True, text=True).stdout
    assert {*loaded.split()} <= {f"nbhelpers.{name}" for name in CORE}


def test_public_names_are_there() -> None:
    assert {*PUBLIC.split(), *WINGS} <= {*nb.__all__} <= {*dir(nb)}
    for name in nb.__all__:
        assert getattr(nb, name) is not None
    for wing in WINGS:
        face = getattr(nb, wing)
        for name in face.__all__:
            assert not inspect.ismodule(getattr(face, name)), (
                f"nb.{wing}.{name} is a module, not what it is named for"
            )


def test_the_command_lists_its_commands(capsys: pytest.CaptureFixture[str]) -> None:
    for words in ([], ["--help"]):
        assert main(words) == 0
        printed = capsys.readouterr().out
        assert all(re.search(rf"^  {name} ", printed, re.M) for name in COMMANDS)
    assert main(["trian"]) == 2
    assert re.fullmatch(
        "error: unknown command 'trian'; there are train, evaluate, .*\n", capsys.readouterr().err
    )


@pytest.mark.parametrize("name", COMMANDS)
def test_help_runs_nothing(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as end:
        main([name, "--help"])
    assert end.value.code == 0
    assert capsys.readouterr().out.startswith(f"usage: nbhelpers {name} ")
    assert not list(tmp_path.iterdir())


def test_python_m_is_the_same_command() -> None:
    listed = subprocess.run(
        [sys.executable, "-m", "nbhelpers"], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert all(f"\n  {name} " in listed.stdout for name in COMMANDS) and not listed.stderr


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_keeps_the_contract(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1)), (
        "not executed in order"
    )
    assert sum("parameters" in cell.metadata.get("tags", []) for cell in cells) == 1
    assert not any(output.output_type == "error" for cell in cells for output in cell.outputs)
    assert any(
        "image/png" in output.get("data", {}) for cell in cells for output in cell.outputs
    ), "no picture"
    for cell in cells:
        lines = cell.source.splitlines()
        assert len(lines) <= 15, f"a code cell of {len(lines)} lines: {lines[0]}"
        assert not re.search(r"^\s*(def|class) ", cell.source, re.M), "the package lacks a verb"
    assert not re.search(r'"(/(home|root|tmp|work|Users)/|[A-Z]:\\\\)', path.read_text()), (
        "an absolute path"
    )
    assert path.stat().st_size < 900_000
    # the kernel's own name, else JupyterLab marks the notebook unsaved at every opening
    assert notebook.metadata.kernelspec.display_name == "Python 3 (ipykernel)"
    assert notebook.cells[0].cell_type == "markdown" and "**Claim.**" in notebook.cells[0].source
    for before, cell in zip(notebook.cells, notebook.cells[1:], strict=False):
        if cell.cell_type == "code" and any(
            "image/png" in o.get("data", {}) for o in cell.get("outputs", [])
        ):
            assert before.cell_type == "markdown" or "figure" in cell.source, (
                "a figure without prose before it"
            )


def test_notebooks_come_by_number() -> None:
    assert [int(path.stem.partition("_")[0]) for path in NOTEBOOKS] == list(range(len(NOTEBOOKS)))
    listed = re.search(r"^NOTEBOOKS := \$\(wildcard (.*)\)$", (ROOT / "Makefile").read_text(), re.M)
    assert listed is not None
    assert {*NOTEBOOKS} == {path for pattern in listed[1].split() for path in ROOT.glob(pattern)}


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_has_the_words_of_a_lesson(path: Path) -> None:
    cells = nbformat.read(path, as_version=4).cells
    prose = [cell.source for cell in cells if cell.cell_type == "markdown"]
    assert len(" ".join(prose).split()) <= 550


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").split()) <= 1000


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_papermill_reads_the_parameters(path: Path) -> None:
    parameters = papermill.inspect_notebook(str(path))
    networks = {"checkpoints"} if path.stem.startswith("0_") else {"checkpoint", "baseline"}
    assert networks | {"dataset", "n_images", "steps", "seed", "device", "out"} <= parameters.keys()
    for name, about in parameters.items():
        assert about["inferred_type_name"] in ("str", "int", "float", "list"), name
        assert about["help"], f"{name} has no comment"


def test_no_index_host_or_machine_path_is_written_down() -> None:
    pattern = re.compile(
        r"https?://(registry|files|deb|pypi)\.[a-z]|(^|[\s\"'=(])/(work|root|farm)/"
    )
    kinds = ("*.*", "Makefile", "nbhelpers/**/*.py", "tests/**/*.py", "tools/**/*.*", "docs/*.md")
    kinds += (".github/**/*.*", ".devcontainer/*")
    for path in [path for kind in kinds for path in ROOT.glob(kind)]:
        if (
            path.is_file()
            and path.suffix != ".pyc"
            and path != Path(__file__)
            and path.name != ".git"
        ):
            assert not pattern.search(path.read_text(encoding="utf-8")), path.name
