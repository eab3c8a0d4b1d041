"""`python -m nbhelpers COMMAND` runs `nbhelpers COMMAND`."""

import sys

from nbhelpers.commands import main

if __name__ == "__main__":  # worker processes import this file
    sys.exit(main())
