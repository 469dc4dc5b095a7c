"""How a text table is written: what separates its columns, its decimal mark, its comments and its header."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from diffvae._core.io.orientation import is_corner
from diffvae._core.io.text_file import as_text, encoding, reading
from diffvae._errors import DataError

N_LINES = 40
"""Lines of values whose agreement decides."""
N_CHARACTERS = 2**22
"""Text that is read to decide, at most, beyond three lines."""
BLANKS = r"\s+"
SEPARATORS = ("\t", ",", ";", "|", BLANKS)
"""In this order, where two of them are equally good."""
MISSING = frozenset(("", "na", "nan", "n/a", "null", "none", "#n/a", "<na>", "-nan"))
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
_COMMA_NUMBER = re.compile(r"[+-]?\d*,\d+([eE][+-]?\d+)?")
_THOUSANDS = re.compile(r"[+-]?[1-9]\d{0,2}(,\d{3})+")
_COMMA_POINT = re.compile(r"[+-]?[1-9]\d{0,2}(,\d{3})+\.\d*|[+-]?[1-9]\d{0,2}(,\d{3}){2,}")
"""1,234.50 and 1,234,567."""
_POINT_COMMA = re.compile(r"[+-]?[1-9]\d{0,2}(\.\d{3})+,\d*|[+-]?[1-9]\d{0,2}(\.\d{3}){2,}")
"""1.234,50 and 1.234.567."""
_POINTS = re.compile(r"[+-]?[1-9]\d{0,2}(\.\d{3})+")


def is_number(text: str) -> bool:
    """Return whether a text is a number with a decimal point.

    Examples
    --------
    >>> [is_number(text) for text in ("1", "-1.5e-3", ".5", "1,5", "nan", "1_000")]
    [True, True, True, False, False, False]
    """
    return _NUMBER.fullmatch(text.strip()) is not None


@dataclass(frozen=True)
class Dialect:
    """How a table is written.

    Attributes
    ----------
    encoding
        Of its text.
    separator
        Of its columns, as pandas takes it.
    decimal, thousands
        Marks in its numbers.
    n_skip
        Lines before the first line of values.
    header
        Names of the columns, as many as there are columns of values: R writes no name for the first column, and it is
        added here; empty fields after the last name are left out.
    n_fields
        Fields in a line of values. Those beyond the header are empty.
    lines
        The first lines of values.
    as_bytes
        Whether it is UTF-8 with the usual ends of lines, which pandas reads twice as fast as bytes.
    """

    encoding: str
    separator: str
    decimal: str
    thousands: str | None
    n_skip: int
    header: list[str]
    n_fields: int
    lines: list[str]
    as_bytes: bool

    def with_marks(self, decimal: str, thousands: str | None) -> Dialect:
        """Return this dialect with other marks in numbers."""
        return replace(self, decimal=decimal, thousands=thousands)


def split(line: str, separator: str) -> list[str]:
    """Return the fields of a line.

    Examples
    --------
    >>> split('"a, b",1, 2', ","), split("a  1 2 ", BLANKS)
    (['a, b', '1', '2'], ['a', '1', '2'])
    """
    if separator == BLANKS:
        line, separator = " ".join(line.split("\t")).strip(), " "
    if '"' not in line:
        fields = line.split(separator)
        return [field.strip() for field in fields if field] if separator == " " else [f.strip() for f in fields]
    return [field.strip() for field in next(csv.reader([line], delimiter=separator, skipinitialspace=True))]


def sniff(path: Path) -> Dialect:
    """Return how a table is written.

    The separator is the one under which the lines of values have the same number of fields, the header has as many or
    one less, and most fields are numbers.

    Raises
    ------
    DataError
        If there are fewer than two lines, no separator makes a table of them, several lines hold names, or numbers
        such as ``1,234`` could mean either of two things.
    """
    first = encoding(path)
    with reading(path):
        for name in dict.fromkeys((first, "cp1252")):
            try:
                comments, lines, n_before, ends = _first_lines(path, name)
                break
            except UnicodeDecodeError:
                if name == "cp1252":
                    raise
    if len(lines) < 2 and not (lines and comments):
        raise DataError(
            f"{str(path)!r} has {len(lines)} line(s); a line of gene names and one for each cell are needed."
        )
    header, values, separator, n_skip = _separated(comments, lines, n_before)
    as_bytes = name.startswith("utf-8") and "\r" not in ends
    return _dialect(path, (name, as_bytes), header, values, separator, n_skip, lines)


def _first_lines(path: Path, name: str) -> tuple[list[str], list[str], list[int], tuple[str, ...]]:
    """Return comments in front of a table, its first lines, the number of lines before each, and the ends of lines."""
    comments: list[str] = []
    lines: list[str] = []
    n_before: list[int] = []
    n_characters = 0
    with as_text(path, name) as file:
        for number, text in enumerate(file):
            line = text.rstrip("\r\n")
            n_characters += len(line)
            if not line.strip(" \t,;|"):
                continue
            if not lines and line.lstrip().startswith(("#", "%")) and not line.lstrip().startswith("#N/A"):
                comments.append(line.lstrip())
                continue
            lines.append(line)
            n_before.append(number)
            if len(lines) > N_LINES or (n_characters > N_CHARACTERS and len(lines) > 3):
                break
        ends = file.newlines
    return comments, lines, n_before, ends if isinstance(ends, tuple) else (ends or "",)


def _separated(
    comments: list[str], lines: list[str], n_before: list[int]
) -> tuple[list[str], list[list[str]], str, int]:
    """Return header, lines of values, the separator, and the number of lines before the first line of values."""
    best: tuple[tuple[float, ...], list[str], list[list[str]], str, int] | None = None
    for order, separator in enumerate(SEPARATORS):
        rows = [split(line, separator) for line in lines]
        n_titles = _n_titles(comments, rows)
        rows, before = rows[n_titles:], n_before[n_titles:]
        header, values, n_skip = rows[0], rows[1:], before[1] if len(rows) > 1 else 0
        if comments and sum(map(is_number, rows[0][1:])) > 0.5 * (len(rows[0]) - 1) >= 0.5:
            told = split(comments[-1].lstrip("#% "), separator)  # "#gene  cell1  cell2"
            if len(rows[0]) - len(told) in (0, 1):
                header, values, n_skip = told, rows, before[0]
        if not values:
            continue
        n = len(values[0])
        alike = sum(len(row) == n for row in values) / len(values)
        named = len(_without_last_empty(header))
        agrees = n > 1 and alike == 1 and named <= n and n - named <= 1 + _n_empty(values, named)
        sample = [field for row in values[:10] for field in row[1:2000]]
        numeric = sum(is_number(f) or f.lower() in MISSING or is_marked(f) for f in sample)
        score = (agrees, numeric / max(len(sample), 1) > 0.5, alike if n > 1 else 0, min(n, named), -order)
        if best is None or score > best[0]:
            best = score, header, values, separator, n_skip
    if best is None:
        return split(lines[0], ","), [], ",", n_before[0]
    return best[1:]


def _n_titles(comments: list[str], rows: list[list[str]]) -> int:
    """Return 1 if the first line is a title, one field above a table, or the sizes of a table in the format GCT."""
    if len(rows) < 3 or len({len(row) for row in rows[1:]}) > 1 or len(rows[1]) < 3:
        return 0
    fields = [field for field in rows[0] if field]
    gct = bool(comments) and comments[0].startswith("#1.") and len(fields) == 2 and all(map(str.isdecimal, fields))
    return int((len(fields) == 1 and bool(rows[0][0])) or gct)


def _without_last_empty(header: list[str]) -> list[str]:
    n = len(header)
    while n > 1 and not header[n - 1]:
        n -= 1
    return header[:n]


def _n_empty(values: list[list[str]], least: int) -> int:
    """Return how many fields at the end are empty in all lines; the first ``least`` fields don't count."""
    n = min(map(len, values))
    k = 0
    while n - k > least and all(not row[n - 1 - k] for row in values):
        k += 1
    return k


