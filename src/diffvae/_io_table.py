"""Tables of expression as text: cell names in the first column, gene names in the first line."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData

from diffvae._errors import DataError
from diffvae._io_text import memory, opened, size

_GENE_CORNER = re.compile(r"^(gene|genes|gene_?(id|name|symbol)s?|symbols?|geneid|ensembl(_?id)?)$", re.IGNORECASE)
_ENSEMBL = re.compile(r"^ENS[A-Z]*G\d{6,}")
BLOCK = 2**21
"""Values that are taken apart at once: some 60 MB, whatever the size of the table."""
_BARCODE = re.compile(r"^([A-Za-z0-9]+[_#-])?[ACGT]{10,}([-_.]\w+)?$")


def read_table(path: Path, *, transpose: bool | None) -> AnnData:
    """Read a table; see :func:`diffvae._io.read`."""
    header, first, separator = _head(path)
    # R leaves out the corner: one name fewer than there are columns.
    genes = header if len(header) == len(first) - 1 else header[1:]
    corner = "" if len(header) == len(first) - 1 else header[0]
    if not genes:
        raise DataError(f"{str(path)!r} has one column only; columns are separated by commas, tabs or semicolons.")
    if all(_is_number(name) for name in genes):
        raise DataError(
            f"The first line of {str(path)!r} holds numbers ({genes[0]!r}, ...) where gene names should be; "
            "add a line of names."
        )
    rows: list[str] = []
    blocks: list[Any] = []
    held = 0
    for block in _blocks(path, separator, len(genes)):
        if block.shape[1] != len(genes):
            raise DataError(f"{str(path)!r} names {len(genes):,} columns, but its lines have {block.shape[1]:,}.")
        for i, dtype in enumerate(block.dtypes):
            if dtype.kind not in "biuf":
                _refuse_column(path, genes[i], block.iloc[:, i])
        x = block.to_numpy(dtype=np.float32)
        blocks.append(sp.csr_matrix(x) if np.count_nonzero(x) < 0.5 * x.size else x)
        rows += block.index.tolist()
        held += 8 * blocks[-1].nnz if sp.issparse(blocks[-1]) else x.nbytes
        if 2 * held > memory():
            raise DataError(
                f"{str(path)!r} needs more memory than there is: {len(rows):,} of its lines take {size(held)}, and "
                "joining them as much again; take fewer cells, or convert it to .h5ad on a larger machine."
            )
    names = pd.Index(rows, dtype=str)
    if rows and all(map(_is_number, rows)) and not all(float(name).is_integer() for name in rows):
        raise DataError(
            f"The first column of {str(path)!r} ({corner!r}) holds numbers such as {float(rows[0]):g} where "
            "cell names should be; add a column of names in front."
        )
    if transpose is None and (why := _genes_in_rows(corner, names, genes)):
        raise DataError(
            f"{str(path)!r} seems to have genes in rows and cells in columns ({why}); read it with "
            "transpose=True (--transpose), or with transpose=False (--no-transpose) if that is not so."
        )
    matrix = _joined(blocks)
    adata = AnnData(X=matrix, obs=pd.DataFrame(index=names), var=pd.DataFrame(index=pd.Index(genes, dtype=str)))
    adata.obs_names.name = adata.var_names.name = None
    if not transpose:
        return adata
    adata = adata.T.copy()
    if sp.issparse(adata.X):
        adata.X = adata.X.tocsr()
    return adata


def _blocks(path: Path, separator: str, n_genes: int) -> Iterator[pd.DataFrame]:
    """Yield the table below its first line, some rows at a time, cell names as the index."""
    with (
        opened(path) as file,
        pd.read_csv(
            file,
            sep=separator,
            header=None,
            skiprows=1,
            skipinitialspace=True,
            low_memory=False,
            chunksize=max(1, BLOCK // n_genes),
            converters={0: str},  # a cell may be called 007 or NA, which an index_col would change
        ) as table,
    ):
        for block in table:
            yield block.set_index(0)


def _refuse_column(path: Path, name: str, column: pd.Series) -> None:
    odd = column[pd.to_numeric(column, errors="coerce").isna() & column.notna()]
    shown = column if odd.empty else odd  # whole numbers of 20 digits and more are none for pandas
    raise DataError(
        f"Column {name!r} of {str(path)!r} is not numeric: it holds {shown.iloc[0]!r} in row "
        f"{shown.index[0]!r}. Leave out columns that are not genes."
    )


def _joined(blocks: list[Any]) -> Any:
    """Return the blocks below each other, sparse if more than half of all values are zero."""
    n_values = sum(block.shape[0] * block.shape[1] for block in blocks)
    n_nonzero = sum(block.nnz if sp.issparse(block) else np.count_nonzero(block) for block in blocks)
    if n_nonzero < 0.5 * n_values:
        return sp.vstack([sp.csr_matrix(block) for block in blocks], format="csr")
    return np.vstack([block.toarray() if sp.issparse(block) else block for block in blocks])


def _head(path: Path) -> tuple[list[str], list[str], str]:
    """Return the fields of the first two lines, and what separates them."""
    # utf-8-sig: Excel puts a byte order mark in front.
    with io.TextIOWrapper(opened(path), encoding="utf-8-sig") as file:
        lines = [line.rstrip("\r\n") for line in islice(file, 2)]
    if len(lines) < 2:
        raise DataError(
            f"{str(path)!r} has {len(lines)} line(s); a line of gene names and one for each cell are needed."
        )
    separator = max("\t,; ", key=lines[1].count)
    header, first = (next(csv.reader([line], delimiter=separator)) for line in lines)
    return [name.strip() for name in header], first, separator


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _genes_in_rows(corner: str, rows: pd.Index, columns: list[str]) -> str | None:
    """Return what shows that genes are in rows; None where it isn't certain."""
    if _GENE_CORNER.match(corner):
        return f"the first column is called {corner!r}"
    if sum(bool(_ENSEMBL.match(name)) for name in rows) > 0.5 * len(rows):
        return f"the rows have names such as {rows[0]!r}"
    if sum(bool(_BARCODE.match(name)) for name in columns) > 0.5 * len(columns):
        return f"the columns have names such as {columns[0]!r}"
    return None
