"""``python -m superbatch``: the command line."""

import sys

from superbatch.cli import main


sys.exit(main())