def _dialect(
    path: Path,
    text: tuple[str, bool],
    header: list[str],
    values: list[list[str]],
    separator: str,
    n_skip: int,
    lines: list[str],
) -> Dialect:
    names = _without_last_empty(header)
    n_fields = len(values[0])
    n = n_fields - _n_empty(values, len(names))
    if n == len(names) + 1 and not is_corner(names[0]):  # R
        names = ["", *names]
    if len(names) < 2:
        raise DataError(
            f"{str(path)!r} has at most one column in its first line; separate columns by commas, tabs or semicolons."
        )
    if n != len(names):
        damaged = any(len(row) != n_fields for row in values)
        raise DataError(
            f"{str(path)!r} names {len(names) - 1:,} columns, but its lines have {n - 1:,}"
            f"{' (not all of them: it may be damaged)' if damaged else ''}."
        )
    _refuse_second_header(path, values)
    decimal, thousands = _marks(path, values)
    first = lines[len(lines) - len(values) :]
    return Dialect(text[0], separator, decimal, thousands, n_skip, names, n_fields, first, text[1])


def _refuse_second_header(path: Path, values: list[list[str]]) -> None:
    """Refuse tables with several lines of names: their second line holds text where all others hold numbers."""
    if len(values) < 2:
        return

    def share(row: Sequence[str]) -> float:
        fields = row[1:5000]
        return sum(is_number(f) or f.lower() in MISSING or is_marked(f) for f in fields) / max(len(fields), 1)

    if share(values[0]) < 0.5 and share(values[-1]) > 0.8:
        odd = next((field for field in values[0][1:] if field and not is_number(field)), "")
        raise DataError(
            f"{str(path)!r} has more than one line of names: the line below the first holds text ({odd!r}, ...) where "
            "the last lines hold numbers. Keep one line of names."
        )


