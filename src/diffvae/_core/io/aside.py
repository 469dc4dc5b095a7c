"""Rows and columns of a matrix that are no cells and no genes are set aside: kept in obs or var, or left out."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData

from diffvae._core.io.features import is_annotation_column, is_counter, is_quality_column
from diffvae._errors import quoted

BLOCK = 2048
"""Cells that are added up at once."""
LEAST_CELLS, LEAST_GENES = 5, 5
"""Below, one gene may by chance be the sum of the others."""
_MONTH = "jan|feb|mar|apr|may|jun|jul|aug|sep|sept|oct|nov|dec|mrz|mai|okt|dez|mär"
_DATE = re.compile(rf"\d{{1,2}}[-. ]({_MONTH})([-. ]\d\d(\d\d)?)?|({_MONTH})[-. ]\d{{1,2}}", re.IGNORECASE)
_DATE_OF_NUMBERS = re.compile(r"\d{4}[-/]\d{1,2}[-/]\d{1,2}( 00:00(:00)?)?|\d{1,2}/\d{1,2}/\d{2,4}")
_SERIAL = re.compile(r"[34]\d{4}|[34]\d{4}\.0")
"""Days since 1900: 40,000 to 49,999 are July 2009 to November 2036."""


def excel_dates(genes: Sequence[str]) -> list[str]:
    """Return names that are dates: a spreadsheet turns MARCH1 and SEPT2 into them.

    Examples
    --------
    >>> excel_dates(["Gata1", "1-Mar", "Sep-02", "2020-09-02", "44256", "Dec1"])
    ['1-Mar', 'Sep-02', '2020-09-02', '44256']
    """
    dates = [n for n in genes if _DATE.fullmatch(n) or _DATE_OF_NUMBERS.fullmatch(n)]
    serial = [n for n in genes if _SERIAL.fullmatch(n)]
    # where many names are numbers, they are identifiers of NCBI
    numbers = sum(n.isdecimal() for n in genes)
    keep = {*dates, *(serial if numbers <= max(40, 0.01 * len(genes)) and numbers < 0.5 * len(genes) else ())}
    return [n for n in genes if n in keep]


def warn_of_dates(genes: Sequence[str], where: str) -> None:
    """Warn of gene names that a spreadsheet has turned into dates."""
    if dates := excel_dates(genes):
        warnings.warn(
            f"{where}: {len(dates):,} gene names are dates ({quoted(dates)}): a spreadsheet has changed symbols such "
            "as MARCH1, SEPT2 or DEC1. They stay as they are, but are not the names of these genes any more; take the "
            "file from before it was opened in the spreadsheet.",
            UserWarning,
            stacklevel=4,
        )


def set_aside(adata: AnnData, where: str) -> AnnData:
    """Return cells x genes without what is neither.

    Counters of reads that belong to no gene (``__no_feature``) are left out. Columns that describe cells
    (``nCount_RNA``) go to ``obs``, rows that describe genes (``Length``) to ``var``; so do a column that is the sum of
    all others in every row, or the number of those that are not zero, and such a row.

    Parameters
    ----------
    adata
        Cells x genes.
    where
        The file, for the warning, which names what was set aside.

    Examples
    --------
    >>> import warnings
    >>> adata = AnnData(np.ones((2, 3)), var=pd.DataFrame(index=["Gata1", "__no_feature", "nCount_RNA"]))
    >>> with warnings.catch_warnings():
    ...     warnings.simplefilter("ignore")
    ...     kept = set_aside(adata, "a.csv")
    >>> kept.var_names.tolist(), kept.obs.columns.tolist()
    (['Gata1'], ['nCount_RNA'])
    """
    genes, cells = adata.var_names.to_numpy(dtype=str), adata.obs_names.to_numpy(dtype=str)
    counters, no_cells = is_counter(genes), is_annotation_column(cells) | is_quality_column(cells) | is_counter(cells)
    no_genes = (is_quality_column(genes) | is_annotation_column(genes)) & ~counters
    aside = counters | no_genes
    if aside.all() or no_cells.all():  # names of another kind
        return adata
    if counters.any():
        _warn(f"{where}: {quoted(genes[counters])} count reads that belong to no gene; they are left out.")
    rest = adata[~no_cells, ~aside] if aside.any() or no_cells.any() else adata
    of_cells, of_genes = totals(sp.csr_matrix(rest.X) if sp.issparse(rest.X) else rest.X)
    no_genes[np.flatnonzero(~aside)[of_cells]] = True
    no_cells[np.flatnonzero(~no_cells)[of_genes]] = True
    aside = counters | no_genes
    if not (aside.any() or no_cells.any()):
        return adata
    kept = adata[~no_cells, ~aside].copy()
    if no_genes.any():
        _keep(kept.obs, adata[~no_cells, no_genes].X, genes[no_genes])
        _warn(f"{where}: {quoted(genes[no_genes])} describe cells and are no genes; they are kept in obs.")
    if no_cells.any():
        _keep(kept.var, adata[no_cells, ~aside].X.T, cells[no_cells])
        _warn(f"{where}: {quoted(cells[no_cells])} describe genes and are no cells; they are kept in var.")
    return kept


def _warn(text: str) -> None:
    warnings.warn(text, UserWarning, stacklevel=5)


def _keep(table: pd.DataFrame, values: Any, names: Sequence[str]) -> None:
    dense = values.toarray() if sp.issparse(values) else np.asarray(values)
    for i, name in enumerate(names):
        if str(name) not in table:
            table[str(name)] = dense[:, i]


def totals(x: Any) -> tuple[np.ndarray, np.ndarray]:
    r"""Return the columns, and the rows, that are no measurement but a total of the others.

    .. math:: x_{ij} = \sum_{k \ne j} x_{ik} \;\forall i \quad\text{or}\quad
        x_{ij} = \left|\{k \ne j: x_{ik} \ne 0\}\right| \;\forall i

    for a column j, and likewise for a row.

    Parameters
    ----------
    x
        Dense, or sparse in CSR format. Rows without values don't count; five others, and five columns, are needed.

    Returns
    -------
    Positions of the columns and of the rows: at most one sum each, and numbers of values other than zero.

    Examples
    --------
    >>> genes = np.arange(30).reshape(6, 5)
    >>> totals(np.hstack([genes, genes.sum(1, keepdims=True)]))[0].tolist()
    [5]
    """
    n_rows, n_columns = x.shape
    by_row, n_by_row = np.zeros(n_rows), np.zeros(n_rows)
    by_column, n_by_column = np.zeros(n_columns), np.zeros(n_columns)
    for start in range(0, n_rows, BLOCK):
        block = x[start : start + BLOCK]
        rows = slice(start, start + BLOCK)
        by_row[rows] = np.asarray(block.sum(axis=1, dtype=np.float64)).ravel()
        by_column += np.asarray(block.sum(axis=0, dtype=np.float64)).ravel()
        if sp.issparse(block):
            n_by_row[rows] = block.getnnz(axis=1)
            n_by_column += block.getnnz(axis=0)
        else:
            n_by_row[rows] = np.count_nonzero(block, axis=1)
            n_by_column += np.count_nonzero(block, axis=0)

    def column(j: int) -> np.ndarray:
        return _dense(x[:, [j]])

    def row(i: int) -> np.ndarray:
        return _dense(x[[i]])

    return _totals(by_row, n_by_row, by_column, column), _totals(by_column, n_by_column, by_row, row)


def _totals(
    total: np.ndarray, n_nonzero: np.ndarray, by_column: np.ndarray, column: Callable[[int], np.ndarray]
) -> np.ndarray:
    """Return the columns that are totals, by sums of rows, their values other than zero, and sums of columns."""
    rows = np.flatnonzero(total)
    if len(by_column) < LEAST_GENES or len(rows) < LEAST_CELLS or not np.isfinite(total).all():
        return np.zeros(0, dtype=int)
    found: list[int] = []
    if len(np.unique(n_nonzero[rows])) > 2:
        # beside such a column there may be a sum and one more, which its author did not count
        behind = (n_nonzero.sum() - by_column) / len(rows)
        for j in np.flatnonzero((behind > 0.5) & (behind < 3.5))[:20]:
            difference = n_nonzero[rows] - column(int(j))[rows]
            if (difference == difference[0]).all() and difference[0] in (1, 2, 3):
                found.append(int(j))
    for j in found:
        total = total - column(j)
    rows = np.flatnonzero(total)
    if len(rows) >= LEAST_CELLS and len(np.unique(total)) > 2:
        for j in np.flatnonzero(np.isclose(2 * by_column, total.sum(), rtol=1e-3))[:20]:
            if j not in found and np.allclose(2 * column(int(j)), total, rtol=1e-4, atol=1e-6):
                found.append(int(j))
                break
    return np.array(sorted(found), dtype=int)


def _dense(values: Any) -> np.ndarray:
    return np.asarray(values.toarray() if sp.issparse(values) else values, dtype=np.float64).ravel()
