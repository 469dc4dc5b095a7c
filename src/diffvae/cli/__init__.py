"""The command line: one file per command, which calls a public function.

Nothing heavy is imported here, so that ``diffvae --help`` is fast.
"""

import sys


def main() -> None:
    """Run the program; an interrupt while it loads ends it without a traceback."""
    try:
        from diffvae.cli._main import main as program

        program()
    except KeyboardInterrupt:
        print("Error: Interrupted.", file=sys.stderr)
        sys.exit(130)


__all__ = ["main"]
