"""Run all or some benchmarks: python -m benchmarks [NAME …]; --help lists the names.

Each prints a table and writes JSON into runs/bench/. `distance` runs the published loop for 10,000
steps and a few seeds, and resumes after the last complete seed; `metamer`
resumes too. `python -m tools picture` draws docs/speed.png from the results. The peers, robustness 1.2.1
and plenoptic 2.1.1, are imported from .peers (make .peers/.installed); without them their columns
are empty.
"""

import argparse
import importlib
import os
import sys

from nbhelpers.commands import ending

os.environ["TQDM_DISABLE"] = "1"  # no bars between the tables

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
NAMES += ("metamer", "frames", "page")


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
