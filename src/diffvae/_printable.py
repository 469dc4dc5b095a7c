"""Names of others on their way to a reader: nothing in them can steer a terminal or turn a line around."""

from __future__ import annotations

import unicodedata

DROPPED = ("Cc", "Cf", "Cs", "Co")
"""Categories of Unicode: control, direction and invisible, halves of pairs, private."""


def printable(text: str) -> str:
    r"""Return text without control and direction characters; ends of lines and tabs stay.

    Examples
    --------
    >>> printable("B cell\x1b[2J\n"), printable("CD4+ T\u202e")
    ('B cell[2J\n', 'CD4+ T')
    """
    return "".join(c for c in text if c in "\n\t" or unicodedata.category(c) not in DROPPED)
