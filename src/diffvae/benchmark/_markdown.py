"""Markdown out of names that may hold anything."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np


def text(value: Any) -> str:
    r"""Return a name as Markdown shows it: nothing in it is markup, a cell's end or a line's.

    Examples
    --------
    >>> print(text("T | B\n<script>"), text("baron_mouse *new*"))
    T \| B &lt;script&gt; baron_mouse \*new\*
    """
    plain = " ".join("".join(c if c.isprintable() else " " for c in str(value)).split())
    plain = re.sub(r"([\\`*|~$\[\]])", r"\\\1", plain)
    plain = re.sub(r"(?<![^\W_])_|_(?![^\W_])", r"\\_", plain)  # within a word it is no markup
    return plain.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def table(header: Sequence[str], rows: Sequence[Sequence[str]], left: int = 1) -> str:
    """Return a table of cells that are Markdown already; the first `left` columns are set left, the others right."""
    lines = [header, ["---" if i < left else "---:" for i in range(len(header))], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def code(lines: str) -> str:
    """Return a block of code, fenced by more backticks than it has in a row."""
    longest = max((len(found) for found in re.findall("`+", lines)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}\n{lines.strip()}\n{fence}"


def number(value: float, digits: int = 3) -> str:
    """Return a number with a minus sign that can be read, and a dash for none.

    Examples
    --------
    >>> number(-0.0312), number(float("nan")), number(-0.0001)
    ('−0.031', '–', '0.000')
    """
    if not np.isfinite(value):
        return "–"
    said = f"{value:.{digits}f}"
    return said.replace("-", "" if float(said) == 0 else "−")


def spread(mean: float, sd: float, digits: int = 3) -> str:
    """Return "mean ± sd", or the mean alone where there is no spread.

    Examples
    --------
    >>> spread(0.5, 0.02), spread(0.5, float("nan"))
    ('0.500 ± 0.020', '0.500')
    """
    return number(mean, digits) + (f" ± {number(sd, digits)}" if np.isfinite(sd) else "")


def capital(sentence: str) -> str:
    """Begin with a capital, unless that is no letter to be changed.

    Examples
    --------
    >>> capital("silhouette"), capital("kNN purity"), capital("t-SNE")
    ('Silhouette', 'kNN purity', 't-SNE')
    """
    return sentence if sentence[1:2].isupper() or sentence[1:2] == "-" else sentence[:1].upper() + sentence[1:]


def listed(names: Sequence[str], last: str = "and") -> str:
    """Return "a, b and c".

    Examples
    --------
    >>> listed(["a", "b", "c"]), listed(["a"])
    ('a, b and c', 'a')
    """
    return f" {last} ".join([", ".join(names[:-1]), names[-1]]) if len(names) > 1 else "".join(names)
