"""The command line: one small file per command, all of it calls of public functions.

Nothing heavy is imported here, so that ``diffvae --help`` answers at once.
"""

from diffvae.cli._main import main

__all__ = ["main"]
