"""The commands `nbhelpers notebooks` and `nbhelpers lab`."""

import filecmp
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from nbhelpers import files
from nbhelpers.commands import command_parser


def notebooks_command(argv: Sequence[str]) -> int:
    """Copy the notebooks into a folder; returns the exit status."""
    parser = command_parser("notebooks", "Copy the notebooks into a folder.")
    parser.add_argument("folder", type=Path, help="target folder; created if missing")
    parser.add_argument("--yes", action="store_true", help="also into a folder with other files")
    given = parser.parse_args(argv)
    if not copy_notebooks(given.folder, given.yes):
        return 1
    print(f"open them with: nbhelpers lab {given.folder}")
    return 0


def lab_command(argv: Sequence[str]) -> int:
    """Open JupyterLab on a copy of the notebooks; returns the exit status."""
    about = (
        "Open JupyterLab on a copy of the notebooks. It gets further options, such as --port=9000."
    )
    parser = command_parser("lab", about)
    parser.add_argument(
        "folder",
        nargs="?",
        type=Path,
        default=Path("robust-representations"),
        help="folder of the copy; created if missing",
    )
    parser.add_argument("--no-browser", action="store_true", help="print the address only")
    parser.add_argument("--yes", action="store_true", help="also into a folder with other files")
    given, further = parser.parse_known_args(argv)
    late = [word for word in further if not word.startswith("-")]  # a value, or a misplaced folder
    if late or (further and str(given.folder) in argv[argv.index(further[0]) :]):
        raise ValueError("first FOLDER, then JupyterLab's options, each as --NAME=VALUE")
    if not copy_notebooks(given.folder, given.yes):
        return 1
    from jupyterlab.labapp import LabApp  # late: the import takes a second

    options = ["--no-browser"] if given.no_browser else []
    LabApp.launch_instance([f"--ServerApp.root_dir={given.folder.resolve()}", *options, *further])
    return 0


def copy_notebooks(folder: Path, agreed: bool = False) -> bool:
    """Copy the notebooks that a folder lacks, overwriting none.

    Args:
        folder: created if missing.
        agreed: no confirmation for a folder with other files.

    Returns:
        Whether the folder has all notebooks; False if the user declined.

    Raises:
        ValueError: a folder with files and no terminal for the question; an unwritable folder.
    """
    sources = files.notebooks()
    missing = [path for path in sources if not (folder / path.name).exists()]
    if missing and folder.is_dir() and any(folder.iterdir()) and not agreed:
        question = f"{folder} is not empty: add {len(missing)} notebooks to it?"
        if not sys.stdin.isatty():
            raise ValueError(f"{question} Then give --yes, or another folder")
        print(f"{question} [y/N] ", end="", flush=True)
        if sys.stdin.readline().strip().lower() not in ("y", "yes"):
            return False
    files.check_writable(folder)
    for path in missing:
        with files.replacing(folder / path.name) as temporary:
            shutil.copyfile(path, temporary)
    changed = [
        path.name
        for path in sources
        if path not in missing and not filecmp.cmp(path, folder / path.name, shallow=False)
    ]
    print(f"{folder}: {len(missing)} notebooks copied, {len(sources) - len(missing)} there already")
    if changed:
        print(f"kept, though they differ: {', '.join(changed)}")
    return True
