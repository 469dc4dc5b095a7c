"""Edges to learn from, to choose by, and to be judged by."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy import sparse

from diffvae import _keys, _random
from diffvae._core import graphs
from diffvae._core.anndata import graph, groups
from diffvae._errors import DataError

if TYPE_CHECKING:
    from anndata import AnnData


@dataclass(frozen=True)
class LinkSplit:
    """Result of :func:`split_links`. Every pair is there once, as (smaller, larger) number of a cell.

    Attributes
    ----------
    train
        Graph of the edges to learn from, symmetric CSR.
    train_edges, validation_edges, test_edges
        Edges x 2; an edge and its reverse are the same row.
    validation_negatives, test_negatives
        Pairs that are linked in none of the three, pairs x 2; no pair is in both.

    Examples
    --------
    >>> import diffvae as dv
    >>> adata = dv.datasets.pbmc68k_reduced()
    >>> dv.pp.prepare(adata)
    >>> dv.pp.cell_graph(adata, k=3)
    >>> split = dv.pp.split_links(adata)
    >>> split.train.nnz == 2 * len(split.train_edges)
    True
    """

    train: sparse.csr_matrix
    train_edges: np.ndarray
    validation_edges: np.ndarray
    test_edges: np.ndarray
    validation_negatives: np.ndarray
    test_negatives: np.ndarray


def split_links(
    adata: AnnData,
    graph_key: str = _keys.CELL_GRAPH,
    *,
    validation_size: float = 0.1,
    test_size: float = 0.1,
    negatives: str = "uniform",
    groupby: str | None = None,
    negatives_per_edge: float = 1.0,
    keep_connected: bool = False,
    rng: _random.Rng = 0,
) -> LinkSplit:
    """Split the edges of a cell graph, both directions of an edge always on one side.

    Parameters
    ----------
    adata
        Cells with a graph in ``obsp``.
    graph_key
        Which.
    validation_size, test_size
        Shares of the edges that are held out.
    negatives
        How pairs without an edge are drawn: ``"uniform"``; ``"degree"``, popular cells as often as among the ends of
        edges, so that a score can't win by popularity; ``"within_type"``, both cells of one type, so that it can't win
        by telling types apart.
    groupby
        Types in ``obs``, for ``"within_type"``.
    negatives_per_edge
        How many of them per held-out edge.
    keep_connected
        Never hold out an edge without which the graph would fall into more pieces.
    rng
        Seed or generator.

    Returns
    -------
    LinkSplit

    Raises
    ------
    DataError
        If there is no such graph, or not enough edges or pairs to split it so.

    Notes
    -----
    ``torch_geometric.transforms.RandomLinkSplit`` draws from torch's global generator and knows uniform negatives only.

    Examples
    --------
    >>> import diffvae as dv
    >>> adata = dv.datasets.pbmc68k_reduced()
    >>> dv.pp.prepare(adata)
    >>> dv.pp.cell_graph(adata, k=3)
    >>> split = dv.pp.split_links(adata, test_size=0.2)
    >>> len(split.test_negatives) == len(split.test_edges)
    True
    """
    links = graph(adata, graph_key)
    for name, share in (("validation_size", validation_size), ("test_size", test_size)):
        if not 0 <= share < 1:
            raise ValueError(f"{name} is {share}; it is a share of the edges, at least 0 and below 1.")
    if validation_size + test_size >= 1:
        raise ValueError(f"validation_size={validation_size} and test_size={test_size} leave no edge to learn from.")
    if negatives not in graphs.NEGATIVES:
        raise ValueError(f"negatives is {negatives!r}; it is one of {', '.join(map(repr, graphs.NEGATIVES))}.")
    if not negatives_per_edge > 0:
        raise ValueError(f"negatives_per_edge is {negatives_per_edge}; it must be positive.")
    codes = None
    if negatives == "within_type":
        if groupby is None:
            raise ValueError("negatives='within_type' needs the types: groupby='cell_type', say.")
        codes = groups(adata, groupby).codes
    edges = graphs.edges_of(links)
    n_validation, n_test = (round(share * len(edges)) for share in (validation_size, test_size))
    empty = (validation_size and not n_validation) or (test_size and not n_test)
    if empty or n_validation + n_test >= len(edges):
        raise DataError(
            f"adata.obsp[{graph_key!r}] has {len(edges)} edges, too few to hold out such shares of them and to learn "
            "from the rest."
        )
    chance = _random.generator(rng, "split links")
    validation, test, train = graphs.hold_out(
        edges, adata.n_obs, (n_validation, n_test), chance, keep_connected=keep_connected
    )
    wanted = [round(negatives_per_edge * n) for n in (n_validation, n_test)]
    unlinked = graphs.sample_negatives(links, sum(wanted), chance, kind=negatives, codes=codes)
    return LinkSplit(
        train=graphs.graph_of(train, adata.n_obs),
        train_edges=train,
        validation_edges=validation,
        test_edges=test,
        validation_negatives=unlinked[: wanted[0]],
        test_negatives=unlinked[wanted[0] :],
    )
