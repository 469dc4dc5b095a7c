"""What is known of the links between cells beforehand, in any form, as one graph."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData

from diffvae._errors import DataError
from diffvae.pp._matrix import quoted


def prior_graph(adata: AnnData, prior: Any) -> sp.csr_matrix:
    """Return all prior knowledge as one symmetric graph; without any, one without edges."""
    if prior is None:
        return sp.csr_matrix((adata.n_obs, adata.n_obs), dtype=np.float32)
    if isinstance(prior, str):
        if prior not in adata.obsp:
            raise DataError(
                f"adata.obsp[{prior!r}] is missing; there are: {quoted(adata.obsp) or 'none'}. "
                "Read a table from a file yourself and pass it."
            )
        prior = adata.obsp[prior]
    if isinstance(prior, pd.DataFrame):
        if prior.shape[1] != 2:
            raise DataError(f"prior is a table with {prior.shape[1]} columns; give the two that name the cells.")
        return _named_pairs(adata, prior.to_numpy(dtype=object))
    if isinstance(prior, np.ndarray) and prior.dtype.kind in "OUT" and prior.ndim == 2 and prior.shape[1] == 2:
        return _named_pairs(adata, prior)
    if sp.issparse(prior) or isinstance(prior, np.ndarray):
        return _matrix_graph(prior, adata.n_obs)
    if not isinstance(prior, Iterable):
        raise ValueError(f"prior is of type {type(prior).__name__}; give a key of obsp, a matrix or pairs of names.")
    entries = list(prior)
    if all(map(is_pair, entries)):
        return _named_pairs(adata, np.array(entries, dtype=object).reshape(-1, 2))
    graph = prior_graph(adata, None)
    for entry in entries:
        graph = graph.maximum(prior_graph(adata, entry))
    return graph


def _matrix_graph(matrix: Any, n: int) -> sp.csr_matrix:
    if matrix.shape != (n, n):
        raise DataError(
            f"prior has the shape {matrix.shape}; a matrix needs a row and a column for each of {n:,} cells."
        )
    matrix = sp.coo_matrix(matrix)
    if matrix.dtype.kind not in "buif" or np.isnan(matrix.data).any():
        raise DataError("prior holds NaN or no numbers; give 0 where there is no edge.")
    edge = matrix.data != 0
    graph = edges_once(matrix.row[edge], matrix.col[edge], n)
    return graph.maximum(graph.T)


def _named_pairs(adata: AnnData, pairs: np.ndarray) -> sp.csr_matrix:
    if not adata.obs_names.is_unique:
        raise DataError("adata.obs_names has duplicates, so prior's names are no cells; run obs_names_make_unique().")
    pairs = pairs.astype(str)  # a table of names that look like numbers is read as numbers
    place = adata.obs_names.astype(str).get_indexer(pairs.ravel()).reshape(-1, 2)
    unknown = pd.unique(pairs[place < 0].astype(object))
    if len(unknown):
        raise DataError(f"prior names {len(unknown):,} cells that are not in adata.obs_names: {quoted(unknown)}.")
    graph = edges_once(place[:, 0], place[:, 1], adata.n_obs)
    return graph.maximum(graph.T)


def edges_once(i: np.ndarray, j: np.ndarray, n: int) -> sp.csr_matrix:
    """Return the graph with a one for each pair, however often it is named, and without self-loops."""
    i, j = i[i != j], j[i != j]
    graph = sp.csr_matrix((np.ones(len(i), dtype=np.float32), (i, j)), shape=(n, n))
    graph.sum_duplicates()
    graph.data[:] = 1
    return graph


def is_pair(entry: Any) -> bool:
    """Return whether an entry is a pair of names."""
    return (
        isinstance(entry, tuple | list)
        and len(entry) == 2
        and all(isinstance(name, str | int | np.integer) for name in entry)
    )
