"""Graph of cells: nearest neighbours, joined with prior knowledge."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData

from diffvae import _keys
from diffvae._core.anndata import balancing, groups, representation, results
from diffvae._core.components import principal_components
from diffvae._core.graphs import hub_share
from diffvae._core.io.matrix import matrix_of, quoted, source
from diffvae._core.neighbors import EXACT_LIMIT, Neighbours, nearest, nearest_per_batch
from diffvae._core.validate import Choice, Rule, Whole, check
from diffvae._errors import DataError
from diffvae._random import Rng


def prior_graph(adata: AnnData, prior: Any) -> sp.csr_matrix:
    """Return all prior knowledge as one symmetric graph, without edges if there is none."""
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
        raise DataError("prior holds NaN or values that are not numbers; give 0 where there is no edge.")
    edge = matrix.data != 0
    graph = edges_once(matrix.row[edge], matrix.col[edge], n)
    return graph.maximum(graph.T)


def _named_pairs(adata: AnnData, pairs: np.ndarray) -> sp.csr_matrix:
    if not adata.obs_names.is_unique:
        raise DataError(
            "adata.obs_names has duplicates, so the names in prior are ambiguous; run adata.obs_names_make_unique()."
        )
    pairs = pairs.astype(str)  # tables hold names that look like numbers as numbers
    place = adata.obs_names.astype(str).get_indexer(pairs.ravel()).reshape(-1, 2)
    unknown = pd.unique(pairs[place < 0].astype(object))
    if len(unknown):
        raise DataError(f"prior names {len(unknown):,} cells that are not in adata.obs_names: {quoted(unknown)}.")
    graph = edges_once(place[:, 0], place[:, 1], adata.n_obs)
    return graph.maximum(graph.T)


def edges_once(i: np.ndarray, j: np.ndarray, n: int) -> sp.csr_matrix:
    """Return the graph of ones with an entry for each pair, without repetitions and self-loops."""
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


RULES: dict[str, Rule] = {
    "k": Whole(1),
    "metric": Choice("cosine", "pearson", "euclidean"),
    "combine": Choice("union", "replace"),
}


def cell_graph(
    adata: AnnData,
    k: int = 15,
    metric: str = "cosine",
    *,
    use_rep: str | None = None,
    layer: str | None = None,
    mutual: bool = False,
    prior: Any = None,
    combine: str = "union",
    drop: Iterable[str | tuple[str, str]] = (),
    groupby: str | None = None,
    balance_by: str | None = None,
    key_added: str = _keys.CELL_GRAPH,
    exact_limit: int = EXACT_LIMIT,
    rng: Rng = 0,
    progress: bool = True,
    copy: bool = False,
) -> AnnData | None:
    r"""Join each cell to the k most similar cells, and to its neighbours in prior knowledge.

    By default the similarity of cells i and j is the cosine of their 50 principal component scores y,

    .. math:: s_{ij} = \frac{y_i^\top y_j}{|y_i| \, |y_j|}

    Cells i and j are joined where i is among the k nearest of j or j among those of i. The graph is undirected,
    unweighted and without self-loops. The paper joins each cell to the one with the highest Pearson correlation of
    expression: ``cell_graph(adata, 1, "pearson", layer="unit")``; its released code uses k = 2 and directed edges.

    Parameters
    ----------
    adata
        Cells prepared by :func:`prepare`, or any log-normalised cells.
    k
        Neighbours that each cell chooses. A cell has more neighbours if others choose it.
    metric
        ``"cosine"``, ``"pearson"`` or ``"euclidean"``.
    use_rep
        Key in ``obsm`` whose values are compared, such as ``"X_diffvae"``; ``"X"`` for ``adata.X`` itself. None for
        ``layer`` or, without one, for 50 principal components of ``adata.X``, computed here and not stored.
    layer
        Layer whose values are compared.
    mutual
        Keep only the edges that both cells chose.
    prior
        Known edges (clones, neighbouring time points, neighbours in space): a key of ``obsp``, a matrix of cells x
        cells (nonzero = edge), pairs of cell names as a list or a table of two columns, or a list of several of these.
        Direction, the diagonal and repetitions are ignored.
    combine
        ``"union"``: edges of the prior and of similarity. ``"replace"``: edges of the prior only; ``k``, ``metric``,
        ``mutual`` and ``balance_by`` are ignored and no expression is read.
    drop
        Edges to remove, a list: the name of a type for all edges of its cells, a pair of names for the edges between
        two types, ``("HSPC", "HSPC")`` for those within one.
    groupby
        Key in ``obs`` of the types that ``drop`` names.
    balance_by
        Key in ``obs`` of B batches. Each cell then chooses its k / B (rounded up, so at least one) nearest cells in
        *each* batch instead of k overall, as BBKNN does: cells of the same type are joined although their batches
        differ. The nearest cell in a batch that lacks a type is of a wrong type, so an edge to another batch is kept
        only if the cell is among the 2 k nearest of its neighbour in its own batch. Most such edges go, not all, and in
        batches of fewer than about 10 k cells the rule is weak. Where batches differ in biology, don't balance.
    key_added
        Key in ``obsp`` and in ``uns["diffvae"]``.
    exact_limit
        Cells up to which the search is exact; above it near parts of the space are searched. Both need a dense float32
        copy of the compared values and a few MB, but no matrix of cells x cells.
    rng
        Seed of the approximate search.
    progress
        Show a bar on a terminal.
    copy
        Return a copy instead of writing into ``adata``.

    Returns
    -------
    None, or the copy. Writes ``obsp[key_added]`` (symmetric CSR of ones, float32, cells x cells) and
    ``uns["diffvae"][key_added]``: the parameters and ``n_edges``, ``n_components`` (pieces of the graph; an isolated
    cell is one), ``n_isolated`` (cells without an edge), ``hub_share`` (share of the edges that touch the 1 % of the
    cells with most), ``n_prior_edges``, ``n_dropped`` (edges left out by ``drop``), ``approximate``, and ``recall``:
    the share of the true neighbours that the approximate search found for 500 random cells, NaN where the search was
    exact.

    Raises
    ------
    DataError
        If the compared values are missing or not finite, fewer than two cells vary, the prior has unknown cells or
        another shape, ``drop`` has unknown types, a batch has too few cells for its share, or no edge remains.
    ValueError
        If an argument is out of its range, or two arguments contradict each other.

    Warns
    -----
    UserWarning
        If cells don't vary, and so have no neighbours.

    Notes
    -----
    A graph by Pearson's r of expression has hubs: cells that many others choose, often the deepest sequenced. With
    half of the counts, 35 % of its edges touch the top 1 % of the cells of Paul et al. (2015) with k = 5, 8 % of those
    by principal components with k = 15; in the mouse pancreas (Bastidas-Ponce et al. 2019) 43 % and 7 %.

    References
    ----------
    Bica et al., Unsupervised generative and graph representation learning for modelling cell differentiation,
    Scientific Reports 2020. Polanski et al. 2020 (BBKNN); Haghverdi et al. 2018 (mutual nearest neighbours).

    Examples
    --------
    >>> import diffvae as dv
    >>> adata = dv.datasets.pbmc68k_reduced()
    >>> dv.pp.cell_graph(adata)
    >>> graph = adata.obsp["cell_graph"]
    >>> graph.shape, int(graph.sum(axis=1).min())
    ((700, 700), 15)
    >>> bool(adata.uns["diffvae"]["cell_graph"]["n_edges"] == graph.nnz // 2)
    True
    """
    check(RULES, combine=combine)
    if combine == "replace" and prior is None:
        raise ValueError("combine is 'replace', but there is no prior; give prior=..., or combine='union'.")
    known = prior_graph(adata, prior)
    graph, record = known, {"combine": combine, "approximate": False, "recall": np.nan}
    if combine == "union":
        check(RULES, k=k, metric=metric)
        if k >= adata.n_obs:
            raise DataError(
                f"k is {k}, but each of the {adata.n_obs:,} cells has {adata.n_obs - 1:,} others; give a smaller k."
            )
        used = {"use_rep": use_rep} if use_rep is not None else {"layer": layer} if layer else {"use_rep": "pca"}
        record |= used | {"k": int(k), "metric": metric, "mutual": bool(mutual)}
        record |= {} if balance_by is None else {"balance_by": balance_by}
        record |= {"exact_limit": exact_limit, "rng": "generator" if isinstance(rng, np.random.Generator) else int(rng)}
        x, place = _values(adata, use_rep, layer, rng)
        options: dict[str, Any] = {"metric": metric, "rng": rng, "exact_limit": exact_limit, "progress": progress}
        batch = balancing(adata, balance_by, k)
        neighbours = nearest(x, k, **options) if batch is None else nearest_per_batch(x, k, batch, **options)
        _warn_of_constant_cells(neighbours, metric, place)
        recall = np.nan if neighbours.recall is None else neighbours.recall
        record |= {"approximate": neighbours.approximate, "recall": recall}
        graph = _join(neighbours, mutual).maximum(known)
    graph, n_dropped = _without(graph, adata, drop, groupby)
    if not graph.nnz:
        reason = f"drop removes all {n_dropped:,}" if n_dropped else "the prior has none"
        raise DataError(f"The graph of {adata.n_obs:,} cells has no edges: {reason}.")
    record |= {
        "n_edges": graph.nnz // 2,
        "n_components": int(sp.csgraph.connected_components(graph, directed=False, return_labels=False)),
        "n_isolated": int((np.diff(graph.indptr) == 0).sum()),
        "hub_share": hub_share(graph),
        "n_prior_edges": known.nnz // 2,
        "n_dropped": n_dropped,
    }
    adata = adata.copy() if copy else adata
    adata.obsp[key_added] = graph
    results(adata)[key_added] = record
    return adata if copy else None


def _values(adata: AnnData, use_rep: str | None, layer: str | None, rng: Rng) -> tuple[Any, str]:
    """Return the values that are compared, and their name for messages."""
    if use_rep is None and layer is None:
        x = _finite(adata, None)
        vary = x.max(axis=0) != x.min(axis=0)
        if not (vary.nnz if sp.issparse(vary) else vary.any()):
            raise DataError("All cells have the same values in adata.X, so that no two can be compared.")
        return principal_components(x, rng), "the principal components of adata.X"
    if use_rep is not None:
        return representation(adata, use_rep), "adata.X" if use_rep == "X" else f"adata.obsm[{use_rep!r}]"
    if layer == _keys.UNIT and layer not in adata.layers:
        raise DataError(
            "adata.layers['unit'] is missing; run diffvae.pp.prepare(adata) first, or give use_rep='X' for adata.X."
        )
    return _finite(adata, layer), source(layer)


def _finite(adata: AnnData, layer: str | None) -> Any:
    """Return X or a layer, whose values are all finite."""
    x = matrix_of(adata, layer)
    n_bad = int((~np.isfinite(x.data if sp.issparse(x) else x)).sum())
    if n_bad:
        raise DataError(
            f"{source(layer)} holds {n_bad:,} values that are NaN or infinite; diffvae.pp.check(adata) says where."
        )
    if min(x.shape) < 2:
        raise DataError(f"{source(layer)} has {x.shape[0]:,} cells and {x.shape[1]:,} genes; a graph needs 2 of each.")
    return x


def _warn_of_constant_cells(neighbours: Neighbours, metric: str, place: str) -> None:
    """Warn of cells that can't be compared with others; refuse data in which no two cells can be compared."""
    n_constant, n_cells = int((neighbours.indices < 0).all(axis=1).sum()), len(neighbours.indices)
    reason = "are all 0" if metric == "cosine" else "don't vary"
    if n_constant == n_cells:
        raise DataError(
            f"All, or all but one, of the {n_cells:,} cells {reason} in {place}, so that no two can be compared; "
            "choose another layer or use_rep."
        )
    if n_constant:
        warnings.warn(
            f"{n_constant:,} of {n_cells:,} cells {reason} in {place}; they have no neighbours by {metric}.",
            UserWarning,
            stacklevel=3,
        )


def _join(neighbours: Neighbours, mutual: bool) -> sp.csr_matrix:
    i, rank = np.nonzero(neighbours.indices >= 0)
    chosen = edges_once(i, neighbours.indices[i, rank], len(neighbours.indices))
    return chosen.minimum(chosen.T) if mutual else chosen.maximum(chosen.T)


def _without(graph: sp.csr_matrix, adata: AnnData, drop: Any, groupby: str | None) -> tuple[sp.csr_matrix, int]:
    """Return the graph without the edges of some types, and the number of removed edges."""
    drop = [drop] if isinstance(drop, str) else list(drop)
    graph = sp.csr_matrix(graph, dtype=np.float32)
    graph.sort_indices()
    if not drop:
        return graph, 0
    if groupby is None:
        raise ValueError(f"drop has types ({quoted(drop)}), but groupby is missing; give their column in adata.obs.")
    types = groups(adata, groupby)
    edges = graph.tocoo()
    one, other, dropped = types.codes[edges.row], types.codes[edges.col], np.zeros(graph.nnz, dtype=bool)
    for entry in drop:
        if not isinstance(entry, str) and not is_pair(entry):
            raise ValueError(f"drop holds {entry!r}; each entry is the name of a type or a pair of names.")
        names = [entry] if isinstance(entry, str) else list(entry)
        unknown = [name for name in names if name not in types.categories]
        if unknown:
            raise DataError(f"drop has {quoted(unknown)}, but adata.obs[{groupby!r}] has {quoted(types.categories)}.")
        codes = types.categories.get_indexer(names)
        if isinstance(entry, str):
            dropped |= (one == codes[0]) | (other == codes[0])
        else:
            dropped |= ((one == codes[0]) & (other == codes[1])) | ((one == codes[1]) & (other == codes[0]))
    remaining = edges_once(edges.row[~dropped], edges.col[~dropped], adata.n_obs)
    return remaining, int(dropped.sum()) // 2
