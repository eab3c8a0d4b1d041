"""Command line: visualize every component of a representation, in shards."""

import sys

from nbhelpers.shards import main

if __name__ == "__main__":
    sys.exit(main("visualize"))
