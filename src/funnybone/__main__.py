"""``python -m funnybone``, for launchers that start a module."""

import sys

from funnybone.cli import main

if __name__ == "__main__":
    sys.exit(main())
