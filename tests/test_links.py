"""Edges of a graph, those held out of it, and pairs without an edge."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse
from scipy.sparse.csgraph import connected_components

from diffvae._core import graphs
from diffvae.pp import DataError


def random_graph(n=60, density=0.08, seed=0):
    return graphs.undirected(np.triu(np.random.default_rng(seed).random((n, n)) < density, k=1))


def hubs(n=300, seed=0):
    """A graph in which the first tenth of the cells has five times as many edges as the others."""
    popularity = np.where(np.arange(n) < n // 10, 5, 1)
    p = 4 / n * np.outer(popularity, popularity)
    return graphs.undirected(np.triu(np.random.default_rng(seed).random((n, n)) < p, k=1))


def test_undirected_by_hand():
    # one direction counts for both, opposite values don't cancel, the diagonal and explicit zeros are nothing
    rows, columns, values = [0, 1, 2, 2, 3, 0], [1, 0, 1, 2, 0, 4], [1.5, -1.5, 0.2, 9, 0, -3]
    graph = sparse.csr_matrix((values, (rows, columns)), shape=(5, 5))
    before = graph.toarray()
    found = graphs.undirected(graph)
    assert graphs.edges_of(found).tolist() == [[0, 1], [0, 4], [1, 2]]
    assert (found != found.T).nnz == 0
    assert set(found.data) == {1}
    assert found.dtype == np.float32
    np.testing.assert_array_equal(graph.toarray(), before)


@pytest.mark.parametrize("dtype", [bool, np.int8, np.uint8, np.float64])
def test_undirected_takes_any_numbers(dtype):
    graph = np.zeros((3, 3), dtype)
    graph[0, 2] = 1
    expected = [[0, 0, 1], [0, 0, 0], [1, 0, 0]]
    for kind in (sparse.csr_matrix, sparse.csc_array, sparse.coo_matrix, np.asarray):
        np.testing.assert_array_equal(graphs.undirected(kind(graph)).toarray(), expected)


def test_edges_and_graph_are_inverse():
    graph = random_graph()
    edges = graphs.edges_of(graph)
    assert edges.dtype == np.int64
    assert (edges[:, 0] < edges[:, 1]).all()
    assert edges.tolist() == sorted(edges.tolist())
    assert (graphs.graph_of(edges, 60) != graph).nnz == 0
    assert graphs.graph_of(edges[:0], 60).shape == (60, 60)


def test_keys_do_not_know_a_direction():
    pairs = np.array([[0, 3], [3, 0], [1, 2], [70_000, 69_999]])
    found = graphs.keys(pairs, 100_000)
    assert found.tolist() == [3, 3, 100_002, 69_999 * 100_000 + 70_000]  # beyond 32 bits


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 10**6), st.integers(0, 20), st.integers(0, 20), st.booleans())
def test_held_out_edges_are_dealt_once(seed, a, b, keep_connected):
    graph = random_graph(seed=1)
    edges = graphs.edges_of(graph)
    parts = graphs.hold_out(edges, 60, (a, b), np.random.default_rng(seed), keep_connected=keep_connected)
    assert [len(part) for part in parts] == [a, b, len(edges) - a - b]
    assert sorted(map(tuple, np.concatenate(parts))) == list(map(tuple, edges))
    if keep_connected:
        assert connected_components(graphs.graph_of(parts[-1], 60))[0] == connected_components(graph)[0]


def test_as_many_edges_as_can_be_are_held_out_without_breaking_the_graph():
    two = sparse.block_diag([random_graph(20, 0.3, 1), random_graph(25, 0.3, 2), np.zeros((2, 2))])
    graph = graphs.undirected(two)
    edges, n_pieces = graphs.edges_of(graph), connected_components(graph)[0]
    n_free = len(edges) - (47 - n_pieces)
    held, rest = graphs.hold_out(edges, 47, (n_free,), np.random.default_rng(0), keep_connected=True)
    assert connected_components(graphs.graph_of(rest, 47))[0] == n_pieces
    assert len(held) == n_free
    with pytest.raises(DataError, match=f"{n_free + 1} edges are to be held out, but only {n_free} of {len(edges)}"):
        graphs.hold_out(edges, 47, (n_free + 1,), np.random.default_rng(0), keep_connected=True)


def test_without_keeping_it_connected_the_same_edges_break_it():
    ring = graphs.graph_of(np.stack([np.arange(30), (np.arange(30) + 1) % 30], axis=1), 30)
    _, rest = graphs.hold_out(graphs.edges_of(ring), 30, (10,), np.random.default_rng(0))
    assert connected_components(graphs.graph_of(rest, 30))[0] > 1


def codes(n):
    return np.arange(n) % 3


@pytest.mark.parametrize("kind", graphs.NEGATIVES)
def test_negatives_are_no_edges_and_none_is_there_twice(kind):
    graph = hubs()
    pairs = graphs.sample_negatives(graph, 2000, np.random.default_rng(0), kind=kind, codes=codes(300))
    assert pairs.shape == (2000, 2)
    assert (pairs[:, 0] < pairs[:, 1]).all()
    assert len(np.unique(graphs.keys(pairs, 300))) == 2000
    assert not np.isin(graphs.keys(pairs, 300), graphs.keys(graphs.edges_of(graph), 300)).any()
    again = graphs.sample_negatives(graph, 2000, np.random.default_rng(0), kind=kind, codes=codes(300))
    np.testing.assert_array_equal(pairs, again)


def test_uniform_negatives_are_uniform():
    graph, draws = random_graph(12, 0.2), 1000
    counts = np.zeros((12, 12))
    rng = np.random.default_rng(0)
    for _ in range(draws):
        i, j = graphs.sample_negatives(graph, 1, rng)[0]
        counts[i, j] += 1
    free = np.triu(graph.toarray() == 0, k=1)
    assert (counts[~free] == 0).all()
    expected = draws / free.sum()
    chi2 = ((counts[free] - expected) ** 2 / expected).sum()
    assert chi2 < free.sum() + 4 * (2 * free.sum()) ** 0.5


def test_degree_matched_negatives_have_the_degrees_of_the_ends_of_edges():
    graph = hubs(1000)
    degree = np.asarray(graph.sum(1)).ravel()
    edges = graphs.edges_of(graph)
    of_edges = degree[edges.ravel()].mean()
    matched, uniform = (
        degree[graphs.sample_negatives(graph, 1000, np.random.default_rng(0), kind=kind).ravel()].mean()
        for kind in ("degree", "uniform")
    )
    assert matched == pytest.approx(of_edges, rel=0.1)
    assert uniform < 0.7 * of_edges


def test_negatives_within_types_are_as_frequent_as_the_ends_of_edges():
    graph, types = hubs(), (np.arange(300) >= 100).astype(int)
    pairs = graphs.sample_negatives(graph, 1500, np.random.default_rng(0), kind="within_type", codes=types)
    assert (types[pairs[:, 0]] == types[pairs[:, 1]]).all()
    share = (types[graphs.edges_of(graph).ravel()] == 0).mean()
    assert (types[pairs[:, 0]] == 0).mean() == pytest.approx(share, abs=0.06)


def test_too_few_pairs_are_refused_with_a_sentence():
    complete = graphs.undirected(1 - np.eye(6))
    assert graphs.sample_negatives(complete, 0, np.random.default_rng(0)).shape == (0, 2)
    with pytest.raises(
        DataError, match=r"1 pairs without an edge \(uniform\) are wanted, but only 0 were found among 6"
    ):
        graphs.sample_negatives(complete, 1, np.random.default_rng(0))
    path = graphs.graph_of(np.array([[0, 1], [1, 2]]), 3)
    assert graphs.sample_negatives(path, 1, np.random.default_rng(0)).tolist() == [[0, 2]]
    with pytest.raises(DataError, match=r"2 pairs .* only 1 were found among 3 cells with 2 edges; ask for fewer"):
        graphs.sample_negatives(path, 2, np.random.default_rng(0))
    alone = np.arange(3)  # no type has two cells
    with pytest.raises(DataError, match=r"\(within_type\) are wanted, but only 0"):
        graphs.sample_negatives(path, 1, np.random.default_rng(0), kind="within_type", codes=alone)
