"""``python -m maskwright`` and ``accelerate launch -m maskwright``: the same as the command ``maskwright``."""

import sys

from maskwright.cli import main

if __name__ == "__main__":
    sys.exit(main())
