"""A stopped command leaves no partial files and no processes, and exits with status 130."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import psutil
import pytest
from nbformat.v4 import new_code_cell, new_notebook

from nbhelpers.commands import main

SHARDS = ["--batch", "8", "--shard", "8", "--limit", "16", "--steps", "100000", "--device", "cpu"]
INVERT = ["invert", "--dataset", "cifar10-sample", "--checkpoint", "cifar10-l2-0.5", *SHARDS]
VISUALIZE = ["visualize", "--checkpoint", "cifar10-l2-0.5", *SHARDS]


def stopped(words: list[str], number: int, begun) -> int:
    """The exit status of a command after a signal; its processes must have ended."""
    command = [sys.executable, "-m", "nbhelpers", *words]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        end = time.monotonic() + 300
        while not begun():
            assert process.poll() is None and time.monotonic() < end, "it did not begin"
            time.sleep(0.05)
        children = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(number)
        status = process.wait(120)
        _, alive = psutil.wait_procs(children, timeout=10)
        assert not alive
        return status
    finally:
        process.kill()


@pytest.mark.parametrize(
    ("words", "number"),
    [(INVERT, signal.SIGINT), ([*VISUALIZE, "--jobs", "2"], signal.SIGTERM)],
    ids=["SIGINT", "SIGTERM"],
)
def test_no_shard_is_written_of_what_was_stopped(words, number, tmp_path):
    out = tmp_path / "out"
    assert stopped([*words, "-o", str(out)], number, lambda: [*out.glob(".locks/shard*")]) == 130
    assert [path.name for path in out.iterdir()] == [".locks"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda one: one.name)
def test_kernels_end_with_their_sweep(number, tmp_path):
    cells = [
        new_code_cell('seed: int = 0\nlog: str = ""\nout: str = ""'),
        new_code_cell("import os, pathlib, time\npathlib.Path(log, str(os.getpid())).touch()"),
        new_code_cell("time.sleep(600)"),
    ]
    cells[0].metadata.tags = ["parameters"]
    nbformat.write(new_notebook(cells=cells), tmp_path / "n.ipynb")
    (tmp_path / "log").mkdir()
    out, log = tmp_path / "out", tmp_path / "log"
    words = ["sweep", str(tmp_path / "n.ipynb"), "-p", "seed=0:3", "-p", f"log={log}"]
    words += ["-o", str(out), "--jobs", "2"]
    assert stopped(words, number, lambda: len([*log.iterdir()]) == 2) == 130
    assert not any(psutil.pid_exists(int(path.name)) for path in log.iterdir())
    assert not [*out.glob("seed=*")] and not [*(out / ".running").iterdir()]


def test_an_attack_cut_short_is_no_accuracy(monkeypatch, tmp_path):
    def interrupted(*_, **__):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(10)

    monkeypatch.setattr("nbhelpers.attack.minimize", interrupted)
    words = ["evaluate", "cifar10-l2-0.5", "--n", "8", "--eps", "0.5", "--device", "cpu"]
    assert main([*words, "--json", str(tmp_path / "e.json")]) == 130
    assert not [*Path(tmp_path).iterdir()]
