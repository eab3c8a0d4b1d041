"""The installed wheel contains networks, images, widgets and the command."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from nbhelpers import files

ROOT = Path(__file__).parents[2]
USE = """
import pathlib, sys
import nbhelpers as nb
from nbhelpers import files
package = pathlib.Path(nb.__file__).parent
assert package == pathlib.Path(sys.argv[1]) / "nbhelpers" and (package / "py.typed").exists(), package
model = nb.load_model("cifar10-l2-0.5", device="cpu")
images, labels = nb.load_images("cifar10-sample", indices=range(4))
assert nb.load_images("out-of-distribution", size=32)[0].shape == (12, 3, 32, 32)
demo = nb.widgets.inversion({"robust": model}, images, labels, steps=1)
assert demo.figure()._repr_png_().startswith(b"\\x89PNG")
assert len(files.notebooks()) == int(sys.argv[2])
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the installed wheel; its dependencies are this environment's."""
    wheels, target = tmp_path_factory.mktemp("wheels"), tmp_path_factory.mktemp("installed")
    # without isolation, which would fetch hatchling
    run([sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(wheels)], cwd=ROOT)
    (wheel,) = wheels.glob("*.whl")
    options = [
        "--offline",
        "--quiet",
        "--no-deps",
        "--python",
        sys.executable,
        "--target",
        str(target),
    ]
    run([sys.executable, "-m", "uv", "pip", "install", *options, str(wheel)], cwd=wheels)
    return target


def run(command: list[str], **options) -> str:
    done = subprocess.run(command, capture_output=True, text=True, **options)
    assert done.returncode == 0, done.stderr
    return done.stdout


def apart(target: Path, tmp_path: Path) -> dict:
    """The environment with the installed copy before the editable one."""
    cache = str(tmp_path / "cache")
    return {
        "cwd": tmp_path,
        "env": {**os.environ, "PYTHONPATH": str(target), "NBHELPERS_CACHE": cache},
    }


def test_names_and_widgets_work(installed: Path, tmp_path: Path) -> None:
    run(
        [sys.executable, "-c", USE, str(installed), str(len(files.notebooks()))],
        **apart(installed, tmp_path),
    )


def test_the_command_works(installed: Path, tmp_path: Path) -> None:
    words = ["evaluate", "cifar10-l2-0.5", "--quick", "--n", "100", "--device", "cpu"]
    assert "as expected" in run(
        [sys.executable, "-m", "nbhelpers", *words], **apart(installed, tmp_path)
    )
    script = run(
        [sys.executable, str(installed / "bin" / "nbhelpers"), "--version"],
        **apart(installed, tmp_path),
    )
    assert script.startswith("nbhelpers ")
