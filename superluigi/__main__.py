"""`python -m superluigi`: the same as the command `superluigi`."""

import sys

from superluigi.cli import main

if __name__ == "__main__":
    sys.exit(main())
