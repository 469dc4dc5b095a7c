"""Cells in the order of their types, and matrices of cells x cells summed into bins of neighbours in that order."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from anndata import AnnData
from scipy import sparse

from diffvae import _links
from diffvae._errors import DataError

PER_BIN: Final = 20
"""Cells of a bin whose correlations are averaged: 400 pairs per dot, and at most 6,000 cells in 300 bins."""
_BLOCK: Final = 1024


def expression_rows(adata: AnnData, layer: str | None) -> Any:
    """Return the expression, cells x genes, of which rows can be taken."""
    from diffvae.pp._matrix import matrix_of, source, values

    x = matrix_of(adata, layer)
    x = x.tocsr() if sparse.issparse(x) else x
    if not np.isfinite(values(x)).all():
        raise DataError(f"{source(layer)} holds NaN or infinite values; diffvae.pp.check(adata) says where.")
    return x


def by_type(codes: np.ndarray, x: Any) -> np.ndarray:
    """Return the order of the cells: by type, within one by the first principal component of its expression."""
    from sklearn.decomposition import PCA

    parts = []
    for code in np.unique(codes):
        rows = np.flatnonzero(codes == code)
        own = x[rows]
        spans = own.max(axis=0) - own.min(axis=0)
        varies = len(rows) > 2 and x.shape[1] > 2 and bool(abs(spans).sum() > 0)
        if varies:
            place = PCA(1, svd_solver="arpack", random_state=0).fit_transform(own.astype(np.float64))[:, 0]
            rows = rows[np.argsort(place, kind="stable")]
        parts.append(rows)
    return np.concatenate(parts)


def bins(n_cells: int, n_bins: int) -> np.ndarray:
    """Return where each bin of about equally many cells begins, and the number of cells."""
    return np.linspace(0, n_cells, min(n_bins, n_cells) + 1).round().astype(np.int64)


def binned_links(graph: sparse.csr_matrix, order: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """Return the share of the pairs of different cells, one of each bin, that are linked: bins x bins."""
    n = len(edges) - 1
    size = np.diff(edges)
    bin_of = np.empty(len(order), dtype=np.int64)
    bin_of[order] = np.repeat(np.arange(n), size)
    pairs = _links.edges_of(graph)
    one, other = bin_of[pairs[:, 0]], bin_of[pairs[:, 1]]
    linked = np.bincount(one * n + other, minlength=n * n).reshape(n, n).astype(float)
    linked += linked.T  # both directions; within a bin each pair counts twice, among twice as many ordered pairs
    possible = np.outer(size, size) - np.diag(size)
    return np.divide(linked, possible, out=np.zeros_like(linked), where=possible > 0)


def binned_correlation(x: Any, order: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """Return the mean of |Pearson's r| between the cells of each two bins, bins x bins, block by block.

    A bin with more than `PER_BIN` cells is represented by that many of them, evenly spaced.
    """
    chosen = [np.unique(np.linspace(a, b - 1, min(PER_BIN, b - a)).round().astype(int)) for a, b in _pairwise(edges)]
    starts = np.cumsum([0, *map(len, chosen)])
    rows = order[np.concatenate(chosen)]
    z = x[rows]
    z = (z.toarray() if sparse.issparse(z) else np.asarray(z)).astype(np.float32)
    z -= z.mean(axis=1, keepdims=True)
    norm = np.linalg.norm(z, axis=1, keepdims=True)
    z = np.divide(z, norm, out=np.zeros_like(z), where=norm > 0)
    total = np.zeros((len(rows), len(chosen)))
    for start in range(0, len(rows), _BLOCK):
        r = np.abs(z[start : start + _BLOCK] @ z.T)
        total[start : start + _BLOCK] = np.add.reduceat(r, starts[:-1], axis=1)
    size = np.diff(starts)
    mean: np.ndarray = np.add.reduceat(total, starts[:-1], axis=0) / np.outer(size, size)
    return mean


def _pairwise(edges: np.ndarray) -> zip[tuple[int, int]]:
    return zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True)


def spread(wanted: np.ndarray, gap: float, low: float, high: float) -> np.ndarray:
    """Return places as near as can be to those wanted (ascending) that are `gap` apart, between `low` and `high`.

    Examples
    --------
    >>> spread(np.array([1.0, 2.0, 9.0]), gap=4, low=0, high=10).tolist()
    [0.0, 4.0, 9.0]
    """
    from scipy.optimize import isotonic_regression

    shift = gap * np.arange(len(wanted))
    places: np.ndarray = np.clip(isotonic_regression(wanted - shift).x, low, high - shift[-1]) + shift
    return places
