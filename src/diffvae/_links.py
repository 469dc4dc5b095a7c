"""Pairs of cells: the edges of a graph, those held out of it, and pairs without an edge."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy import sparse
from scipy.sparse.csgraph import minimum_spanning_tree

from diffvae._errors import DataError

BLOCK = 4096
"""Pairs whose expression is held at once."""
NEGATIVES = ("uniform", "degree", "within_type")


def undirected(graph: Any) -> sparse.csr_matrix:
    """Return a graph as a symmetric CSR matrix of ones without a diagonal; entries in one direction count for both."""
    links = abs(sparse.csr_matrix(graph, dtype=np.float64))  # so that opposite directions never cancel
    links = sparse.csr_matrix(links + links.T, dtype=np.float32)
    links.setdiag(0)
    links.eliminate_zeros()
    links.sort_indices()
    links.data[:] = 1
    return links


def edges_of(graph: sparse.csr_matrix) -> np.ndarray:
    """Return each edge of a symmetric graph once, smaller cell number first: edges x 2, sorted."""
    rows, columns = sparse.triu(graph, k=1, format="csr").nonzero()
    return np.stack([rows, columns], axis=1).astype(np.int64)


def graph_of(edges: np.ndarray, n_cells: int) -> sparse.csr_matrix:
    """Return the symmetric graph of an edge list."""
    ones = np.ones(len(edges), np.float32)
    return undirected(sparse.csr_matrix((ones, (edges[:, 0], edges[:, 1])), (n_cells, n_cells)))


def keys(pairs: np.ndarray, n_cells: int) -> np.ndarray:
    """Return one number per unordered pair."""
    return pairs.min(1) * np.int64(n_cells) + pairs.max(1)


def hold_out(
    edges: np.ndarray, n_cells: int, sizes: tuple[int, ...], rng: np.random.Generator, *, keep_connected: bool = False
) -> list[np.ndarray]:
    """Deal edges out at random: so many for each of the sizes, and the rest last.

    An edge is one row whatever its direction, so that both directions are on one side. With ``keep_connected`` the
    edges of a random spanning forest are never held out: the rest has as many components as the whole.
    """
    order = rng.permutation(len(edges))
    if keep_connected:
        weights = 1 + rng.random(len(edges))
        graph = sparse.csr_matrix((weights, (edges[:, 0], edges[:, 1])), (n_cells, n_cells))
        tree = keys(np.stack(minimum_spanning_tree(graph).nonzero(), axis=1).astype(np.int64), n_cells)
        free = ~np.isin(keys(edges, n_cells), tree)
        order = np.concatenate([order[free[order]], order[~free[order]]])
        if sum(sizes) > free.sum():
            raise DataError(
                f"{sum(sizes):,} edges are to be held out, but only {int(free.sum()):,} of {len(edges):,} can be "
                "without breaking the graph apart; hold out fewer, or leave keep_connected out."
            )
    cuts = np.cumsum(sizes)
    return [edges[np.sort(part)] for part in np.split(order, cuts)]


def sample_negatives(
    graph: sparse.csr_matrix,
    n: int,
    rng: np.random.Generator,
    *,
    kind: str = "uniform",
    codes: np.ndarray | None = None,
) -> np.ndarray:
    """Draw pairs of cells without an edge: n x 2, smaller number first, no pair twice.

    Kinds: ``"uniform"`` over all pairs; ``"degree"``, both ends drawn as the ends of edges are, so that popular cells
    are as frequent as among the linked; ``"within_type"``, both ends of one type (``codes``), types as frequent as
    among the ends of edges.
    """
    n_cells = graph.shape[0]
    present = edges_of(graph)
    taken = keys(present, n_cells)
    ends = present.ravel()
    members = None
    if kind == "within_type":
        assert codes is not None
        members = [np.flatnonzero(codes == c) for c in range(int(codes.max()) + 1)]
    found = np.zeros((0, 2), np.int64)
    for _ in range(60):
        draws = 2 * (n - len(found)) + 16
        if kind == "uniform":
            pairs = rng.integers(n_cells, size=(draws, 2))
        elif kind == "degree":
            pairs = rng.choice(ends, size=(draws, 2))
        else:
            assert members is not None
            assert codes is not None
            types = codes[rng.choice(ends, size=draws)]
            sizes = np.array([len(m) for m in members])
            places = (rng.random((draws, 2)) * sizes[types][:, None]).astype(np.int64)
            starts = np.concatenate([[0], np.cumsum(sizes)[:-1]])
            pairs = np.concatenate(members)[starts[types][:, None] + places]
        pairs = np.sort(pairs[pairs[:, 0] != pairs[:, 1]], axis=1)
        pairs = np.concatenate([found, pairs[~np.isin(keys(pairs, n_cells), taken)]])
        _, first = np.unique(keys(pairs, n_cells), return_index=True)
        found = pairs[np.sort(first)][:n]
        if len(found) == n:
            return found
    raise DataError(
        f"{n:,} pairs without an edge ({kind}) are wanted, but only {len(found):,} were found among {n_cells:,} cells "
        f"with {len(present):,} edges; ask for fewer, or for another kind of negatives."
    )


def inner_products(places: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    """Return z_i . z_j of pairs of cells, in double precision."""
    return np.einsum("pd,pd->p", places[pairs[:, 0]], places[pairs[:, 1]]).astype(np.float64)


def pearson(matrix: Any, pairs: np.ndarray) -> np.ndarray:
    """Return Pearson's correlation of the rows of pairs of cells, in blocks; 0 where a row doesn't vary."""
    parts = [np.zeros(0)]
    for part in np.array_split(pairs, -(-len(pairs) // BLOCK)) if len(pairs) else []:
        ends = (matrix[part[:, i]] for i in (0, 1))
        a, b = (e.toarray() if sparse.issparse(e) else np.asarray(e) for e in ends)
        a, b = (e - e.mean(1, keepdims=True, dtype=np.float64) for e in (a, b))
        length = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
        parts.append((a * b).sum(1) / np.maximum(length, 1e-12))
    return np.concatenate(parts)
