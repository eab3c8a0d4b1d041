"""`make demo`: run the notebooks one after the other, then show their numbers and where their pages are."""

import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from nbhelpers import files
from nbhelpers.commands import command_parser
from nbhelpers.results import print_numbers
from nbhelpers.runs.pages import notebook_page
from nbhelpers.runs.sweeps import sweep


def demo_command(argv: Sequence[str]) -> int:
    """Run every notebook with its defaults into a fresh folder; returns 1 where one failed."""
    parser = command_parser("demo", "Run the notebooks one after the other, then show their numbers and their pages.")
    parser.add_argument("out", nargs="?", type=Path, default=Path("runs/demo"), help="folder")
    folder, failed = parser.parse_args(argv).out / time.strftime("%Y-%m-%d-%H%M%S"), []
    notebooks = sorted(files.NOTEBOOKS.glob("[0-9]_*.ipynb"))
    pages = {}
    for notebook in tqdm(notebooks, unit="notebook"):
        tqdm.write(f"{notebook.stem} …", file=sys.stderr)
        outcome = sweep(notebook, {}, folder / notebook.stem, jobs=1)[0]
        if outcome.state != "done":
            failed.append(f"{notebook.stem}: {outcome.message}")
            continue
        executed = next(outcome.run.folder.glob("*.ipynb"))
        pages[notebook.stem] = notebook_page(executed) or executed
    for name, path in pages.items():
        result = json.loads((path.parent / "result.json").read_text())
        print(f"\n{name}   {path}")
        print_numbers(result["numbers"])
    for line in failed:
        print(f"\nfailed: {line}", file=sys.stderr)
    print(f"\n{len(pages)} passed, {len(failed)} failed")
    return 1 if failed else 0
