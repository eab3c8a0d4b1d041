"""Run a tool: python -m tools NAME [OPTION …]

screenshots   the demos in JupyterLab, docs/demo-*.png
picture       docs/speed.png from the benchmarks' results, and a figure of each notebook
recording     one inversion in the exported page, docs/inversion.webp
evidence      inversions, holes and classes over a whole data set, as a table
photographs   photographs inverted by the 64-pixel networks, docs/photographs64.png
series        the model card's table, and docs/series.png, from the manifest
api           the API reference, build/api
site          the web site: README, docs, notebooks, demos and the reference, build/site
autoattack    torchattacks' AutoAttack on a shipped network; see `autoattack --help`
"""

import importlib
import sys

from nbhelpers.commands import ending

NAMES = (
    "screenshots",
    "picture",
    "recording",
    "evidence",
    "photographs",
    "series",
    "api",
    "site",
    "autoattack",
)


def main() -> int:
    words = sys.argv[1:]
    if not words or words[0] in ("-h", "--help"):
        print(__doc__)
        return 0
    if words[0] not in NAMES:
        print(f"error: got {words[0]!r}, wanted one of {', '.join(NAMES)}", file=sys.stderr)
        return 2
    sys.argv[:] = [f"python -m tools {words[0]}", *words[1:]]
    importlib.import_module(f"tools.{words[0]}").main()
    return 0


if __name__ == "__main__":
    sys.exit(ending(main))
