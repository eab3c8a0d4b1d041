"""Kernels beside each other: waiting threads must not keep cores busy, unless the user wants them to."""

import os
import subprocess
import sys

import pytest

SETTINGS = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")


@pytest.mark.parametrize(
    ("given", "code", "spins", "says"),
    [
        ({}, "import nbhelpers, torch", "4000", False),
        ({"GOMP_SPINCOUNT": "7"}, "import nbhelpers, torch", "7", False),
        ({"OMP_WAIT_POLICY": "ACTIVE"}, "import torch, nbhelpers", "None", False),
        ({}, "import torch, nbhelpers; import nbhelpers", "4000", True),  # too late for this process, and it says so
    ],
)
def test_the_setting_is_there_when_torch_loads_its_runtime(given, code, spins, says):
    environment = {key: value for key, value in os.environ.items() if key not in SETTINGS} | given
    command = [sys.executable, "-c", f"{code}; import os; print(os.environ.get('GOMP_SPINCOUNT'))"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == spins
    assert done.stderr.count("import nbhelpers before torch") == says
