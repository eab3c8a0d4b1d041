"""Process settings at import: waiting threads sleep, memory is kept, user settings win."""

import os
import platform
import subprocess
import sys

import pytest

SETTINGS = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")


@pytest.mark.parametrize(
    ("given", "code", "spins", "warned"),
    [
        ({}, "import nbhelpers, torch", "4000", False),
        ({"GOMP_SPINCOUNT": "7"}, "import nbhelpers, torch", "7", False),
        ({"OMP_WAIT_POLICY": "ACTIVE"}, "import torch, nbhelpers", "None", False),
        # too late for this process: a warning
        ({}, "import torch, nbhelpers; import nbhelpers", "4000", True),
    ],
)
def test_the_setting_is_there_when_torch_loads_its_runtime(given, code, spins, warned):
    environment = {key: value for key, value in os.environ.items() if key not in SETTINGS} | given
    command = [sys.executable, "-c", f"{code}; import os; print(os.environ.get('GOMP_SPINCOUNT'))"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == spins
    assert done.stderr.count("import nbhelpers before torch") == warned


REPEATED = """
import ctypes, resource
import nbhelpers, torch
ctypes.CDLL(None).prctl(41, 1, 0, 0, 0)  # PR_SET_THP_DISABLE: large pages, on some systems the rule, would hide faults
def faults():
    for _ in range(20):
        tensors = [torch.ones(2 << 20) for _ in range(8)]  # 64 MiB, let go together
        del tensors
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
first = faults()
print(faults() - first)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library than GNU's")
@pytest.mark.parametrize(
    ("given", "kept"), [({}, True), ({"MALLOC_TRIM_THRESHOLD_": "131072"}, False)]
)
def test_memory_that_a_step_needs_is_kept_for_the_next(given, kept):
    environment = {
        key: value for key, value in os.environ.items() if not key.startswith("MALLOC_")
    } | given
    command = [sys.executable, "-c", REPEATED]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    pages = 20 * (64 << 20) // os.sysconf("SC_PAGE_SIZE")
    assert (int(done.stdout) < pages / 20) == kept
