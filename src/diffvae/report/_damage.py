"""What becomes of content that no command wrote so: a sentence, not a traceback."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import jinja2
from pandas.errors import InvalidIndexError

from diffvae._errors import DataError
from diffvae.report._encode import clean

FAILURES = (
    LookupError,
    TypeError,
    ValueError,
    AttributeError,
    ArithmeticError,
    OSError,
    RuntimeError,  # recursion without end among them, and much of what HDF5 says
    MemoryError,
    InvalidIndexError,
    jinja2.UndefinedError,
)
"""How code fails on what is missing, of another type, or another number of times there than it was written."""
MOST_WORDS = 300
"""Letters of a failure that are told: it may quote what is damaged, whatever its length."""


@contextmanager
def told(folder: Path) -> Iterator[None]:
    """Say of a failure in the block that the folder is at fault."""
    try:
        yield
    except DataError:
        raise
    except FAILURES as error:
        raise DataError(
            f"{str(folder)!r} is damaged or of another version ({why(error)}); run the command that wrote it again."
        ) from error


def why(error: BaseException) -> str:
    """Return what an error says, in one line and without its full stop.

    Examples
    --------
    >>> why(KeyError("score"))
    "KeyError: 'score'"
    """
    text = clean(error)[:MOST_WORDS].rstrip(".")
    if isinstance(error, DataError):
        return text
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
