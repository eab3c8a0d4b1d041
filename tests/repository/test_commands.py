"""The command line: help without torch, in any encoding; one exit status for interrupts."""

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from nbhelpers import attack
from nbhelpers.commands import COMMANDS, ending, main
from nbhelpers.networks import model, resnets
from nbhelpers.runs import shard_commands
from nbhelpers.training import settings

ROOT = Path(__file__).resolve().parents[2]


def test_help_and_typing_errors_are_answered_without_torch() -> None:
    script = """
        import contextlib, io, sys
        from nbhelpers.commands import COMMANDS, main
        wrong = {"--no-such-option", "--steps=x", "--jobs=x"}
        calls = [["--help"], ["--version"], ["trian"]]
        calls += [[name, word] for name in COMMANDS for word in ["--help", *wrong]]
        for words in calls:
            if words[0] == "lab" and len(words) > 1 and words[1] in wrong:
                continue  # JupyterLab's own options
            with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
                try:
                    main(words)
                except SystemExit:
                    pass
            heavy = {"torch", "numpy", "matplotlib", "papermill", "nbformat"} & {*sys.modules}
            assert not heavy, f"{words} loads {heavy}"
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(script)], check=True, cwd=ROOT)


def test_what_parsers_write_out_is_what_the_modules_take() -> None:
    """Parsers repeat the choices of modules that import torch."""
    assert settings.Norm == attack.Norm and settings.Downsample == resnets.Downsample
    assert model.Precision.__args__ == shard_commands.PRECISIONS


@pytest.mark.parametrize("words", [[], *([name, "--help"] for name in COMMANDS)], ids=" ".join)
def test_help_is_ascii(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """Redirected output has Windows' encodings."""
    if words:
        with pytest.raises(SystemExit):
            main(words)
    else:
        main(words)
    printed = capsys.readouterr().out
    assert printed and printed.isascii()


def test_what_an_encoding_lacks_ends_nothing() -> None:
    script = "from nbhelpers.commands import ending; print(ending(lambda: print('ε ≤ 1')))"
    environment = {**os.environ, "PYTHONIOENCODING": "latin-1"}
    run = [sys.executable, "-c", script]
    done = subprocess.run(run, env=environment, cwd=ROOT, capture_output=True, check=True)
    assert done.stdout.split() == [b"?", b"?", b"1", b"0"]


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_every_stop_is_status_130(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    before = signal.getsignal(signal.SIGTERM)
    assert ending(lambda: signal.raise_signal(getattr(signal, name))) == 130
    assert signal.getsignal(signal.SIGTERM) is before
    assert capsys.readouterr().err == "stopped\n"


@pytest.mark.long
def test_no_stop_is_lost() -> None:
    """Neither in a destructor nor in a library that turns it into an error of its own."""
    script = """
        import signal, time, torch
        from contextlib import suppress
        from nbhelpers.commands import ending
        class Dying:
            def __del__(self):
                signal.raise_signal(number)
        class Row:
            def __len__(self):
                return 1
            def __getitem__(self, index):
                signal.raise_signal(number)
        def dropped():
            Dying()
            time.sleep(60)
        def turned():
            with suppress(ValueError):
                torch.tensor(Row())
            time.sleep(60)
        for number in (signal.SIGINT, signal.SIGTERM):
            print(ending(dropped), ending(turned))
    """
    run = [sys.executable, "-c", textwrap.dedent(script)]
    done = subprocess.run(run, cwd=ROOT, capture_output=True, text=True, timeout=50)
    assert done.stdout.split() == ["130"] * 4, done.stderr


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["cifar10-standard", "--json", "FOLDER"], "is a folder; name a file in it"),
        (["cifar10-standard", "--quick", "--json", "e.json"], "remove --json"),
        (["cifar10-standard", "--quick", "--write"], "remove --write"),
        (["cifar10-standard", "--quick", "--eps", "2"], "remove --eps"),
    ],
    ids=lambda one: one[1] if isinstance(one, list) else "",
)
def test_what_evaluate_cannot_follow_is_refused_before_the_work(
    words: list[str], message: str, tmp_path: Path, monkeypatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("nbhelpers.networks.loading.load_model", lambda *_, **__: 1 / 0)
    words = [word.replace("FOLDER", str(tmp_path)) for word in words]
    assert main(["evaluate", *words]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


@pytest.mark.parametrize("command", ["sweep", "invert", "visualize"])
def test_a_scheduler_has_its_own_workers(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = {"sweep": ["n.ipynb"], "invert": ["--dataset", "x"]}.get(command, [])
    words += [] if command == "sweep" else ["--checkpoint", "x"]
    assert main([command, *words, "-o", "x", "--jobs", "2", "--dask", "tcp://x:1"]) == 2
    assert capsys.readouterr().err.startswith("error: --jobs: ")
