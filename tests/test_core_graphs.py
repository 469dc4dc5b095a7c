"""Graphs of cells: edges, held-out edges, pairs without an edge, and rewiring."""

import itertools
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse
from scipy.sparse.csgraph import connected_components

from diffvae._core import graphs
from diffvae._core.graphs import _repeated, _round, edges_of, rewired, undirected
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
        DataError, match=r"1 pairs without an edge \(uniform\) are needed, but only 0 were found among 6"
    ):
        graphs.sample_negatives(complete, 1, np.random.default_rng(0))
    path = graphs.graph_of(np.array([[0, 1], [1, 2]]), 3)
    assert graphs.sample_negatives(path, 1, np.random.default_rng(0)).tolist() == [[0, 2]]
    with pytest.raises(DataError, match=r"2 pairs .* only 1 were found among 3 cells with 2 edges; ask for fewer"):
        graphs.sample_negatives(path, 2, np.random.default_rng(0))
    alone = np.arange(3)  # no type has two cells
    with pytest.raises(DataError, match=r"\(within_type\) are needed, but only 0"):
        graphs.sample_negatives(path, 1, np.random.default_rng(0), kind="within_type", codes=alone)


def links_of(graph):
    return edges_of(undirected(graph))


def graph_from(edges, n_nodes):
    edges = np.asarray(edges)
    return sparse.csr_matrix((np.ones(len(edges)), edges.T), shape=(n_nodes, n_nodes))


def scale_free_graph(n_nodes, n_links, seed=0):
    rng = np.random.default_rng(seed)
    ends = (rng.pareto(2, size=n_nodes) + 1).astype(float)  # some nodes with many links
    return graph_from(rng.choice(n_nodes, size=(n_links, 2), p=ends / ends.sum()), n_nodes)


def as_set(edges):
    return {tuple(sorted(edge)) for edge in edges.tolist()}


@pytest.mark.parametrize(("n_nodes", "n_links"), [(30, 40), (40, 400), (500, 3001)])
def test_degrees_and_simplicity_are_kept(n_nodes, n_links):
    graph = scale_free_graph(n_nodes, n_links)
    original = links_of(graph)
    samples = list(rewired(graph, 10, rng=0))
    assert len(samples) == 10
    for edges in samples:
        assert edges.dtype == np.int64
        assert edges.shape == original.shape
        assert (edges[:, 0] < edges[:, 1]).all()
        assert len(as_set(edges)) == len(edges)
        degrees = np.bincount(edges.ravel(), minlength=n_nodes)
        assert (degrees == np.bincount(original.ravel(), minlength=n_nodes)).all()


class FixedDraws:
    """A generator whose draws are given."""

    def __init__(self, order, matchings):
        self.order, self.matchings = np.array(order), np.array(matchings)

    def permutation(self, _):
        return self.order

    def integers(self, _, size):
        assert len(self.matchings) == size
        return self.matchings


@pytest.mark.parametrize(("degrees", "n_graphs"), [((2, 2, 2, 1, 1), 7), ((3, 2, 2, 1, 1, 1), 15)])
def test_a_round_is_symmetric_and_reaches_every_graph(degrees, n_graphs):
    # then all graphs with these degrees are equally likely in the long run; here by going through every possible draw
    n_nodes, n_links = len(degrees), sum(degrees) // 2
    links = itertools.combinations(itertools.combinations(range(n_nodes), 2), n_links)
    candidates = [edges for edges in links if (np.bincount(np.ravel(edges), minlength=n_nodes) == degrees).all()]
    assert len(candidates) == n_graphs
    number = {frozenset(edges): i for i, edges in enumerate(candidates)}
    moves = np.zeros((n_graphs, n_graphs), dtype=int)
    draws = list(itertools.product(itertools.permutations(range(n_links)), itertools.product(range(3), repeat=2)))
    for i, edges in enumerate(candidates):
        for order, matchings in draws:
            ends = _round(*np.array(edges).T, n_nodes, FixedDraws(order, matchings))
            moves[i, number[frozenset(as_set(np.column_stack(ends)))]] += 1
    assert (moves == moves.T).all()
    assert (np.diag(moves) > 0).all()
    assert (np.linalg.matrix_power((moves > 0).astype(float), n_graphs) > 0).all()


def test_share_of_pairs_of_triangles_by_hand():
    # six nodes with two links each: 6! / 12 = 60 rings and 6! / (3! 3! 2) = 10 pairs of triangles
    ring = graph_from([(i, (i + 1) % 6) for i in range(6)], 6)
    seen = Counter(frozenset(as_set(edges)) for edges in rewired(ring, 1000, rng=0, sweeps=10))
    assert len(seen) == 70
    triangles = [c for c in itertools.combinations(range(6), 3) if 0 in c]
    n_triangles = sum(
        seen[frozenset([*itertools.combinations(one, 2), *itertools.combinations(sorted({*range(6)} - {*one}), 2)])]
        for one in triangles
    )
    assert n_triangles / 1000 == pytest.approx(1 / 7, abs=0.04)


@pytest.mark.parametrize(
    "edges",
    [[(0, 1)], [(0, i) for i in range(1, 6)], list(itertools.combinations(range(5), 2))],
    ids=["one link", "star", "complete"],
)
def test_where_nothing_can_be_swapped_the_graph_comes_back(edges):
    for sample in rewired(graph_from(edges, 6), 3, rng=0):
        assert as_set(sample) == set(edges)


def test_no_links_and_no_samples():
    assert [edges.shape for edges in rewired(sparse.csr_matrix((4, 4)), 2, rng=0)] == [(0, 2), (0, 2)]
    assert list(rewired(graph_from([(0, 1), (2, 3)], 4), 0, rng=0)) == []


def test_burn_in_forgets_the_graph():
    graph = scale_free_graph(400, 2000)
    original = as_set(links_of(graph))
    kept = [len(as_set(edges) & original) / len(original) for edges in rewired(graph, 30, rng=0)]
    long_after = next(rewired(graph, 1, rng=1, burn_in=1000))
    assert kept[0] == pytest.approx(len(as_set(long_after) & original) / len(original), abs=0.03)
    assert np.mean(kept[:10]) == pytest.approx(np.mean(kept[20:]), abs=0.01)


def test_same_seed_same_graphs():
    graph = scale_free_graph(50, 100)
    first, again, other = (list(rewired(graph, 3, rng=seed)) for seed in (0, 0, 1))
    assert all((a == b).all() for a, b in zip(first, again, strict=True))
    assert as_set(first[0]) != as_set(other[0])
    assert as_set(first[0]) != as_set(first[1])


def test_bad_numbers_of_rounds_are_refused():
    with pytest.raises(ValueError, match="sweeps is 0; it must be a whole number of 1 or more"):
        next(rewired(scale_free_graph(10, 10), 1, rng=0, sweeps=0))


@pytest.mark.parametrize("n_codes", [10**4, 2**60], ids=["packed", "too wide to pack"])
def test_repeated_by_counting(n_codes):
    codes = np.random.default_rng(0).integers(200, size=150) + n_codes - 200
    counts = Counter(codes.tolist())
    assert _repeated(codes, n_codes).tolist() == [counts[code] > 1 for code in codes.tolist()]
    assert _repeated(codes[:0], n_codes).tolist() == []
