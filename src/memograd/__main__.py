"""``python -m memograd`` is the command ``memograd``."""

import sys

from memograd.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
