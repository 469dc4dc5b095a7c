"""Are clusters separated, or are they cuts of one continuum?"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy import sparse
from scipy.sparse.csgraph import connected_components, dijkstra

SEPARATED = 0.25
"""Largest ratio of the links across the border of a cluster to those across its inside, if it is separated."""
INSIDE = (0.3, 0.7)
"""Shares of the cells of a cluster, nearest to its border first, between which it is cut."""
SHARE = 3
"""A cell has at most a third as many neighbours as its cluster, or continuum, has cells."""
MIN_CELLS = 9
"""Cells that a cluster needs to be judged: of cuts of a cloud, 1 % of those with 9 to 14 cells look separated."""


def separation(nearest: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    r"""Return for each cluster how open its border is, and the number of its continuum.

    A border through a continuum crosses as many links as a parallel cut through the inside of the cluster. A border in
    a gap crosses few. The openness of a cluster S is

    .. math:: r(S) = \frac{w(S, \bar S)}{\min_{t \in [0.3, 0.7]} w(S_t, S \setminus S_t)}

    where w counts the links between two sets of cells, and :math:`S_t` is the share t of S that is nearest to the cells
    outside, along links inside S. The cuts inside are the null: they go through the same cells, so that the dimension,
    shape and density of S cancel. The smallest is taken, since clusterings look for small cuts, too. If S falls into
    parts without links between them, each part with links to the outside is cut at t; the others have no border.

    A cell is linked to its k nearest cells, but to at most n / 3 in a cluster (after merging, a continuum) of n cells:
    a rare type of k cells or fewer would otherwise have links to others, however far away they are. A cluster of fewer
    than 9 cells is not judged, and its links do not count.

    The most open cluster, if its r exceeds 0.25, is merged with the cluster to which it has most links; this is
    repeated until none exceeds it. Clusters that end up together are cuts of one continuum.

    Parameters
    ----------
    nearest
        Cells x k: the nearest other cells of each cell, nearest first.
    labels
        Cluster of each cell, from 0; -1 for cells without a cluster, which are left out.

    Returns
    -------
    r of each cluster, NaN if it is not judged, and its continuum, numbered from 0 in the order of the clusters. A
    separated cluster is alone in its continuum, and so is one that is not judged.

    Examples
    --------
    >>> from diffvae.tl._neighbors import nearest_neighbors
    >>> x = np.concatenate([np.linspace(0, 10, 100), np.linspace(20, 25, 50)])[:, None]
    >>> openness, continuum = separation(nearest_neighbors(x, 15), np.repeat([0, 1, 2], 50))
    >>> openness.round(1).tolist(), continuum.tolist()
    ([1.0, 1.2, 0.0], [0, 0, 1])
    """
    sizes = np.bincount(labels[labels >= 0])
    judged = sizes >= MIN_CELLS
    kept = np.flatnonzero(np.append(judged, False)[labels])
    place = np.full(len(labels), -1)
    place[kept] = np.arange(len(kept))
    nearest, labels = place[nearest[kept]], labels[kept]
    graph = _graph(nearest, labels)
    continuum = np.arange(len(sizes))
    openness = np.array([_openness(graph, labels == i) if judged[i] else np.nan for i in continuum])
    current = np.where(judged, openness, 0)  # of each continuum
    while current.max(initial=0) > SEPARATED:
        merged, of_cell = int(current.argmax()), continuum[labels]
        links = np.bincount(of_cell[graph[of_cell == merged].indices], minlength=len(sizes))
        links[merged] = 0
        into = int(links.argmax())
        continuum[continuum == merged] = into
        graph = _graph(nearest, continuum[labels])
        current[merged], current[into] = 0, _openness(graph, continuum[labels] == into)
    return openness, pd.factorize(continuum)[0]


def _graph(nearest: np.ndarray, labels: np.ndarray) -> sparse.csr_matrix:
    """Link each cell to its nearest cells; a link in one direction is enough, and -1 is no cell."""
    n, k = nearest.shape
    used = (np.arange(k) < np.bincount(labels)[labels, None] // SHARE) & (nearest >= 0)
    starts = np.append(0, used.sum(axis=1).cumsum())
    directed = sparse.csr_matrix((np.ones(starts[-1]), nearest[used], starts), shape=(n, n))
    return sparse.csr_matrix(directed.maximum(directed.T))


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
    both = sparse.block_diag([own, sparse.csr_matrix((1, 1))], format="csr") + steps.tocsr()
    distance = dijkstra(both, indices=n)[:n]
    reached = np.isfinite(distance)
    own, distance = own[reached][:, reached], distance[reached]
    _, part = connected_components(own, directed=False)
    order, sizes = np.lexsort((distance, part)), np.bincount(part)
    in_part = np.empty(len(order), dtype=np.int64)  # place of each cell in its part, nearest first
    in_part[order] = np.arange(len(order)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    rank = np.empty(len(order), dtype=np.int64)
    rank[np.argsort((in_part + 0.5) / sizes[part], kind="stable")] = np.arange(len(order))
    coo = own.tocoo()
    one_way = rank[coo.row] < rank[coo.col]
    starts, ends = (np.bincount(rank[end[one_way]], minlength=len(rank)) for end in (coo.row, coo.col))
    crossing = np.cumsum(starts - ends)  # links between the first i + 1 cells and the others
    low, high = (int(share * (len(rank) - 1)) for share in INSIDE)
    fewest = crossing[low : high + 1].min()
    return float(outwards.sum() / fewest) if fewest else np.inf


def sentence(names: Sequence[str], openness: np.ndarray, continuum: np.ndarray) -> str | None:
    """Say which clusters are cuts of one continuum, and which are too small to tell; None if all are separated."""
    groups = [[names[i] for i in np.flatnonzero(continuum == c).tolist()] for c in range(continuum.max(initial=-1) + 1)]
    groups = [group for group in groups if len(group) > 1]
    said = []
    if groups and len(groups[0]) == len(names):
        said.append(
            f"These {len(names)} clusters are cuts of one continuum: cuts through their inside cross "
            "no more neighbours than their borders do. Another number, or other borders, would fit equally well."
        )
    elif groups:
        text = "; ".join(f"{_clusters(group)} are cuts of one continuum" for group in groups)
        said.append(f"{text}: borders between them cross as many neighbours as cuts through their inside.")
    small = [names[i] for i in np.flatnonzero(np.isnan(openness)).tolist()]
    if small and len(names) > 1:
        verb, object_ = ("are", "they are") if len(small) > 1 else ("is", "it is")
        said.append(
            f"{_clusters(small)} {verb} too small to tell whether {object_} separated (below {MIN_CELLS} cells)."
        )
    return " ".join(f"{text[0].upper()}{text[1:]}" for text in said) or None


def _clusters(names: Sequence[str]) -> str:
    *most, last = names
    return f"clusters {', '.join(most)} and {last}" if most else f"cluster {last}"
