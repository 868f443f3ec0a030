"""`python -m toril`: the same as the command `toril`."""

import sys

from toril.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
