"""Markdown from names that may hold any characters."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np


def text(value: Any) -> str:
    r"""Return a name in Markdown on one line, with all markup escaped.

    Examples
    --------
    >>> print(text("T | B\n<script>"), text("baron_mouse *new*"))
    T \| B &lt;script&gt; baron_mouse \*new\*
    """
    plain = " ".join("".join(c if c.isprintable() else " " for c in str(value)).split())
    plain = re.sub(r"([\\`*|~$\[\]])", r"\\\1", plain)
    plain = re.sub(r"(?<![^\W_])_|_(?![^\W_])", r"\\_", plain)  # an underscore within a word is not markup
    return plain.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def table(header: Sequence[str], rows: Sequence[Sequence[str]], left: int = 1) -> str:
    """Return a table; cells are Markdown, the first `left` columns are aligned left, the others right."""
    lines = [header, ["---" if i < left else "---:" for i in range(len(header))], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def code(lines: str) -> str:
    """Return a code block; its fence has more backticks than any run in the text."""
    fence = "`" * max(3, *(len(run) + 1 for run in ["", *re.findall("`+", lines)]))
    return f"{fence}\n{lines.strip()}\n{fence}"


def number(value: float, digits: int = 3) -> str:
    """Return a number with a typographic minus sign, or a dash for NaN.

    Examples
    --------
    >>> number(-0.0312), number(float("nan")), number(-0.0001)
    ('−0.031', '–', '0.000')
    """
    if not np.isfinite(value):
        return "–"
    shown = f"{value:.{digits}f}"
    return shown.replace("-", "" if float(shown) == 0 else "−")


def signed(value: float) -> str:
    """Return a difference with its sign.

    Examples
    --------
    >>> signed(0.0312), signed(-0.02), signed(0.0)
    ('+0.031', '−0.020', '0.000')
    """
    shown = number(value)
    return f"+{shown}" if value > 0 and float(shown) != 0 else shown


def spread(mean: float, sd: float, digits: int = 3) -> str:
    """Return "mean ± sd", or the mean alone if the standard deviation is NaN.

    Examples
    --------
    >>> spread(0.5, 0.02), spread(0.5, float("nan"))
    ('0.500 ± 0.020', '0.500')
    """
    return number(mean, digits) + (f" ± {number(sd, digits)}" if np.isfinite(sd) else "")


def bullets(lines: Sequence[str]) -> str:
    """Return a list with one item per line."""
    return "\n".join(f"- {line}" for line in lines)


def capital(sentence: str) -> str:
    """Capitalise the first letter, except in names such as t-SNE and kNN.

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
