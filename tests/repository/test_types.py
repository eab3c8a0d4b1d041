"""mypy passes with pyproject.toml's settings."""

import subprocess
import sys
from pathlib import Path


def test_annotations_hold():
    done = subprocess.run(
        [sys.executable, "-m", "mypy"],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
