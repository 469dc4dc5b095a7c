"""Split of the edges of a cell graph into training, validation and test edges."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy import sparse

from diffvae import _keys, _random
from diffvae._core import graphs
from diffvae._core.anndata import graph, groups
from diffvae._core.validate import Choice, Number, Rule, check
from diffvae._errors import DataError

if TYPE_CHECKING:
    from anndata import AnnData


RULES: dict[str, Rule] = {
    "validation_size": Number("[0, 1)"),
    "test_size": Number("[0, 1)"),
    "negatives": Choice(*graphs.NEGATIVES),
    "negatives_per_edge": Number("(0, inf)"),
}


@dataclass(frozen=True)
class LinkSplit:
    """Result of :func:`split_links`. Each pair occurs once, as (smaller, larger) cell number.

    Attributes
    ----------
    train
        Graph of the training edges, symmetric CSR.
    train_edges, validation_edges, test_edges
        Edges x 2.
    validation_negatives, test_negatives
        Pairs without an edge in the graph, pairs x 2; the two sets are disjoint.

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
    """Split the edges of a cell graph; both directions of an edge are in the same part.

    Parameters
    ----------
    adata
        Cells with a graph in ``obsp``.
    graph_key
        Key of the graph.
    validation_size, test_size
        Shares of the edges that are held out for validation and for testing.
    negatives
        How pairs without an edge are drawn: ``"uniform"``; ``"degree"``: cells in proportion to their degree, so that
        degree alone does not separate edges from negatives; ``"within_type"``: pairs of cells of one type, so that
        types alone do not.
    groupby
        Column of the types in ``obs``, for ``"within_type"``.
    negatives_per_edge
        Number of negatives per held-out edge.
    keep_connected
        Hold out no edge whose removal would increase the number of connected components.
    rng
        Seed or generator.

    Returns
    -------
    LinkSplit

    Raises
    ------
    DataError
        If the graph is missing, or has too few edges or too few pairs without an edge.

    Notes
    -----
    ``torch_geometric.transforms.RandomLinkSplit`` draws from torch's global generator and has uniform negatives only.

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
    check(
        RULES, validation_size=validation_size, test_size=test_size, negatives=negatives,
        negatives_per_edge=negatives_per_edge,
    )  # fmt: skip
    if validation_size + test_size >= 1:
        raise ValueError(f"validation_size={validation_size} and test_size={test_size} leave no edge for training.")
    links = graph(adata, graph_key)
    codes = None
    if negatives == "within_type":
        if groupby is None:
            raise ValueError("negatives='within_type' needs the column of the types, such as groupby='cell_type'.")
        codes = groups(adata, groupby).codes
    edges = graphs.edges_of(links)
    n_validation, n_test = (round(share * len(edges)) for share in (validation_size, test_size))
    empty = (validation_size and not n_validation) or (test_size and not n_test)
    if empty or n_validation + n_test >= len(edges):
        raise DataError(
            f"adata.obsp[{graph_key!r}] has {len(edges)} edges, too few for validation_size={validation_size} and "
            f"test_size={test_size}."
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
