"""The one command: nbhelpers train · evaluate · sweep · report · invert · visualize · gallery ·
demo · lab · notebooks.
"""

import argparse
import importlib
import sys
from collections.abc import Callable, Sequence
from importlib.metadata import version

# Name → where it lives, and what it does in a line.
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
    "demo": ("nbhelpers.runs.demo:demo_command", "run the notebooks and show their numbers"),
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
    """Shows defaults, but for those that say nothing."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        silent = action.default is None or action.default is False or action.default == []
        return action.help if silent else super()._get_help_string(action)


def command_parser(name: str, about: str) -> argparse.ArgumentParser:
    """The parser of one command, whose --help shows defaults."""
    return argparse.ArgumentParser(
        prog=f"nbhelpers {name}", description=about, formatter_class=_Defaults
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns its exit status: 0 done, 1 partly or not done, 2 refused, 130
    stopped by Ctrl-C.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    if not words or words[0] in ("-h", "--help"):
        print("usage: nbhelpers COMMAND …        nbhelpers COMMAND --help tells more\n")
        print(*(f"  {name:10} {about}" for name, (_, about) in COMMANDS.items()), sep="\n")
        return 0
    if words[0] == "--version":
        print(f"nbhelpers {version('nbhelpers')}")
        return 0
    if words[0] not in COMMANDS:
        print(
            f"error: unknown command {words[0]!r}; there are {', '.join(COMMANDS)}", file=sys.stderr
        )
        return 2
    module, _, function = COMMANDS[words[0]][0].partition(":")
    try:
        command: Callable[[Sequence[str]], int] = getattr(importlib.import_module(module), function)
        return command(words[1:])
    except (ValueError, OSError, ImportError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130
