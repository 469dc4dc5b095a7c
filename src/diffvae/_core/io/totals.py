"""Columns and rows of a matrix that are no genes and no cells by their values: totals of others, running numbers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse as sp

BLOCK = 2048
"""Cells that are added up at once."""
LEAST_CELLS, LEAST_GENES = 5, 5
"""Below, one gene may by chance be the sum of the others."""
LEAST_NUMBERED = 20
"""Cells from which on running numbers are no chance."""
FAR = 10.0
"""A column whose mean is this many times that of every gene is not measured as genes are."""


@dataclass(frozen=True)
class Sums:
    """Sums of rows and columns, and their numbers of values other than zero."""

    by_row: np.ndarray
    n_by_row: np.ndarray
    by_column: np.ndarray
    n_by_column: np.ndarray


def sums(x: Any) -> Sums:
    """Return the sums of a dense matrix, or of a sparse one in CSR or CSC format, by blocks."""
    if sp.issparse(x) and x.format == "csc":
        turned = sums(x.T)
        return Sums(turned.by_column, turned.n_by_column, turned.by_row, turned.n_by_row)
    n_rows, n_columns = x.shape
    found = Sums(np.zeros(n_rows), np.zeros(n_rows), np.zeros(n_columns), np.zeros(n_columns))
    for start in range(0, n_rows, BLOCK):
        block, rows = x[start : start + BLOCK], slice(start, start + BLOCK)
        found.by_row[rows] = np.asarray(block.sum(axis=1, dtype=np.float64)).ravel()
        found.by_column[:] += np.asarray(block.sum(axis=0, dtype=np.float64)).ravel()
        if sp.issparse(block):
            found.n_by_row[rows] = block.getnnz(axis=1)
            found.n_by_column[:] += block.getnnz(axis=0)
        else:
            found.n_by_row[rows] = np.count_nonzero(block, axis=1)
            found.n_by_column[:] += np.count_nonzero(block, axis=0)
    return found


def running(x: Any, by_column: np.ndarray) -> np.ndarray:
    """Return the columns that number the rows, from 0 or from 1; ``by_column`` has the sums of columns.

    Examples
    --------
    >>> x = np.random.default_rng(0).poisson(3.0, (20, 4)).astype(float)
    >>> x[:, 2] = np.arange(20) + 1
    >>> running(x, x.sum(axis=0)).tolist()
    [2]
    """
    n = x.shape[0]
    if n < LEAST_NUMBERED:
        return np.zeros(0, dtype=int)
    found = []
    for first in (0, 1):
        numbers = np.arange(first, n + first)
        for j in np.flatnonzero(np.isclose(by_column, numbers.sum(), rtol=1e-6))[:20]:
            if (_dense(x[:, [j]]) == numbers).all():
                found.append(int(j))
    return np.array(sorted(found), dtype=int)


def far_beyond(by_column: np.ndarray, genes: np.ndarray) -> np.ndarray:
    """Return the columns that are no known genes and whose sum is far beyond that of every known one.

    ``genes`` says which columns have the names of known genes; nothing is found unless nearly all have.

    Examples
    --------
    >>> far_beyond(np.array([*range(1, 31), 400.0]), np.array([True] * 30 + [False])).tolist()
    [30]
    """
    if not len(genes) or genes.mean() < 0.9 or not np.isfinite(by_column).all():
        return np.zeros(0, dtype=int)
    most = by_column[genes].max()
    return np.flatnonzero(~genes & (by_column > FAR * most)) if most > 0 else np.zeros(0, dtype=int)


def totals(x: Any, of: Sums | None = None) -> tuple[np.ndarray, np.ndarray]:
    r"""Return the columns, and the rows, that are no measurement but a total of the others.

    .. math:: x_{ij} = \sum_{k \ne j} x_{ik} \;\forall i \quad\text{or}\quad
        x_{ij} = \left|\{k \ne j: x_{ik} \ne 0\}\right| \;\forall i

    for a column j, and likewise for a row.

    Parameters
    ----------
    x
        Dense, or sparse in CSR or CSC format. Rows without values don't count; five others, and five columns, are
        needed.
    of
        Its sums, if they are known.

    Returns
    -------
    Positions of the columns and of the rows: at most one sum each, and numbers of values other than zero.

    Examples
    --------
    >>> genes = np.arange(30).reshape(6, 5)
    >>> totals(np.hstack([genes, genes.sum(1, keepdims=True)]))[0].tolist()
    [5]
    """
    of = of or sums(x)

    def column(j: int) -> np.ndarray:
        return _dense(x[:, [j]])

    def row(i: int) -> np.ndarray:
        return _dense(x[[i]])

    return (
        _totals(of.by_row, of.n_by_row, of.by_column, column),
        _totals(of.by_column, of.n_by_column, of.by_row, row),
    )


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
