"""Command line: invert a whole data set, in shards."""

import sys

from nbhelpers.shards import main

if __name__ == "__main__":
    sys.exit(main("invert"))
