"""The command line: `nbhelpers COMMAND ...`.

Command modules import torch late, so --help and usage errors are fast.
"""

import _thread
import argparse
import contextlib
import importlib
import io
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import version

# Name → (module:function, summary).
COMMANDS = {
    "train": (
        "nbhelpers.training.commands:train_command",
        "train a network, standard or robust; resumable",
    ),
    "evaluate": (
        "nbhelpers.training.commands:evaluate_command",
        "clean and robust accuracy of a network",
    ),
    "sweep": (
        "nbhelpers.runs.sweep_commands:sweep_command",
        "run one notebook over a grid of parameters",
    ),
    "report": (
        "nbhelpers.runs.sweep_commands:report_command",
        "a page and a table of a sweep's results",
    ),
    "invert": (
        "nbhelpers.runs.shard_commands:invert_command",
        "invert a whole data set, in shards",
    ),
    "visualize": (
        "nbhelpers.runs.shard_commands:visualize_command",
        "visualize every component, in shards",
    ),
    "gallery": (
        "nbhelpers.page.commands:gallery_command",
        "write all demos into one page that needs no kernel",
    ),
    "demo": (
        "nbhelpers.runs.demo_commands:demo_command",
        "run the notebooks and show their numbers",
    ),
    "lab": (
        "nbhelpers.runs.lab_commands:lab_command",
        "open JupyterLab on a copy of the notebooks",
    ),
    "notebooks": (
        "nbhelpers.runs.lab_commands:notebooks_command",
        "copy the notebooks into a folder",
    ),
}


class _Defaults(argparse.ArgumentDefaultsHelpFormatter):
    """Shows defaults except None, False and []."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        silent = action.default is None or action.default is False or action.default == []
        return action.help if silent else super()._get_help_string(action)


def command_parser(name: str, about: str) -> argparse.ArgumentParser:
    """The parser of one command; --help shows defaults."""
    return argparse.ArgumentParser(
        prog=f"nbhelpers {name}", description=about, formatter_class=_Defaults
    )


class _Stop(KeyboardInterrupt):
    """A signal that raises itself again where it ended before the command did.

    Python drops what is raised in a destructor or in a weak reference's callback, which each import
    has, and some libraries' C code turns any exception into one of its own.
    """

    again: threading.Timer | None = None
    over = False

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number

    def __del__(self) -> None:
        if not _Stop.over:
            _Stop.again = threading.Timer(0.05, _send, [self.number])
            _Stop.again.start()


@contextlib.contextmanager
def stoppable() -> Iterator[None]:
    """Turn SIGTERM, the batch systems' stop signal, into KeyboardInterrupt; lose neither signal.

    Only in the main thread, and only those of both signals that have their default handlers.
    """
    handlers = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}
    if threading.current_thread() is not threading.main_thread():
        handlers = {}
    ours = {number: one for number, one in handlers.items() if signal.getsignal(number) == one}
    _Stop.over = False
    for number in ours:
        signal.signal(number, _interrupt)
    try:
        yield
    finally:
        _Stop.over = True
        if _Stop.again:
            _Stop.again.cancel()
        for number, handler in ours.items():
            signal.signal(number, handler)


def _interrupt(number: int, _: object) -> None:
    raise _Stop(number)


def _send(number: int) -> None:
    if sys.platform == "win32":
        _thread.interrupt_main(number)
    else:  # ends a wait, too
        signal.pthread_kill(threading.main_thread().ident or 0, number)


def ending(work: Callable[[], int | None]) -> int:
    """Run a command; returns its exit status, 2 on refused input, 130 on Ctrl-C or SIGTERM."""
    for stream in (sys.stdout, sys.stderr):  # Windows encodings lack ε
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    try:
        with stoppable():
            return work() or 0
    except (ValueError, OSError, ImportError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line; returns 0 done, 1 not all done, 2 refused, 130 interrupted."""
    words = list(sys.argv[1:] if argv is None else argv)
    return ending(lambda: _run(words))


def _run(words: Sequence[str]) -> int:
    if not words or words[0] in ("-h", "--help"):
        print("usage: nbhelpers COMMAND ...        nbhelpers COMMAND --help lists its options\n")
        print(*(f"  {name:10} {about}" for name, (_, about) in COMMANDS.items()), sep="\n")
        return 0
    if words[0] == "--version":
        print(f"nbhelpers {version('nbhelpers')}")
        return 0
    if words[0] not in COMMANDS:
        raise ValueError(f"unknown command {words[0]!r}; there are {', '.join(COMMANDS)}")
    module, _, function = COMMANDS[words[0]][0].partition(":")
    command: Callable[[Sequence[str]], int] = getattr(importlib.import_module(module), function)
    return command(words[1:])
