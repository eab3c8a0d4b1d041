"""The command `nbhelpers demo`."""

from collections.abc import Sequence
from pathlib import Path

from nbhelpers.commands import command_parser


def demo_command(argv: Sequence[str]) -> int:
    """Run every notebook, with defaults or a preset; returns 1 if one failed."""
    parser = command_parser("demo", "Run the notebooks, then show their numbers and their pages.")
    parser.add_argument(
        "out", nargs="?", type=Path, help="folder (default: runs/demo and the time, or runs/PRESET)"
    )
    parser.add_argument(
        "--preset",
        metavar="NAME",
        help="imagenet, imagenet-small, cifar10, cifar10-published, tiny, or a YAML",
    )
    parser.add_argument(
        "--only", nargs="+", metavar="N", default=[], help="notebooks by number, such as 2 5"
    )
    parser.add_argument(
        "-p",
        dest="set",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="overrides the preset",
    )
    parser.add_argument(
        "--jobs", type=int, help="notebooks at a time (default: one per core; changed values: one)"
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="print the downloads and the estimated time"
    )
    given = parser.parse_args(argv)
    from nbhelpers.runs.demos import run_demo

    return run_demo(given)
