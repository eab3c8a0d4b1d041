"""Run the benchmarks, or some of them: python -m benchmarks [NAME …], see --help for the names.

Each prints a table and writes a JSON and a picture into runs/bench/, which git ignores. `distance`
runs the published loop for 10,000 steps and a few seeds, keeps what it has after every seed, and
goes on from there. `python -m tools picture` draws docs/speed.png out of what they wrote. The peer,
robustness 1.2.1, is looked for in .peers (uv pip install --target .peers --no-deps -r
tests/peers/requirements.txt); without it its column stays empty.
"""

import argparse
import importlib
import os
import sys

from nbhelpers.commands import ending

os.environ["TQDM_DISABLE"] = "1"  # bars would cut through the tables

NAMES = (
    "step",
    "distance",
    "solver",
    "formats",
    "dataset",
    "notebooks",
    "scaling",
    "training",
    "latency",
)
NAMES += ("frames", "page")


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description=__doc__.partition("\n\n")[2]
    )
    parser.add_argument(
        "names", nargs="*", metavar="NAME", choices=[*NAMES, []], help=f"of {', '.join(NAMES)}"
    )
    for name in parser.parse_args().names or NAMES:
        importlib.import_module(f"benchmarks.{name}").main()


if __name__ == "__main__":
    sys.exit(ending(main))
