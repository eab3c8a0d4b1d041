"""The API reference builds without warnings and has every public name."""

import os
import subprocess
import sys
from pathlib import Path

import nbhelpers as nb

ROOT = Path(__file__).parents[2]


def test_the_reference_has_every_public_name(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tools", "api"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    face = (tmp_path / "build" / "api" / "nbhelpers.html").read_text(encoding="utf-8")
    for name in nb.__all__:
        assert f'id="{name}"' in face or f'href="nbhelpers/{name}.html"' in face, name
    for page in (tmp_path / "build" / "api").rglob("*.html"):
        assert str(ROOT) not in page.read_text(encoding="utf-8"), f"{page.name} names a folder here"
