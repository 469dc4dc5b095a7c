"""Are clusters separated, or are they cuts of one continuum?"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy import sparse
from scipy.sparse.csgraph import dijkstra

SEPARATED = 0.25
"""Largest ratio of the links across the border of a cluster to those across its inside, if it is separated."""
INSIDE = (0.3, 0.7)
"""Shares of the cells of a cluster, nearest to its border first, between which it is cut."""


def separation(graph: sparse.csr_matrix, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    r"""Return for each cluster how open its border is, and the number of its continuum.

    A border through a continuum crosses as many links as a parallel cut through the inside of the cluster. A border in
    a gap crosses few. The openness of a cluster S is

    .. math:: r(S) = \frac{w(S, \bar S)}{\min_{t \in [0.3, 0.7]} w(S_t, S \setminus S_t)}

    where w counts the links between two sets of cells, and :math:`S_t` is the share t of S that is nearest to the cells
    outside, along links inside S. The cuts inside are the null: they go through the same cells, so that the dimension,
    shape and density of S cancel. The smallest is taken, since clusterings look for small cuts, too.

    The most open cluster, if its r exceeds 0.25, is merged with the cluster to which it has most links; this is
    repeated until none exceeds it. Clusters that end up together are cuts of one continuum. A cluster with fewer cells
    than the graph has neighbours always has links to others, and so is never separated.

    Parameters
    ----------
    graph
        Cells x cells, symmetric; every entry is a link.
    labels
        Cluster of each cell, from 0; -1 for cells without a cluster, which are left out.

    Returns
    -------
    r of each cluster, and its continuum, numbered from 0 in the order of the clusters. A separated cluster is alone in
    its continuum.

    Examples
    --------
    >>> from diffvae.tl._neighbors import posterior_graph
    >>> x = np.concatenate([np.linspace(0, 10, 100), np.linspace(20, 25, 50)])[:, None]
    >>> openness, continuum = separation(posterior_graph(x, None), np.repeat([0, 1, 2], 50))
    >>> openness.round(1).tolist(), continuum.tolist()
    ([1.2, 1.1, 0.0], [0, 0, 1])
    """
    kept = labels >= 0
    graph, labels = sparse.csr_matrix(graph)[kept][:, kept], labels[kept]
    n_clusters = int(labels.max(initial=-1)) + 1
    continuum = np.arange(n_clusters)
    openness = np.array([_openness(graph, labels == i) for i in continuum])
    current = openness.copy()  # of each continuum
    coo = graph.tocoo()
    links = np.zeros((n_clusters, n_clusters))
    np.add.at(links, (labels[coo.row], labels[coo.col]), 1)
    np.fill_diagonal(links, 0)
    while n_clusters and current.max() > SEPARATED:
        merged = int(current.argmax())
        into = int(links[merged].argmax())
        continuum[continuum == merged] = into
        links[into] += links[merged]
        links[:, into] += links[:, merged]
        links[merged] = links[:, merged] = links[into, into] = 0
        current[merged], current[into] = 0, _openness(graph, continuum[labels] == into)
    return openness, pd.factorize(continuum)[0]


def _openness(graph: sparse.csr_matrix, inside: np.ndarray) -> float:
    rows = graph[inside]
    own = rows[:, inside]
    outwards = np.diff(rows.indptr) - np.diff(own.indptr)
    if not outwards.any():
        return 0.0
    n = own.shape[0]
    touching = np.flatnonzero(outwards)
    # one more node stands for all cells outside; a cell with several links to it is nearer
    steps = sparse.coo_matrix((1 / outwards[touching], (np.full(len(touching), n), touching)), shape=(n + 1, n + 1))
    own = sparse.csr_matrix((np.ones(own.nnz), own.indices, own.indptr), shape=own.shape)
    both = sparse.block_diag([own, sparse.csr_matrix((1, 1))], format="csr") + steps.tocsr()
    rank = np.empty(n, dtype=np.int64)
    rank[np.argsort(dijkstra(both, indices=n)[:n], kind="stable")] = np.arange(n)
    coo = own.tocoo()
    one_way = rank[coo.row] < rank[coo.col]
    starts, ends = (np.bincount(rank[end[one_way]], minlength=n) for end in (coo.row, coo.col))
    crossing = np.cumsum(starts - ends)  # links between the first i + 1 cells and the others
    low, high = (int(share * (n - 1)) for share in INSIDE)
    fewest = crossing[low : high + 1].min()
    return float(outwards.sum() / fewest) if fewest else np.inf


def sentence(names: Sequence[str], continuum: np.ndarray) -> str | None:
    """Say which clusters are cuts of one continuum; None if all are separated."""
    groups = [[names[i] for i in np.flatnonzero(continuum == c).tolist()] for c in range(continuum.max(initial=-1) + 1)]
    groups = [group for group in groups if len(group) > 1]
    if not groups:
        return None
    if len(groups[0]) == len(names):
        return (
            f"These {len(names)} clusters are cuts of one continuum: their borders cross as many neighbours as cuts "
            "through their inside, so that neither their number nor their borders are facts."
        )
    parts = [f"clusters {', '.join(group[:-1])} and {group[-1]}" for group in groups]
    text = "; ".join(f"{part} are cuts of one continuum" for part in parts)
    return f"{text[0].upper()}{text[1:]}: borders between them cross as many neighbours as cuts through their inside."
