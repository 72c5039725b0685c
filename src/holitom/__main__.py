"""`python -m holitom`."""

import sys

from holitom.cli import main

if __name__ == "__main__":
    sys.exit(main())
