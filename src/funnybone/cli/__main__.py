"""``python -m funnybone.cli`` is the command line."""

import sys

from funnybone.cli import main

sys.exit(main())
