"""Expression matrices in text tables: csv, tsv, txt."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData

from diffvae._core.io.dialect import (
    BLANKS,
    MISSING,
    Dialect,
    is_marked,
    is_number,
    marks_of,
    sniff,
    values_text,
)
from diffvae._core.io.features import is_annotation_column, is_chromosome, is_quality_column
from diffvae._core.io.openable import unreadable
from diffvae._core.io.orientation import cell_share, evidence, gene_share, is_corner, is_known_gene
from diffvae._core.io.text_file import as_text, opened, reading
from diffvae._errors import DataError, quoted

BLOCK = 2**21
"""Values that are parsed at once, about 60 MB."""
_IDENTIFIER = re.compile(r"(ENS[A-Z]*[GT]|FBgn|WBGene|[NX][MR]_)\d+\S*")
_SYMBOL_HEADER = re.compile(r"(external[_. ])?(gene|hgnc|mgi|zfin|feature)?[_. ]?(symbol|name|short[_. ]name)s?")
_ID_HEADER = re.compile(
    r"(gene|ensembl|entrez|feature)?[_. ]?(gene)?[_. ]?ids?|gene[_. ]stable[_. ]id.*|ensembl|accession"
)
_CELL_HEADER = re.compile(r"(cell[_. ]?)?(barcodes?|ids?|names?|index)|cells?")
_INDEX_HEADER = ("", "x", "v1", "index", "rownames", "row.names", "row_names", "unnamed: 0", "no", "#", "id")
_ODD_NUMBER = re.compile(r"[-+]?(\d{5,}\D?|\d*[.,]\d+\D{0,2}|\d+[.,]\d*\D{0,2})")
"""Text that was meant to be a number: its column is not a column of words."""
_NUMBERS = re.compile(r"\d+")


class _OtherMarks(Exception):
    """Numbers further down have a decimal comma or marks of thousands: ``args`` are both marks."""


@dataclass(frozen=True)
class Columns:
    """What the columns of a table hold.

    Attributes
    ----------
    names
        Position of the names of rows.
    gene_ids
        Position of identifiers beside symbols; None if there are none.
    kept
        Positions of columns that describe the rows.
    values
        Positions of the matrix.
    field
        Position of the field of view that belongs to the name of a cell; None if there is none.
    """

    names: int
    gene_ids: int | None
    kept: list[int]
    values: list[int]
    field: int | None = None


def read_table(path: Path, *, transpose: bool | None) -> AnnData:
    """Read a table with names of rows in its first column and of columns in its first line.

    See :func:`diffvae._core.io.read.read`.
    """
    dialect = sniff(path)
    for _ in range(4):
        try:
            return _read(path, dialect, transpose)
        except UnicodeDecodeError as error:
            if dialect.encoding == "cp1252":
                raise unreadable(path, error) from error
            dialect = replace(dialect, encoding="cp1252")
        except _OtherMarks as found:
            dialect = dialect.with_marks(*found.args)
    raise DataError(f"The numbers of {str(path)!r} have several decimal marks; write all of them with a decimal point.")


def _read(path: Path, dialect: Dialect, transpose: bool | None) -> AnnData:
    header = dialect.header
    _refuse_header_of_numbers(path, header)
    columns = _columns(path, dialect, bool(transpose))
    if not columns.values:
        raise DataError(f"{str(path)!r} has no column of numbers.")
    names = [header[j] for j in columns.values]
    rows: list[str] = []
    blocks: list[Any] = []
    kept: dict[int, list[str]] = {j: [] for j in columns.kept}
    for block in _blocks(path, dialect, columns):
        block = _without_empty_lines(block, columns)
        x = _numbers(path, dialect, block, columns)
        blocks.append(sp.csr_matrix(x) if np.count_nonzero(x) < 0.5 * x.size else x)
        rows += block[columns.names].tolist()
        for j, values in kept.items():
            values += block[j].tolist()
    if columns.field is not None:
        rows = [f"{field}_{cell}" for field, cell in zip(kept[columns.field], rows, strict=True)]
    index = pd.Index(rows, dtype=str)
    _refuse_names(path, header[columns.names], index)
    if transpose is None:
        transpose = _transpose(path, header[columns.names], rows, names)
    table = pd.DataFrame(index=index)
    for j, values in kept.items():
        if j == columns.gene_ids and transpose:
            table["gene_ids"] = values
        else:
            table[_unused(header[j] or f"column_{j + 1}", table)] = _typed(values, dialect)
    adata = AnnData(X=_stacked(blocks), obs=table, var=pd.DataFrame(index=pd.Index(names, dtype=str)))
    adata.obs_names.name = adata.var_names.name = None
    if transpose:
        adata = adata.T.copy()
        if sp.issparse(adata.X):
            adata.X = adata.X.tocsr()
    others = [header[j] for j in columns.kept if j != columns.gene_ids]
    if others:
        warnings.warn(
            f"{str(path)!r}: the columns {quoted(others)} are no {'cells' if transpose else 'genes'}; they are kept in "
            f"{'var' if transpose else 'obs'}.",
            UserWarning,
            stacklevel=3,
        )
    return adata


def _unused(name: str, table: pd.DataFrame) -> str:
    k = 1
    while (unused := name if k == 1 else f"{name}-{k}") in table:
        k += 1
    return unused


def _typed(values: list[str], dialect: Dialect) -> Any:
    """Return numbers if all values are numbers, else text."""
    plain = [value.replace(",", ".") for value in values] if dialect.decimal == "," else values
    if all(is_number(value) or value.strip().lower() in MISSING for value in plain) and any(map(is_number, plain)):
        return pd.to_numeric(pd.Series(plain), errors="coerce").to_numpy()
    return values


# Columns


def _columns(path: Path, dialect: Dialect, cells: bool) -> Columns:
    """Return what the columns hold, by their first values and their names; ``cells``: they are the cells."""
    header = dialect.header
    with reading(path):
        head = pd.read_csv(values_text(dialect), **_layout(dialect), low_memory=False)
    text = [j for j in range(len(header)) if head[j].dtype.kind not in "iuf"]  # True and False are no expression
    by_name = is_annotation_column(header)
    if not cells:
        by_name |= is_quality_column(header)
    start = 1 if _is_running(header[0], head[0]) and 1 in text else 0
    leading = []
    for j in range(start, len(header)):
        if j not in text or (j > start and not by_name[j] and (_n_numbers(head[j]) or _is_of_matrix(header, j))):
            break
        leading.append(j)
    names, gene_ids = _name_column(path, header, head, leading)
    if start and (not leading or head[names].nunique() < 0.9 * len(head)):
        start, names, gene_ids = 0, 0, None
    field = None if cells or leading else _field_of_view(header)
    if field is not None:
        names = 1 - field
    kept = [] if field is None else [0, 1]
    for j in range(start if field is None else 2, len(header)):
        if j == names:
            continue
        if j == 0 and _is_running(header[0], head[0]):
            continue
        if by_name[j] or j in leading or (j in text and _is_words(header, j, head[j])):
            kept.append(j)
    values = [j for j in range(1, len(header)) if j != names and j not in kept]
    return Columns(names, gene_ids, kept, values, field)


def _field_of_view(header: list[str]) -> int | None:
    """Return the position of the field of view, within which CosMx numbers the cells in the other of two columns."""
    labels = [re.sub(r"\W|_", "", name.lower()) for name in header[:2]]
    return labels.index("fov") if sorted(labels) == ["cellid", "fov"] else None


def _is_running(name: str, column: pd.Series) -> bool:
    """Return whether a column numbers the rows."""
    if name.strip().lower() not in _INDEX_HEADER or column.dtype.kind not in "iu":
        return False
    return bool((column.diff().dropna() == 1).all()) and column.iloc[0] in (0, 1)


def _n_numbers(column: pd.Series) -> int:
    return sum(is_number(str(value)) for value in column.dropna())


def _is_words(header: list[str], j: int, column: pd.Series) -> bool:
    """Return whether a column beside numbers is text that describes the rows, not a spoiled column of numbers."""
    values = [str(value) for value in column.dropna()]
    if any(is_number(value) or is_marked(value) or _ODD_NUMBER.fullmatch(value) for value in values):
        return False
    return not _is_of_matrix(header, j)


def _is_of_matrix(header: list[str], j: int) -> bool:
    """Return whether a column belongs to the matrix by its name: a gene, a cell, another of many with numbers."""
    if is_corner(header[j]):
        return False
    if header.count(header[j]) > 1 or is_known_gene([header[j]])[0] or cell_share([header[j]]):
        return True
    shape = _NUMBERS.sub("0", header[j])
    return shape != header[j] and sum(_NUMBERS.sub("0", name) == shape for name in header) > 1


def _name_column(path: Path, header: list[str], head: pd.DataFrame, leading: list[int]) -> tuple[int, int | None]:
    """Return the positions of names of rows and of identifiers beside them, among text columns in front."""
    if len(leading) < 2:
        return (leading or [0])[0], None
    described = is_annotation_column(header) | is_quality_column(header)
    best, names = None, leading[0]
    identifiers = []
    for j in leading:
        values = head[j].astype(str).tolist()
        label = header[j].strip().lower()
        is_id = sum(_IDENTIFIER.fullmatch(value) is not None for value in values) > 0.5 * len(values)
        is_id |= _ID_HEADER.fullmatch(label) is not None and _CELL_HEADER.fullmatch(label) is None
        if is_id:
            identifiers.append(j)
        distinct = 0 if is_chromosome(values).mean() > 0.9 else len(set(values)) / len(values)
        symbols = _SYMBOL_HEADER.fullmatch(label) is not None or (gene_share(values) >= 0.02 and not is_id)
        named = label == "" or symbols or is_id or _CELL_HEADER.fullmatch(label) is not None or not described[j]
        score = (distinct > 0.5 or (len(values) == 1 and named), named, symbols and not is_id, not is_id, -j)
        if best is None or score > best:
            best, names = score, j
    if len(head) > 1 and all(head[j].nunique() < 2 for j in leading):
        raise DataError(
            f"The first columns of {str(path)!r} ({quoted([header[j] for j in leading])}) hold the same in every line; "
            "add a column of names."
        )
    return names, next((j for j in identifiers if j != names), None)


# Values


def _layout(dialect: Dialect) -> dict[str, Any]:
    """Return the options of ``pandas.read_csv``."""
    thousands = {} if dialect.thousands is None else {"thousands": dialect.thousands}
    return {
        "sep": dialect.separator,
        "decimal": dialect.decimal,
        "header": None,
        "skipinitialspace": dialect.separator != BLANKS,
        **thousands,
    }


def _blocks(path: Path, dialect: Dialect, columns: Columns) -> Iterator[pd.DataFrame]:
    """Yield the lines of values, some at a time; names and text as they are written."""
    text = (columns.names, *columns.kept)
    with opened(path) if dialect.as_bytes else as_text(path, dialect.encoding) as file:
        for _ in range(dialect.n_skip):
            file.readline()
        # names such as 007 or NA, which pandas would change, stay as they are
        options = {
            "low_memory": False,
            "chunksize": max(1, BLOCK // dialect.n_fields),
            "converters": dict.fromkeys(text, str),
        }
        try:
            with pd.read_csv(file, **_layout(dialect), **options) as table:
                yield from table
        except (UnicodeDecodeError, DataError, _OtherMarks):
            raise
        except (OSError, ValueError, OverflowError, EOFError) as error:
            raise unreadable(path, error) from error


def _without_empty_lines(block: pd.DataFrame, columns: Columns) -> pd.DataFrame:
    """Return lines that hold something: a spreadsheet leaves lines of separators, programs a comment at the end."""
    names = block[columns.names].str.strip()
    odd = (names == "") | names.str.startswith("#")
    if not odd.any():
        return block
    values = [j for j in columns.values if j in block]
    return block[~(odd & block[values].isna().all(axis=1))]


def _numbers(path: Path, dialect: Dialect, block: pd.DataFrame, columns: Columns) -> np.ndarray:
    """Return the matrix in some lines."""
    n = len(dialect.header)
    if block.shape[1] < n:
        raise DataError(f"{str(path)!r} names {n - 1:,} columns, but its lines have {block.shape[1] - 1:,}.")
    for j in range(n, block.shape[1]):
        if block[j].notna().any():
            raise DataError(
                f"{str(path)!r} names {n - 1:,} columns, but some of its lines have {j:,}: "
                f"{block.loc[block[j].notna().idxmax(), columns.names]!r} has {str(block[j].dropna().iloc[0])!r} there."
            )
    first, last = columns.values[0], columns.values[-1]
    whole = last - first + 1 == len(columns.values)
    part = block.iloc[:, first : last + 1] if whole else block.iloc[:, columns.values]
    for j, dtype in zip(columns.values, part.dtypes, strict=True):
        if dtype.kind not in "iuf":
            _refuse_column(path, dialect, dialect.header[j], block[columns.names], block[j])
    return part.to_numpy(dtype=np.float32)


def _refuse_column(path: Path, dialect: Dialect, name: str, rows: pd.Series, column: pd.Series) -> None:
    odd = column[pd.to_numeric(column, errors="coerce").isna() & column.notna()]
    values_shown = column if odd.empty else odd  # pandas reads whole numbers of 20 digits and more as text
    texts = [str(value) for value in odd]
    if texts and dialect.thousands is None and all(map(is_marked, texts)):
        marks = marks_of(texts)
        if marks is not None and marks != (dialect.decimal, dialect.thousands):
            raise _OtherMarks(*marks)
    raise DataError(
        f"Column {name!r} of {str(path)!r} is not numeric: it holds {values_shown.iloc[0]!r} in row "
        f"{rows[values_shown.index[0]]!r}. Leave out columns that are not genes."
    )


def _stacked(blocks: list[Any]) -> Any:
    """Return the blocks below each other, sparse if more than half of all values are zero."""
    n_values = sum(block.shape[0] * block.shape[1] for block in blocks)
    n_nonzero = sum(block.nnz if sp.issparse(block) else np.count_nonzero(block) for block in blocks)
    if n_nonzero < 0.5 * n_values:
        return sp.vstack([sp.csr_matrix(block) for block in blocks], format="csr")
    return np.vstack([block.toarray() if sp.issparse(block) else block for block in blocks])


# Names


def _refuse_header_of_numbers(path: Path, header: list[str]) -> None:
    """Refuse a first line of numbers: it is a line of values, unless they number cells or identify genes at NCBI."""
    names = [name for name in header[1:] if name.lower() not in MISSING]
    if not names or not all(map(is_number, names)):
        return
    if is_corner(header[0]) and all(map(str.isdecimal, names)) and len(set(names)) == len(header) - 1:
        return
    raise DataError(
        f"The first line of {str(path)!r} holds numbers ({header[1]!r}, ...) where gene names should be; "
        "add a line of names."
    )


def _refuse_names(path: Path, corner: str, rows: pd.Index) -> None:
    """Refuse a first column that can't be names: numbers with decimals, the same in all lines."""
    if len(rows) and all(map(is_number, rows)) and not all(float(name).is_integer() for name in rows):
        raise DataError(
            f"The first column of {str(path)!r} ({corner!r}) holds numbers such as {float(rows[0]):g} where "
            "cell names should be; add a column of names in front."
        )
    if len(rows) > 1 and rows.nunique() == 1:
        raise DataError(
            f"The first column of {str(path)!r} ({corner!r}) holds {rows[0]!r} in every line, which names nothing; add "
            "a column of names."
        )


def _transpose(path: Path, corner: str, rows: Sequence[str], columns: Sequence[str]) -> bool:
    """Return False for a table with cells in rows; refuse one with genes in rows or with contradictory names."""
    found = evidence(rows, columns, corner)
    if found.transpose:
        raise DataError(
            f"{str(path)!r} seems to have genes in rows and cells in columns ({' and '.join(found.genes_in_rows)}); "
            "read it with transpose=True, or with transpose=False if that is not so."
        )
    if found.genes_in_rows and found.cells_in_rows:
        raise DataError(
            f"The names in {str(path)!r} contradict each other: {' and '.join(found.genes_in_rows)}, as if genes were "
            f"in rows, but {' and '.join(found.cells_in_rows)}, as if cells were. Read it with transpose=True "
            "if genes are in rows, with transpose=False if cells are."
        )
    if not found.cells_in_rows:
        raise DataError(
            f"Neither the names of rows ({quoted(rows[:2])}, ...) nor those of columns ({quoted(columns[:2])}, ...) of "
            f"{str(path)!r} ({len(rows):,} x {len(columns):,}) tell which are the genes; read it with "
            "transpose=True if genes are in rows, with transpose=False if cells are."
        )
    return False
