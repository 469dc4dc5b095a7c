"""Tables of expression as text: cell names in the first column, gene names in the first line."""

from __future__ import annotations

import csv
import gzip
import re
from itertools import islice
from pathlib import Path

import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData

from diffvae._errors import DataError

_GENE_CORNER = re.compile(r"^(gene|genes|gene_?(id|name|symbol)s?|symbols?|geneid|ensembl(_?id)?)$", re.IGNORECASE)
_ENSEMBL = re.compile(r"^ENS[A-Z]*G\d{6,}")
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
    table = pd.read_csv(
        path, sep=separator, header=None, skiprows=1, index_col=0, skipinitialspace=True, low_memory=False
    )
    if table.shape[1] != len(genes):
        raise DataError(f"{str(path)!r} names {len(genes):,} columns, but its lines have {table.shape[1]:,}.")
    if len(table) and table.index.dtype.kind == "f":
        raise DataError(
            f"The first column of {str(path)!r} ({corner!r}) holds numbers such as {table.index[0]:g} where "
            "cell names should be; add a column of names in front."
        )
    for name, dtype in zip(genes, table.dtypes, strict=True):
        if dtype.kind not in "biuf":
            column = table.iloc[:, genes.index(name)]
            odd = column[pd.to_numeric(column, errors="coerce").isna() & column.notna()]
            raise DataError(
                f"Column {name!r} of {str(path)!r} is not numeric: it holds {odd.iloc[0]!r} in row "
                f"{odd.index[0]!r}. Leave out columns that are not genes."
            )
    rows = table.index.astype(str)
    if transpose is None and (why := _genes_in_rows(corner, rows, genes)):
        raise DataError(
            f"{str(path)!r} seems to have genes in rows and cells in columns ({why}); read it with "
            "transpose=True (--transpose), or with transpose=False (--no-transpose) if that is not so."
        )
    x = table.to_numpy(dtype=np.float32)
    matrix = sp.csr_matrix(x) if np.count_nonzero(x) < 0.5 * x.size else x
    adata = AnnData(X=matrix, obs=pd.DataFrame(index=rows), var=pd.DataFrame(index=pd.Index(genes, dtype=str)))
    adata.obs_names.name = adata.var_names.name = None
    if not transpose:
        return adata
    adata = adata.T.copy()
    if sp.issparse(adata.X):
        adata.X = adata.X.tocsr()
    return adata


def _head(path: Path) -> tuple[list[str], list[str], str]:
    """Return the fields of the first two lines, and what separates them."""
    # utf-8-sig: Excel puts a byte order mark in front.
    opening = gzip.open if path.name.lower().endswith(".gz") else open
    with opening(path, "rt", encoding="utf-8-sig") as file:
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
