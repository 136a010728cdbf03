"""The command ``maskwright``, ``python -m maskwright`` and ``accelerate launch -m maskwright``."""

import sys

from maskwright import interrupts


def main() -> int:
    """Run the command line and return its exit status; it answers Ctrl-C from its first import on."""
    with interrupts.handled(sys.argv[1:]):
        from maskwright.cli import main as command

        return command()


if __name__ == "__main__":
    sys.exit(main())
