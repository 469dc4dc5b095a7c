"""The command line: one small file per command, all of it calls of public functions.

Nothing heavy is imported here, so that ``diffvae --help`` answers at once.
"""

import sys


def main() -> None:
    """Run the program; whoever stops it while it loads is told no more than later on."""
    try:
        from diffvae.cli._main import main as program

        program()
    except KeyboardInterrupt:
        print("Error: Interrupted.", file=sys.stderr)
        sys.exit(130)


__all__ = ["main"]
