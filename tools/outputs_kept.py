"""Check that notebooks were run from top to bottom: python tools/outputs_kept.py NOTEBOOK …

Notebooks are committed with outputs, for the web and for nbval. Needs no package.
"""

import json
import sys
from pathlib import Path


def fault(path: Path) -> str | None:
    """The fault of a notebook's saved state, in a line, or None."""
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    if [cell["execution_count"] for cell in code] != list(range(1, len(code) + 1)):
        return "not every cell was run, in order"
    if any(output["output_type"] == "error" for cell in code for output in cell["outputs"]):
        return "a cell ended with an error"
    return None if any(cell["outputs"] for cell in code) else "no outputs"


def main() -> int:
    faults = {name: found for name in sys.argv[1:] if (found := fault(Path(name)))}
    for name, found in faults.items():
        print(f"{name}: {found}; run `make notebooks`, look at the figures, and commit the outputs")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