def _marks(path: Path, values: list[list[str]]) -> tuple[str, str | None]:
    """Return the decimal mark and the mark of thousands."""
    fields = [field for row in values for field in row[1:5000]]
    found = marks_of(fields)
    if found is not None:
        return found
    odd = next(field for field in fields if is_marked(field))
    raise DataError(
        f"{str(path)!r} holds {odd!r}, which may be a decimal comma or a mark of thousands; write its "
        "numbers with a decimal point and without marks of thousands."
    )


def marks_of(texts: Sequence[str]) -> tuple[str, str | None] | None:
    """Return the decimal mark and the mark of thousands in numbers; None if they could mean either of two things.

    Examples
    --------
    >>> marks_of(["1.5", "2"]), marks_of(["1,5", "1,234"]), marks_of(["1,234.50"]), marks_of(["1.234,50", "0,5"])
    (('.', None), (',', None), ('.', ','), (',', '.'))
    >>> marks_of(["1,234"]) is None
    True
    """
    marked = [text for text in map(str.strip, texts) if is_marked(text)]
    if not marked:
        return ".", None
    pointed = any("." in text and is_number(text) and not _POINTS.fullmatch(text.strip()) for text in texts)
    commas = any(_COMMA_NUMBER.fullmatch(text) and not _THOUSANDS.fullmatch(text) for text in marked)
    comma_point = any(_COMMA_POINT.fullmatch(text) for text in marked)
    if any(_POINT_COMMA.fullmatch(text) for text in marked):
        return None if pointed or comma_point else (",", ".")
    if comma_point:
        return None if commas else (".", ",")
    if commas:
        return ",", None
    return (".", ",") if any("." in text and is_number(text) for text in texts) else None


def is_marked(text: str) -> bool:
    """Return whether a text is a number with a decimal comma or with marks of thousands.

    Examples
    --------
    >>> [is_marked(text) for text in ("1,5", "1,234.50", "1.234,50", "1.5", "a, b")]
    [True, True, True, False, False]
    """
    text = text.strip()
    return any(p.fullmatch(text) for p in (_COMMA_NUMBER, _THOUSANDS, _COMMA_POINT, _POINT_COMMA))


def values_text(dialect: Dialect) -> io.StringIO:
    """Return the first lines of values as a file."""
    return io.StringIO("\n".join(dialect.lines) + "\n")
